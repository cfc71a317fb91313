"""What ranks that train do together: average gradients and figures, and begin with the same weights.

One process alone does nothing of it; with more the work is Horovod's.
"""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterator
from contextlib import AbstractContextManager
from typing import TYPE_CHECKING, Any

from ..storage_bench.launching.ranks import PeerLostError, Ranks

if TYPE_CHECKING:
    import torch
    from torch import Tensor, nn


class Alone:
    """One process: its gradients are the average."""

    def distribute(self, optimizer: torch.optim.Optimizer, model: nn.Module) -> Any:
        """The optimiser, as it is."""
        del model
        return optimizer

    def broadcast(self, model: nn.Module, optimizer: Any) -> None:
        """Nobody else is there."""

    def broadcast_bytes(self, data: bytes | None) -> bytes:
        """What was read."""
        return data or b""

    def synchronize(self, optimizer: Any) -> None:
        """The gradients are here."""

    def stepping(self, optimizer: Any) -> AbstractContextManager[Any]:
        """Around the optimiser's step."""
        del optimizer
        return contextlib.nullcontext()

    def mean(self, values: Tensor, name: str) -> Tensor:
        """The values."""
        del name
        return values

    def average_buffers(self, model: nn.Module) -> None:
        """They are one rank's own."""

    def together(self) -> AbstractContextManager[Any]:
        """Around all that ranks do together."""
        return contextlib.nullcontext()


class HorovodPeers(Alone):
    """Ranks that Horovod has initialised."""

    def __init__(self) -> None:
        import horovod.torch as hvd

        self._hvd = hvd

    def distribute(self, optimizer: torch.optim.Optimizer, model: nn.Module) -> Any:
        """The optimiser whose gradients are averaged, each as soon as backward has made it."""
        return self._hvd.DistributedOptimizer(optimizer, named_parameters=model.named_parameters())

    def broadcast(self, model: nn.Module, optimizer: Any) -> None:
        """Rank 0's weights, buffers and momentum, to all.

        Horovod's broadcast_optimizer_state makes a step with zero gradients where there is no momentum yet, and with
        weight decay that step moves the weights; so what there is is sent, and nothing is made.
        """
        self._hvd.broadcast_parameters(model.state_dict(), root_rank=0)
        for name, parameter in model.named_parameters():
            for kind, value in optimizer.state.get(parameter, {}).items():
                if value is not None:
                    self._hvd.broadcast_(value, root_rank=0, name=f"state.{kind}.{name}")

    def broadcast_bytes(self, data: bytes | None) -> bytes:
        """Rank 0's bytes, on every rank: only it needs to see the file.  They are not unpickled on the way."""
        import torch

        size = int(self._hvd.broadcast(torch.tensor([len(data or b"")]), root_rank=0, name="bytes.size").item())
        mine = torch.frombuffer(bytearray(data), dtype=torch.uint8) if data else torch.zeros(size, dtype=torch.uint8)
        return bytes(self._hvd.broadcast(mine, root_rank=0, name="bytes").numpy().tobytes())

    def synchronize(self, optimizer: Any) -> None:
        """Wait for the averages that backward did not hide."""
        optimizer.synchronize()

    def stepping(self, optimizer: Any) -> AbstractContextManager[Any]:
        """Around the optimiser's step, which must not wait again."""
        return optimizer.skip_synchronize()  # type: ignore[no-any-return]

    def mean(self, values: Tensor, name: str) -> Tensor:
        """The mean of all ranks' values, element by element."""
        return self._hvd.allreduce(values, name=name, op=self._hvd.Average)  # type: ignore[no-any-return]

    def average_buffers(self, model: nn.Module) -> None:
        """Running means and variances of batch norm: each rank has seen other images."""
        for name, buffer in model.named_buffers():
            if buffer.is_floating_point():
                self._hvd.allreduce_(buffer, name=f"buffer.{name}", op=self._hvd.Average)

    @contextlib.contextmanager
    def together(self) -> Iterator[None]:
        """Tell a rank that went away, which is a consequence, from what this one has to say itself."""
        try:
            yield
        except self._hvd.HorovodInternalError as error:
            raise PeerLostError("another rank went away in the middle of training") from error


def peers_of(ranks: Ranks) -> Alone:
    """What ranks do together, where there is more than one."""
    return Alone() if ranks.size == 1 else HorovodPeers()


def all_told(ranks: Ranks, mine: Any) -> list[Any]:
    """Every rank's value, of what JSON holds, in rank order on every rank."""
    gathered, peers = ranks.gather(mine), peers_of(ranks)
    with peers.together():
        told = peers.broadcast_bytes(None if gathered is None else json.dumps(gathered).encode())
    found: list[Any] = json.loads(told)
    return found
