"""The hand-scheduled kernels: each module writes one family of WebAssembly functions for given shapes."""
