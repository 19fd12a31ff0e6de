"""Sign + encrypt, open + verify. Nothing unverified leaves this package."""
