"""Storage benches: what a storage system delivers, measured with proof of the way the bytes took."""
