"""The transport: the only package that knows MQTT exists."""
