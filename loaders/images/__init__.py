"""Encoded images to samples of one size: decoders, on the host and on a device, and who runs them."""
