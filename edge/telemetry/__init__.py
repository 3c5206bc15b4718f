"""Readings of the machine, sent in batches."""
