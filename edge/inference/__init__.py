"""Inference on the device: requests in, exactly one answer each."""
