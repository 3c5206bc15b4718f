"""Keys that are replicated between the cloud and its devices: consistency levels, conflicts, tasks."""
