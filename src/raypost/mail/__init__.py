"""E-mail: building, parsing, submitting, fetching."""
