"""iobench feeds accelerators from storage, and measures how many of them the storage can feed."""

__version__ = "0.1.0"
