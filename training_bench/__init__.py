"""Training benches: how long accelerators wait for data, measured in real Horovod ranks."""
