"""Telemetry that arrives: stored once, acknowledged after the commit, with a ledger that proves it."""
