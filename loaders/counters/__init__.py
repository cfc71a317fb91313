"""Counters: what devices, mounts and networks say they have read or received, and which of them see a set of files.

    paths -> the mount that holds each (mounts.py) -> its file system -> the counter that decides, and others beside it

    block.py      sectors read by disks, through dm and md          exact; bounding under compressing file systems
    nfs.py        /proc/self/mountstats of the mount                exact
    lustre.py     bytes that object storage sent (osc)              exact
    network.py    network interfaces, InfiniBand ports, loopback    bounding
    nvidia_fs.py  what the GPUDirect Storage module read            beside another one
    layers.py     the files below an overlay, the disks of a btrfs
    choice.py     paths -> CounterSet

Every file root is an argument, so that all of it can be tried on samples.
"""
