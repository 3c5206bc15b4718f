"""The promises of ``broker.bus``, held against every bus and against real brokers."""
