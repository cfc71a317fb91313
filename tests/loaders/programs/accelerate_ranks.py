"""What accelerate makes of a prepared loader, on one of several ranks.

python accelerate_ranks.py DATA FOLDER        FOLDER/rank-R.json; FOLDER/saved-R.pt
"""

import json
import sys
from functools import partial
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator, DataLoaderConfiguration, skip_first_batches

from iobench.loaders import DataLoader, ShardSet, prepare


def epoch(accelerator: Accelerator, loader: Any) -> dict[str, Any]:
    """The labels of each batch, those gathered over all ranks, and at which batches accelerate saw the end."""
    state = accelerator.gradient_state
    seen, gathered, ends = [], [], []
    for _, labels in loader:
        seen.append(labels.tolist())
        ends.append(state.end_of_dataloader)
        gathered += accelerator.gather_for_metrics(labels).tolist()
    return {"seen": seen, "gathered": gathered, "ends": ends, "left": state.in_dataloader}


def main(data: Path, folder: Path) -> None:
    accelerator = Accelerator(cpu=True)
    shards = ShardSet.open(data, shuffle_mode="blocks", seed=2)
    shards.block_records = 4
    loader = prepare(accelerator, DataLoader(shards, batch_size=7, shuffle=True, num_workers=1))
    result = {"first": epoch(accelerator, loader), "second": epoch(accelerator, loader)}
    result["length"], result["class"] = len(loader), type(loader).__mro__[1].__module__
    result["same"] = accelerator.prepare(loader) is loader

    batches = iter(loader)
    for _ in range(4):
        next(batches)
    accelerator.save_state(str(folder / "checkpoint"))
    batches.close()
    third = epoch(accelerator, loader)["seen"]  # the fourth, so that load_state has something to undo
    accelerator.load_state(str(folder / "checkpoint"))
    rest = epoch(accelerator, loader)["seen"]
    loader.set_epoch(2)
    whole = epoch(accelerator, loader)["seen"]
    result["resumed"] = rest == whole[4:] and third != whole
    loader.set_epoch(2)
    skipped = [labels.tolist() for _, labels in skip_first_batches(loader, 3)]
    result["skipped"] = skipped == whole[3:]

    exact = Accelerator(cpu=True, dataloader_config=DataLoaderConfiguration(even_batches=False, split_batches=True))
    for name, way in (("exact", partial(prepare, exact)), ("plain", exact.prepare)):
        generator = torch.Generator().manual_seed(exact.process_index)  # accelerate makes them agree
        mine = way(DataLoader(shards, batch_size=6, shuffle=True, generator=generator))
        seen = [labels.tolist() for _, labels in mine]
        result[name] = {"seen": seen, "class": type(mine).__name__}
    (folder / f"rank-{accelerator.process_index}.json").write_text(json.dumps(result))


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
