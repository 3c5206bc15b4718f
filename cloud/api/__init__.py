"""The REST API: the fleet for programs that do not speak MQTT. It holds no state of its own."""
