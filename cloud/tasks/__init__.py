"""Inference that nobody waits for: submitted over HTTP, run when the fleet can, kept until it is fetched.

MQTT applications need none of this: a request on the broker is asynchronous as it is.
"""
