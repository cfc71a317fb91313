"""The grid of nodes x accelerators x source: trials, what is kept of them, and a point a cell."""
