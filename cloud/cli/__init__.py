"""The ``shoal`` command: everything an operator does, from one place."""
