"""The embedded mail relay for demo and tests. Sees only ciphertext."""
