"""Runs one example of loaders/CONTRACT.md as one rank, and writes down what its `step` was given.

    python example.py NAME FOLDER [encoded]        in a folder where the data set is `data`

With `encoded` the set is opened with a transform that cuts its images at random, and else as in the example.

FOLDER/rank-R.json: {"steps": [digests of the step's images, ...], "loader": class, "sampler": class, ...}
"""

import hashlib
import json
import os
import re
import sys
from pathlib import Path
from typing import Any

CONTRACT = Path(__file__).parents[3] / "loaders" / "CONTRACT.md"


def code_of(name: str) -> str:
    section = CONTRACT.read_text().split(f"\n### {name}\n", 1)[1]
    found = re.search(r"```python\n(.*?)```", section, re.DOTALL)
    assert found is not None
    return found[1]


def with_transform(code: str) -> str:
    """The example over encoded images, with a class for each."""
    opened, transform = 'ShardSet.open("data"', "transforms.ImageNetTrain(24, dtype=__import__('torch').uint8)"
    assert opened in code
    code = code.replace(opened, f"{opened}, transform={transform}").replace("Linear(3, 10)", "Linear(3, 130)")
    return f"from iobench.loaders import transforms\n{code}"


def run(name: str, *, encoded: bool) -> dict[str, Any]:
    """What the example's loader gave."""
    steps: list[list[str]] = []

    def step(images: Any, labels: Any) -> None:
        assert len(images) == len(labels)
        pixels = images.permute(0, 2, 3, 1).contiguous().numpy()
        steps.append([hashlib.blake2b(image.tobytes(), digest_size=16).hexdigest() for image in pixels])

    names: dict[str, Any] = {"step": step, "__name__": "example"}
    code = with_transform(code_of(name)) if encoded else code_of(name)
    exec(compile(code, f"{CONTRACT.name}: {name}", "exec"), names)
    loader = names["trainer"].train_dataloader if "trainer" in names else names["loader"]
    tally = getattr(loader, "tally", None)
    return {
        "steps": steps,
        "loader": f"{type(loader).__module__}.{type(loader).__name__}",
        "sampler": type(loader.sampler).__name__,
        "num_workers": loader.num_workers,
        "records_by_fast_road": tally and tally.num_records,
        "batches": len(loader),
    }


if __name__ == "__main__":
    rank = os.environ.get("RANK") or os.environ.get("LOCAL_RANK") or "0"
    result = run(sys.argv[1], encoded="encoded" in sys.argv[3:])
    (Path(sys.argv[2]) / f"rank-{rank}.json").write_text(json.dumps(result))
