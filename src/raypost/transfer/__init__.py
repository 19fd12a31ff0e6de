"""The transfer protocol as state machines without I/O. Time is an argument."""
