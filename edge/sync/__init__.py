"""The device's replica: read and written with no network, brought together with the cloud's when there is."""
