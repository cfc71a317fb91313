"""Real training: a network that learns on the data, on CPU or CUDA, and its hops from memory to storage."""
