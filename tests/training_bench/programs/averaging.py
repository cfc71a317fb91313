"""Ranks that train one small network three ways on the same batches: Horovod, alone on whole batches, and torch's DDP.

Each returns how far the weights of the other two are from Horovod's, and its own weights' sum.
"""

import os
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy
from torch.nn.parallel import DistributedDataParallel

from iobench.storage_bench.launching.launch import rank_main
from iobench.storage_bench.launching.ranks import Ranks, SingleRank
from iobench.training_bench.peers import Alone, HorovodPeers
from iobench.training_bench.real.pixels import Pixels
from iobench.training_bench.real.plan import RealPlan
from iobench.training_bench.real.ranks import Training

CPU = torch.device("cpu")
_KEPT: list[nn.Module] = []


class Feed:
    """The rank's part of the same whole batches on every rank."""

    delivered_bytes = payload_bytes = 0

    def __init__(self, plan: RealPlan, rank: int) -> None:
        self._mine = slice(rank * plan.batch_size, (rank + 1) * plan.batch_size)
        self._whole = plan.global_batch

    def batches(self) -> Iterator[tuple[Tensor, Tensor]]:
        random = torch.Generator().manual_seed(5)
        while True:
            images = torch.randint(0, 256, (self._whole, 3, 8, 8), dtype=torch.uint8, generator=random)
            labels = torch.randint(0, 10, (self._whole,), generator=random)
            yield images[self._mine], labels[self._mine]

    def state_dict(self) -> dict[str, Any]:
        return {}

    def counters(self) -> dict[str, int]:
        return {}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        del state


def network(seed: int) -> nn.Sequential:
    torch.manual_seed(seed)
    return nn.Sequential(
        nn.Conv2d(3, 8, 3), nn.ReLU(), nn.Conv2d(8, 16, 3, stride=2), nn.ReLU(), nn.Flatten(), nn.Linear(64, 10)
    )


def trained(plan: RealPlan, ranks: Ranks, peers: Alone, seed: int) -> dict[str, Tensor]:
    run = Training(network(seed), Feed(plan, ranks.rank), plan=plan, ranks=ranks, peers=peers, device=CPU)
    run.loop(run.new_clock())
    return run.model.state_dict()


def trained_by_torch(plan: RealPlan, rank: int, meeting: str) -> dict[str, Tensor]:
    torch.distributed.init_process_group("gloo", init_method=f"file://{meeting}", rank=rank, world_size=plan.num_ranks)
    model = DistributedDataParallel(network(0))
    optimizer = torch.optim.SGD(model.parameters(), lr=1.0, momentum=plan.momentum, weight_decay=plan.weight_decay)
    prepare, batches = Pixels(plan, CPU), Feed(plan, rank).batches()
    for step in range(plan.steps):
        optimizer.param_groups[0]["lr"] = plan.learning_rate_at(step)
        images, labels = prepare(*next(batches))
        optimizer.zero_grad()
        cross_entropy(model(images), labels).backward()
        optimizer.step()
    _KEPT.append(model)  # taken apart while the other rank leaves, it may wait for ever: it goes with the process
    return model.module.state_dict()


def apart(mine: dict[str, Tensor], other: dict[str, Tensor]) -> float:
    return max(float((mine[name] - other[name]).abs().max()) for name in mine)


def main(config: dict[str, Any], ranks: Ranks) -> dict[str, Any]:
    os.environ.setdefault("GLOO_SOCKET_IFNAME", "lo")
    torch.set_num_threads(1)
    plan = RealPlan.model_validate(config)
    mine = trained(plan, ranks, HorovodPeers(), seed=ranks.rank)  # rank 0's weights must reach the others
    by_torch = trained_by_torch(plan, ranks.rank, config["data"])
    whole = plan.model_copy(update={"num_ranks": 1, "batch_size": plan.global_batch})
    alone = trained(whole, SingleRank(), Alone(), seed=0)
    return {
        "from_alone": apart(mine, alone),
        "from_torch": apart(mine, by_torch),
        "moved": apart(mine, network(0).state_dict()),
        "sum": sum(float(value.double().sum()) for value in mine.values()),
    }


if __name__ == "__main__":
    rank_main(main)
