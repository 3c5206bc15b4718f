"""Which devices exist, and what the cloud may honestly say of each."""
