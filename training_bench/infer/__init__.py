"""Validation inference: batches answered at once or as they arrive, latency, queues, and the rate within a bound."""
