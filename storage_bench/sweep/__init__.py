"""Storage rate: time blocks of reads or writes at one point after another, interleaved, with evidence on each.

round r: the points in a random order
    a block:  evict or warm -> residency -> threads x queue_depth slots -> [ramp | measured window | drain]

points.py streams.py            what is measured; which reads a stream makes, in which order
ways.py mapped.py device.py     how one read is done: buffered, direct; mmap; kvikio into host or GPU memory
writing.py                      how one write is done, into files of its own
drive.py timeline.py            the threads of a block; every read of it, and the window inside
block.py proof.py               one time block; what the counters say of all blocks of a point
calibration.py refusals.py      what the harness can do by itself; what is refused before anything is read
run.py                          the page: points -> interleaved blocks -> results
knee.py adaptive.py             where the smallest load near the peak lies, and how it is found
client.py clients.py            the same sweep by several processes at once
recorded.py                     results -> points of a record
"""
