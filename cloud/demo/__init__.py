"""The main job in half a minute: a fleet, a model, real inference, and a device that dies on the way."""
