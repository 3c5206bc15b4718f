"""The cloud side: everything that runs beside the broker and not on a device."""
