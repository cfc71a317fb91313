"""Where a loader's order comes from: the generators and samplers behind it, and the settings it depends on."""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING, Any

from torch.utils.data import IterableDataset

from .shards import ShardSet

if TYPE_CHECKING:
    from .dataloader import DataLoader


def samplers_of(loader: DataLoader[Any]) -> dict[str, Any]:
    """What the order comes from, by name: `generator`, `batch_sampler` and, where there is one behind it, `sampler`."""
    batches = loader._index_sampler
    behind = getattr(batches, "sampler", None) if loader._plan is None else None
    found = {"generator": loader.generator, "batch_sampler": batches, "sampler": behind}
    return {name: one for name, one in found.items() if one is not None}


def draws_globally(loader: DataLoader[Any]) -> bool:
    """Whether a sampler may draw from torch's global generator."""
    return loader._plan is None and not isinstance(loader.dataset, IterableDataset)


def settings_of(loader: DataLoader[Any]) -> dict[str, Any]:
    """What a place in an epoch depends on, as numbers and words."""
    plan, batches = loader._plan, loader._index_sampler
    found = {
        "data": _name_of(loader.dataset),
        "batch_size": getattr(batches, "batch_size", None),
        "drop_last": getattr(batches, "drop_last", loader.drop_last),
        "sampler": type(getattr(batches, "sampler", batches)).__name__,
    }
    drawn = _seed_of_samples(loader.dataset)
    if plan is None:
        return found if drawn is None else found | {"seed": drawn}
    seeded = plan.mode not in ("off", "generator")
    return found | {
        "mode": plan.mode,
        "seed": plan.shards.seed if seeded else drawn,
        "block_records": plan.shards.block_records if plan.mode == "blocks" else None,
        "world_size": plan.world_size,
        "even_batches": plan.even_batches,
    }


def _seed_of_samples(dataset: Any) -> int | None:
    """What the set's own samples are drawn from, whoever gives their order; None where nothing is drawn."""
    drawn = isinstance(dataset, ShardSet) and dataset.decoding is not None and dataset.decoding.draws
    return dataset.seed if drawn else None


def _name_of(dataset: Any) -> str:
    """What data these are, as far as an order of it is concerned."""
    if isinstance(dataset, ShardSet):
        shards = zip(dataset.index.stamps, dataset.index.shard_sizes, strict=True)
        rows = "".join(f"{stamp.name} {size}\n" for stamp, size in shards)
        digest = hashlib.blake2b(rows.encode("utf-8", "surrogateescape"), digest_size=8)  # names need not be UTF-8
        return f"{len(dataset)} records, {digest.hexdigest()}"
    name = type(dataset).__name__
    if isinstance(dataset, IterableDataset):
        return name
    try:
        return f"{name} of {len(dataset)}"
    except (TypeError, NotImplementedError):  # torch, too, goes without where a batch_sampler is given
        return name
