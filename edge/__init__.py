"""The device: runs WebAssembly, learns, works offline, and meets the cloud only on the broker."""
