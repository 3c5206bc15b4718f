"""The changes, oldest first. A released one is never edited; write the next."""
