"""What lies in a shard, byte by byte, and what an index needs to know of it; one module a format."""
