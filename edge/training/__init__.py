"""Federated learning on the device: trains in WebAssembly when a round asks, and sends what it learned."""
