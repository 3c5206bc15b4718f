"""Fleets in one thread: the real cores of cloud and devices on a virtual clock and a fake network."""
