"""The vocabulary both sides agree on. Pure: no I/O, no clock, no randomness, no logging."""
