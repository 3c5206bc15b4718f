"""Flower beside ours: the same rounds of almost nothing, in its simulation and in its deployment.

environment   its own virtual environment, and the variables that keep it from calling home
app/          the Flower application: a strategy that writes down each round, a client that adds noise
simulate      runs there: the simulation engine
aggregate     runs there: Flower's weighted mean of seeded arrays, for ours to be compared with
deployment    a superlink and supernodes as processes, bytes counted by the proxy
"""
