"""Desired state: which models each node is to hold, as standing rules that outlive every restart."""
