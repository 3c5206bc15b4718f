"""The device's own life: presence, birth, heartbeats, commands, going out of service."""
