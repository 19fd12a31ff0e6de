"""Runs a named function on untrusted bytes in a worker process under memory, CPU and time limits."""
