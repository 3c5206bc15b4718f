"""Where the device's data may be: the last of three checks, and a witness of the cloud's audit log."""
