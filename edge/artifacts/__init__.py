"""Models on a device: fetched by chunk, verified, stored, loaded; the old one answers until then."""
