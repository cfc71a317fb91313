"""Encoded images on their way through a loader: which hop of it limits.

    | read -> | decode -> augment -> | (loop)      threads at work in each hop, on the average = seconds in it / seconds
    |         |                      ready         batches that wait at each line = seconds of waiting / seconds
    not measured: transfer                         batches stay in host memory, or go to a GPU in a stream of its own

Seconds are those of reader threads, waiting for a processor included; how many threads are in a hop on the average is
its occupancy, and how many batches wait before it that of its queue (Little's law).  An image is augmented by the
thread that has just decoded it: there is no queue between.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from ..results.quantities import counted
from ..results.record import Metric, not_measured
from .decoded import Decoded
from .encoded import EncodedImages
from .sample_format import SampleFormat

HOPS = ("read", "decode", "augment")
QUEUES = {"read_queue": "to be read", "decode_queue": "to be decoded", "ready": "for the loop"}
BUSY = 0.8  # from this share of the threads' time on they are what limits
WAITING = 0.1  # a loop that waits for less of its time is not held up


class ImageConfig(SampleFormat, EncodedImages):
    """What samples are, and what becomes of encoded ones."""


@dataclass(frozen=True, slots=True)
class ImageHops:
    """How many threads were in each hop on the average, of how many, and the share of time that the loop waited.

    `waiting` are the batches that lay in each of QUEUES on the average; `decoder` is who decoded.  Where samples are
    `made_there`, on the GPU that decodes, no thread is in augment.  Of several ranks all is each one's, on the average.
    """

    threads_in: dict[str, float]
    waiting: dict[str, float]
    num_threads: int
    waited: float
    decoder: str
    made_there: bool = False
    to_gpu: bool = False
    num_ranks: int = 1

    @property
    def limit(self) -> str:
        """The hop that limits: one of HOPS, `loop`, or `none` where neither threads nor loop are busy."""
        if self.waited < WAITING:
            return "loop"
        if sum(self.threads_in.values()) < BUSY * max(1, self.num_threads):
            return "none"
        return max(HOPS, key=lambda hop: self.threads_in[hop])

    @property
    def sentence(self) -> str:
        """Which hop limits, in words."""
        hops = [hop for hop in HOPS if hop != "augment" or not self.made_there]
        told = ", ".join(f"{self.threads_in[hop]:.2f} {hop}" for hop in hops)
        there = f"{counted(self.num_threads, 'thread')}{' of each rank' * (self.num_ranks > 1)}"
        threads = f"of {there} there are on the average {told}" if self.num_threads else told
        queues = ", ".join(f"{self.waiting[queue]:.1f} {words}" for queue, words in QUEUES.items())
        waited = f"the loop waits {self.waited:.0%} of its time"
        return f"{_WORDS[self.limit]}: {threads}; of the batches ahead wait {queues}; {waited} ({self.decoder})."

    @property
    def _no_transfer(self) -> str:
        """Why no thread is in transfer, and no batch waits for it."""
        if self.made_there:
            return "the decoder takes what it decodes to the GPU"
        return "copies go in a stream of the GPU, beside all threads" if self.to_gpu else "batches stay in host memory"

    def described(self) -> dict[str, Any]:
        """As the record keeps it, beside what Decoded says."""
        return {"limit": self.limit, "sentence": self.sentence}

    def metrics(self) -> dict[str, Metric]:
        """Threads at work in each hop, and batches that wait before it."""
        host = self._no_transfer
        augment = not_measured("threads", "the GPU makes samples of what it has decoded")
        return {
            **{f"{hop}_threads": Metric(value=self.threads_in[hop], unit="threads", n=1) for hop in HOPS},
            **({"augment_threads": augment} if self.made_there else {}),
            "transfer_threads": not_measured("threads", host),
            **{f"{queue}_batches": Metric(value=self.waiting[queue], unit="batches", n=1) for queue in QUEUES},
            "augment_queue_batches": not_measured("batches", "an image is augmented by the thread that decoded it"),
            "transfer_queue_batches": not_measured("batches", host),
        }


_WORDS = {
    "read": "storage-bound, not decode-bound",
    "decode": "decode-bound, not storage-bound",
    "augment": "augment-bound, not storage-bound",
    "loop": "bound by the loop behind the loader, not by storage or decode",
    "none": "bound by how far is read ahead: threads have time left, and the loop waits",
}


def hops_of(
    seconds: Mapping[str, float],
    decoded: Decoded,
    *,
    num_threads: int,
    wall_s: float,
    waited: float,
    to_gpu: bool = False,
) -> ImageHops:
    """The hops of what threads spent, and batches waited, in `wall_s` seconds (Tally.hop_seconds)."""
    return ImageHops(
        {hop: seconds[hop] / wall_s for hop in HOPS},
        {queue: seconds[queue] / wall_s for queue in QUEUES},
        num_threads,
        waited,
        decoded.decoder,
        made_there=decoded.made_there,
        to_gpu=to_gpu,
    )


def hops_in(
    metrics: Mapping[str, Metric], decoded: Decoded, *, num_threads: int, waited: float, num_ranks: int
) -> ImageHops | None:
    """The hops whose `metrics` these are; None where nothing was decoded."""
    known = values_in(metrics)
    if "decode_threads" not in known:
        return None
    threads = {hop: known.get(f"{hop}_threads", 0.0) for hop in HOPS}
    waiting = {queue: known.get(f"{queue}_batches", 0.0) for queue in QUEUES}
    return ImageHops(
        threads, waiting, num_threads, waited, decoded.decoder, made_there=decoded.made_there, num_ranks=num_ranks
    )


def values_in(metrics: Mapping[str, Metric]) -> dict[str, float]:
    """What is known of hops among these metrics, by name."""
    names = (*(f"{hop}_threads" for hop in HOPS), *(f"{queue}_batches" for queue in QUEUES))
    return {name: value for name in names if name in metrics and (value := metrics[name].value) is not None}


def unit_of_hop(name: str) -> str:
    """The unit of one of these metrics."""
    return "threads" if name.endswith("_threads") else "batches"
