"""An epoch that saves its place at every batch until somebody kills it.

    python killed_epoch.py DATA FOLDER KIND SEED_OF_TORCH

FOLDER/state-N.pt after the Nth batch, complete whenever it is there.
"""

import sys
import time
from pathlib import Path
from typing import Any

import torch
from torch.utils.data import RandomSampler

from iobench.loaders import DataLoader, ShardSet, transforms


def new_loader(data: Path, kind: str, *, num_workers: int) -> DataLoader[Any]:
    """`planned`: the set's own order; `sampler`: an order that torch's global generator seeds.

    `augmented`: encoded images in the set's order, each cut and turned over by numbers of its own.
    """
    transform = transforms.ImageNetTrain(24) if kind == "augmented" else None
    shards = ShardSet.open(data, shuffle_mode="records", seed=6, transform=transform)
    if kind != "sampler":
        return DataLoader(shards, batch_size=4, shuffle=True, num_workers=num_workers)
    return DataLoader(shards, batch_size=4, sampler=RandomSampler(shards), num_workers=num_workers)


def main(data: Path, folder: Path, kind: str, seed: int) -> None:
    torch.manual_seed(seed)
    loader = new_loader(data, kind, num_workers=2)
    for number, _ in enumerate(loader, start=1):
        torch.save(loader.state_dict(), folder / "unfinished")
        (folder / "unfinished").rename(folder / f"state-{number}.pt")
        time.sleep(0.01)


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]), sys.argv[3], int(sys.argv[4]))
