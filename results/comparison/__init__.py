"""One run held against another: what changed, which way is better, and what a limit says of it."""
