"""The reports of all reference runs as pages, and pictures of them by a real browser: `make gallery`.

    results/reference/*.json  ->  build/gallery/*.html          every run
                              ->  docs/pictures/NAME.png        what SHOTS names
                              ->  README.md                     these pictures with their captions, between two marks

A picture is taken again by running this again.  A run that is not there yet has no picture, and the README does not
name it.  This stops with an error where a page logs anything, wants anything from anywhere, or a picture is too heavy
for a repository.
"""

import sys
from dataclasses import dataclass
from pathlib import Path

from browser import CHROMIUM, Browser, chromium

from iobench.results.record import read_record
from iobench.results.report import write_report

ROOT = Path(__file__).resolve().parents[1]
RECORDS, PAGES, PICTURES = ROOT / "results" / "reference", ROOT / "build" / "gallery", ROOT / "docs" / "pictures"
README = ROOT / "README.md"
BEGIN, END = "<!-- pictures, written by make gallery -->", "<!-- end of pictures -->"
MOST_BYTES = 300_000


@dataclass(frozen=True)
class Shot:
    """One picture: its caption, of which run's page, of which element of it, how wide, in which theme."""

    name: str
    caption: str
    record: str
    element: str
    width: int = 1000
    dark: bool = False
    most_height: int = 1200

    @property
    def path(self) -> Path:
        """Where the picture is kept."""
        return PICTURES / f"{self.name}.png"


SHOTS = (
    Shot("qualify", "The verdict of a storage, and where a step's time goes", "qualify", "article", most_height=1400),
    Shot("scaling", "How a grid of nodes and accelerators scales", "scale", "[id$='-scaling']", 900, most_height=1000),
    Shot("infer", "Inference of several networks", "infer", "[id$='-steps'] figure", 900),
    Shot(
        "loaders",
        "What loaders hand over on two cores",
        "loaders-2-cores",
        "[id$='-loader'] figure:nth-of-type(2)",
        900,
    ),
    Shot(
        "ranks",
        "Two ranks that train ResNet-18 on the CPU: the last one is named, and what kept it",
        "learning-2-cores",
        "[id$='-ranks'] figure",
        900,
    ),
    Shot("phone", "The same page on a phone, in the dark", "qualify", "article", 390, dark=True, most_height=1200),
)


def main() -> int:
    """Write every page, then the pictures whose records are there."""
    PAGES.mkdir(parents=True, exist_ok=True)
    pages = {path.stem: PAGES / f"{path.stem}.html" for path in sorted(RECORDS.glob("*.json"))}
    for name, page in pages.items():
        write_report([read_record(RECORDS / f"{name}.json")], page)
        print(f"{page.relative_to(ROOT)}  {page.stat().st_size / 1e6:.1f} MB")
    if CHROMIUM is None:
        print("no pictures: chromium is not installed (apt-get install chromium)", file=sys.stderr)
        return 4
    PICTURES.mkdir(parents=True, exist_ok=True)
    with chromium() as browser:
        fault = max([take(browser, shot, pages) for shot in SHOTS], default=0)
    README.write_text(shown_in(README.read_text(encoding="utf-8")), encoding="utf-8")
    return fault


def shown_in(text: str) -> str:
    """The README with the pictures that are there between its two marks."""
    before, rest = text.split(BEGIN)
    _, after = rest.split(END)
    pictures = [f"![{shot.caption}]({shot.path.relative_to(ROOT)})" for shot in SHOTS if shot.path.exists()]
    return "\n\n".join([before + BEGIN, *pictures, END + after])


def take(browser: Browser, shot: Shot, pages: dict[str, Path]) -> int:
    """Take one picture; 1 where the page or the picture is not fit to be shown, and says why."""
    chosen = [page for name, page in pages.items() if name == shot.record or name.startswith(f"{shot.record}-")]
    if not chosen:
        print(f"{shot.name}: no results/reference/{shot.record}*.json yet")
        return 0
    browser.open(chosen[0], width=shot.width, dark=shot.dark)
    target = browser.picture(shot.path, of=shot.element, most_height=shot.most_height)
    print(f"{target.relative_to(ROOT)}  {target.stat().st_size / 1e3:.0f} kB")
    faults = [*browser.logged, *browser.asked]
    if target.stat().st_size > MOST_BYTES:
        faults.append(f"{target} is over {MOST_BYTES / 1e3:.0f} kB; take less of the page")
    print(*faults, sep="\n", end="\n" * bool(faults), file=sys.stderr)
    return 1 if faults else 0


if __name__ == "__main__":
    sys.exit(main())
