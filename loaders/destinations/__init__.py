"""Destinations: where batches end up that are to lie in a device's memory, and how they come there.

device.py         what is needed of a device: memory, streams, events, copies; one narrow protocol
torch_cuda.py     an NVIDIA GPU, through torch
choice.py         `device=` of a shard set -> a device, host memory, or why it cannot be
driver_memory.py  GPU memory straight from the driver, for readers that register it
memory.py         pools of page-locked host buffers and of device buffers, reused in stream order
destination.py    a batch's way: expected, sent, received, given back
views.py          bytes on the device -> tensors
"""
