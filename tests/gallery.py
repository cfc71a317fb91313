"""The reports of all reference runs as pages, and pictures of them by a real browser: `make gallery`.

    results/reference/*.json  ->  build/gallery/*.html          every run
                              ->  docs/pictures/NAME.png        what SHOTS names, for the README

A picture is taken again by running this again.  It stops with an error where a page logs anything, wants anything from
anywhere, or a picture is too heavy for a repository.
"""

import sys
from dataclasses import dataclass
from pathlib import Path

from browser import CHROMIUM, Browser, chromium

from iobench.results.record import read_record
from iobench.results.report import write_report

ROOT = Path(__file__).resolve().parents[1]
RECORDS, PAGES, PICTURES = ROOT / "results" / "reference", ROOT / "build" / "gallery", ROOT / "docs" / "pictures"
MOST_BYTES = 300_000


@dataclass(frozen=True)
class Shot:
    """One picture: of which run's page, of which element of it, how wide, in which theme."""

    name: str
    record: str
    element: str
    width: int = 1000
    dark: bool = False
    most_height: int = 1200


SHOTS = (
    Shot("qualify", "qualify", "article", most_height=1500),
    Shot("scaling", "scale", "[id$='-scaling']", width=900, most_height=1100),
    Shot("phone", "qualify", "article", width=390, dark=True, most_height=1400),
    Shot("ranks", "learning-2-cores", "[id$='-ranks'] figure", width=900),
    Shot("loaders", "loaders-2-cores", "[id$='-loader'] figure:nth-of-type(2)", width=900),
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
        return max([take(browser, shot, pages) for shot in SHOTS], default=0)


def take(browser: Browser, shot: Shot, pages: dict[str, Path]) -> int:
    """Take one picture; 1 where the page or the picture is not fit to be shown, and says why."""
    chosen = [page for name, page in pages.items() if name == shot.record or name.startswith(f"{shot.record}-")]
    if not chosen:
        print(f"{shot.name}: no results/reference/{shot.record}*.json yet")
        return 0
    browser.open(chosen[0], width=shot.width, dark=shot.dark)
    target = browser.picture(PICTURES / f"{shot.name}.png", of=shot.element, most_height=shot.most_height)
    print(f"{target.relative_to(ROOT)}  {target.stat().st_size / 1e3:.0f} kB")
    faults = [*browser.logged, *browser.asked]
    if target.stat().st_size > MOST_BYTES:
        faults.append(f"{target} is over {MOST_BYTES / 1e3:.0f} kB; take less of the page")
    print(*faults, sep="\n", end="\n" * bool(faults), file=sys.stderr)
    return 1 if faults else 0


if __name__ == "__main__":
    sys.exit(main())
