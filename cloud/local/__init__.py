"""A whole fleet on one machine: broker, cloud and devices, each its own OS process."""
