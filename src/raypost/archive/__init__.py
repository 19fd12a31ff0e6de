"""What a site knows: PostgreSQL and the blobs; one transaction each."""
