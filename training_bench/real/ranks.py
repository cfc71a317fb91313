"""Real training, the rank's side: one network, one optimiser, one loop.

    asked |- data wait -| got |- forward, backward -| computed |- exposed allreduce -| met |- optimiser -| updated

Horovod averages a gradient as soon as backward has made it; what backward did not hide is waited for before the step.
Nothing in the loop asks the device for a value: losses stay there until a checkpoint, or the end.
"""

from __future__ import annotations

import os
import resource
from collections.abc import Callable, Collection, Iterator
from contextlib import closing
from pathlib import Path
from time import perf_counter
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from ...loaders.evidence import moved, process_read_bytes
from ...loaders.nearness import address_of_gpu, near_device
from ...loaders.traced import Recorder
from ...storage_bench.decoded import Decoded
from ...storage_bench.launching.launch import rank_main
from ...storage_bench.launching.ranks import Ranks
from ...storage_bench.placement import ReadersSeen
from .. import saved
from ..energy import EnergyMeter, energy_counters
from ..feed import Feed, open_feed
from ..images import as_json
from ..models import build_model, model_info
from ..peers import Alone, peers_of
from ..ranges import shown
from ..timeline import TRAINING_PARTS, Marks, StepClock, StreamClock
from ..tracing import PARTS, recorded
from .graphs import Capture, CudaCapture, GraphedSteps
from .pixels import Pixels, evaluate
from .plan import RealPlan

DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}
REPORTS = 50


def main(config: dict[str, Any], ranks: Ranks) -> dict[str, Any]:
    """Train as planned; this rank's clock of every step, and the losses, which all ranks agree on."""
    plan = RealPlan.model_validate(config)
    device, peers = device_of(plan, ranks), peers_of(ranks)
    feed = open_feed(plan, rank=ranks.rank, device=device)
    recorder = Recorder(plan.trace_spans) if plan.trace_spans else None
    if recorder is not None:
        feed.trace(recorder)
    with peers.together():
        run = open_training(plan, feed, ranks=ranks, peers=peers, device=device)
        if plan.resume:
            run.resume()
        clock, energy = run.new_clock(), energy_meter(ranks, device)
        before, own = feed.counters(), process_read_bytes()
        ranks.barrier()  # nobody reads before all have looked at the counters, and none looks before all have read
        energy.start()
        begun = perf_counter()
        run.loop(clock)
        read_s, hop_s = perf_counter() - begun, feed.hop_seconds()
        taken = energy.stop()
        ranks.barrier()
        went, own_after = moved(before, feed.counters()), process_read_bytes()
        validation, validated = run.validate()
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    return {
        "first_step": run.first_step,
        "steps_ns": (clock.host if isinstance(clock, StreamClock) else clock).times.tolist(),
        "stream_ns": clock.times.tolist() if isinstance(clock, StreamClock) else None,
        "losses": run.losses[:, 0].tolist(),
        "accuracies": run.losses[:, 1].tolist(),
        "energy": taken,
        "validation": validation,
        "read_s": read_s,
        "hop_s": hop_s,
        "images": as_json((feed.decoded(), validated)),
        "delivered_bytes": feed.delivered_bytes,
        "payload_bytes": feed.payload_bytes,
        "counters": went,
        "process_bytes": None if own is None or own_after is None else own_after - own,
        "peak_rss_bytes": peak,
        "placement": near_device(str(device), wanted=plan.placement == "auto").reason,
        "readers": run.readers.told(),
        "parameters": sum(parameter.numel() for parameter in run.model.parameters()),
        **recorded(recorder),
    }


def device_of(plan: RealPlan, ranks: Ranks, *, engines: Collection[str] = ()) -> torch.device:
    """Where this rank computes: a GPU of its own, which becomes torch's current one.

    Where kvikio reads, as one of `engines` may, on a stream of its own: each of kvikio's reads waits for the default
    one, and nothing would be read ahead of the steps that were given to it.
    """
    device = own_device(plan.device, ranks.local_rank)
    if device.type == "cuda" and "kvikio" in (plan.engine, *engines):
        torch.cuda.set_stream(torch.cuda.Stream(device))  # type: ignore[no-untyped-call]
    return device


