"""Federated learning on the cloud's side: rounds, the gate for updates, and how they become a new model."""
