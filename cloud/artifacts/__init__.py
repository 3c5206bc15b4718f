"""The cloud's artifacts: uploads, the signed catalog, and the sender of chunks."""