def own_device(kind: str, local_rank: int) -> torch.device:
    """The rank's device; events, streams and NCCL go by torch's current GPU, so it is made that."""
    if kind != "cuda":
        return torch.device("cpu")
    torch.cuda.set_device(local_rank)
    return torch.device("cuda", local_rank)


def open_training(plan: RealPlan, feed: Feed, *, ranks: Ranks, peers: Alone, device: torch.device) -> Training:
    """The plan's network before its first step, the same on every rank."""
    torch.set_num_threads(min(plan.threads, len(os.sched_getaffinity(0))))  # those of its own, if it was given any
    torch.manual_seed(plan.seed)
    model = build_model(plan.model, num_classes=plan.num_classes, aux_heads=plan.aux_heads)
    return Training(model, feed, plan=plan, ranks=ranks, peers=peers, device=device)


def energy_meter(ranks: Ranks, device: torch.device) -> EnergyMeter:
    """Each rank reads its GPU, and one of each host the host's packages."""
    if device.type == "cuda":
        address = address_of_gpu(torch.cuda.current_device())
        return EnergyMeter(energy_counters(packages=ranks.local_rank == 0, gpus=(address,) if address else ()))
    return EnergyMeter(energy_counters() if ranks.local_rank == 0 else None)


class Training:
    """A network in training: it, its optimiser, its feed, and how far they are."""

    def __init__(
        self,
        model: nn.Module,
        feed: Feed,
        *,
        plan: RealPlan,
        ranks: Ranks,
        peers: Alone,
        device: torch.device,
        capture: Capture | None = None,
    ) -> None:
        self._plan, self._ranks, self._peers, self._device = plan, ranks, peers, device
        layout = torch.channels_last if plan.channels_last else torch.contiguous_format
        self.model = model.to(device=device, memory_format=layout)  # type: ignore[call-overload]  # torch's stubs
        self._forward = torch.compile(self.model) if plan.compile else self.model
        sgd = torch.optim.SGD(
            self.model.parameters(), lr=plan.learning_rate, momentum=plan.momentum, weight_decay=plan.weight_decay
        )
        self.optimizer = peers.distribute(sgd, self.model)
        self._scaler = torch.amp.GradScaler(device.type, enabled=plan.precision == "fp16")
        peers.broadcast(self.model, self.optimizer)
        self.feed = feed
        self.prepare = Pixels(plan, device)
        self._graph = GraphedSteps(self.compute, capture or CudaCapture(), device=device) if plan.cuda_graphs else None
        self.first_step = 0
        self.losses = torch.zeros(plan.steps, 2, device=device)  # loss and share of right answers, on the device
        self._agreed = 0
        self.readers = ReadersSeen()

    def new_clock(self, num_steps: int | None = None) -> StepClock | StreamClock:
        """A clock for so many steps, or those that are left."""
        count = self._plan.steps - self.first_step if num_steps is None else num_steps
        return StepClock(count, TRAINING_PARTS) if self._device.type == "cpu" else StreamClock.of_cuda(count)

    def loop(self, clock: Marks) -> None:
        """All steps; after each `checkpoint_steps`, and at the end, ranks agree and rank 0 saves."""
        total = self._plan.steps
        save_each, report_each = self._plan.checkpoint_steps or total, max(1, total // REPORTS)
        done = self.first_step
        with closing(self.feed.batches()) as batches:  # type: ignore[type-var]  # a generator
            while done < total:
                stop = min((done // each + 1) * each for each in (save_each, report_each, total))
                self.make_steps(batches, range(done, stop), clock)
                if done == self.first_step:
                    self.readers.look()  # once, which takes no time from most steps
                done = stop
                if done % save_each == 0 or done == total:
                    self.save(done)
                if done % report_each == 0:
                    self._ranks.report({"step": done, "steps": total})

    def make_steps(self, batches: Iterator[tuple[Tensor, Tensor]], steps: range, clock: Marks) -> None:
        """The measured loop: these steps on the next of the batches; profilers see its parts as a trace shows them."""
        cuda = self._device.type == "cuda"
        with shown(clock, parts=PARTS, first_step=steps.start, cuda=cuda) as marks:
            self._make(batches, steps, marks.mark)

    def _make(self, batches: Iterator[tuple[Tensor, Tensor]], steps: range, mark: Callable[[], int]) -> None:
        plan, rank = self._plan, self._ranks.rank
        optimizer, scaler, peers, graph = self.optimizer, self._scaler, self._peers, self._graph
        compute, losses = graph or self.compute, self.losses
        self.model.train()
        for step in steps:
            mark()
            images, labels = next(batches)
            mark()
            torch.manual_seed(plan.seed_at(rank, step))
            outcome = compute(images, self.prepare.labels(labels))
            del images, labels  # their buffer goes round behind what was asked of the device so far
            mark()
            peers.synchronize(optimizer)
            mark()
            for group in optimizer.param_groups:
                group["lr"] = plan.learning_rate_at(step)
            with peers.stepping(optimizer):
                scaler.step(optimizer)
            scaler.update()
            if graph is None or not graph.captured:
                optimizer.zero_grad()
            losses[step] = outcome
            mark()

    def compute(self, images: Tensor, labels: Tensor) -> Tensor:
        """Forward and backward of a batch on the device: its loss and share of right answers, (2); adds gradients."""
        plan = self._plan
        x = self.prepare.pixels(images)
        with torch.autocast(self._device.type, dtype=DTYPES[plan.precision], enabled=plan.precision != "fp32"):
            loss, logits = self.loss(self._forward(x), labels)
        self._scaler.scale(loss).backward()  # type: ignore[no-untyped-call]  # torch's
        return torch.stack([loss.detach().float(), (logits.argmax(1) == labels).float().mean()])

    def loss(self, answers: Tensor | tuple[Tensor, ...], labels: Tensor) -> tuple[Tensor, Tensor]:
        """The loss, with each auxiliary head's share, and the network's own logits."""
        if isinstance(answers, Tensor):
            return cross_entropy(answers, labels), answers
        weight = model_info(self._plan.model).aux_weight
        heads = [cross_entropy(head, labels) for head in answers[1:]]
        return cross_entropy(answers[0], labels) + weight * sum(heads, torch.zeros(())), answers[0]

    def save(self, step: int) -> None:
        """After `step` steps: agree on the losses and on what batch norm has seen; rank 0 writes the checkpoint."""
        plan = self._plan
        self._peers.average_buffers(self.model)
        self.losses[self._agreed : step] = self._peers.mean(self.losses[self._agreed : step], "losses")
        self._agreed = step
        if plan.checkpoint_folder is None or self._ranks.rank != 0:
            return
        document = {
            "settings": plan.settings,
            "step": step,
            "model": self.model.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "scaler": self._scaler.state_dict(),
            "feed": self.feed.state_dict(),
            "losses": self.losses[:step].clone(),
        }
        saved.save(Path(plan.checkpoint_folder), document)

    def resume(self) -> None:
        """Go on from the last checkpoint, which rank 0 reads for all."""
        plan = self._plan
        folder = Path(plan.checkpoint_folder or "")
        path = saved.last(folder) if self._ranks.rank == 0 else folder
        data = self._peers.broadcast_bytes(path.read_bytes() if self._ranks.rank == 0 else None)
        found = saved.parse(data, path=path, settings=plan.settings)
        self.model.load_state_dict(found["model"])
        self.optimizer.load_state_dict(found["optimizer"])
        self._scaler.load_state_dict(found["scaler"])
        self.feed.load_state_dict(found["feed"])
        self.first_step = self._agreed = found["step"]
        self.losses[: self.first_step] = found["losses"]
        self._peers.broadcast(self.model, self.optimizer)

    def validate(self) -> tuple[dict[str, float] | None, Decoded | None]:
        """Loss and share of right answers over all images of the validation data, and who decoded them, if any."""
        if self._plan.validate_on is None:
            return None, None
        return evaluate(self.model, self.prepare, self._plan, ranks=self._ranks, peers=self._peers)


if __name__ == "__main__":
    rank_main(main)
