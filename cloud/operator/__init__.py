"""What operators ask of the cloud itself: to read its view, and to pass a command on to a node."""
