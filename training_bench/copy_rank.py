"""A rank that copies: on each host one, and on each machine one of them does it.

Two names may be of one machine, which then gets one copy; one folder may be of several machines, which is no local one.
"""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path
from typing import Any

from ..storage_bench.launching.launch import rank_main
from ..storage_bench.launching.ranks import Ranks, machine_id
from ..storage_bench.staging import StagingError, remove_stage, stage
from .made import make_above, remove_made
from .peers import all_told


def main(config: dict[str, Any], ranks: Ranks) -> dict[str, Any]:
    """Copy `source` to `target`, or remove what is there where `source` is None."""
    target = Path(config["target"])
    mine = machine_id()
    machines = [str(machine) for machine in all_told(ranks, mine)]
    leads = machines.index(mine) == ranks.rank
    if config["source"] is None:
        if leads:
            remove_stage(target)
            remove_made(target, maker=mine)
        return {"machine": mine}
    if leads:
        make_above(target, maker=mine)
    _require_own(target, mine, set(machines), ranks)
    if leads:
        stage(config["source"], target, progress=lambda _, done, total: ranks.report({"done": done, "total": total}))
    return {"machine": mine}


def _require_own(target: Path, mine: str, machines: set[str], ranks: Ranks) -> None:
    """Raise StagingError where another machine's mark is seen beside the target: the folder is not this machine's."""
    if len(machines) == 1:
        return
    mark = _mark(target, mine)
    mark.touch()
    ranks.barrier()
    shared = [other for other in machines - {mine} if _mark(target, other).exists()]
    ranks.barrier()
    with suppress(FileNotFoundError):  # two ranks of one machine
        mark.unlink()
    if shared:
        raise StagingError(
            f"{target.parent}: other hosts of this run see the same folder, and a copy there is no local one; name a "
            f"--local folder on a disk of each host"
        )


def _mark(target: Path, machine: str) -> Path:
    return target.with_name(f".{target.name}-{machine}")


if __name__ == "__main__":
    rank_main(main)
