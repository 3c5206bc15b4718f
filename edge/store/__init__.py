"""The device's own memory: a few small tables in TinyDB that survive power loss at any moment."""
