"""The page in a real browser: every picture is drawn, nothing is logged or asked for, everybody can read it."""

import importlib.util
import json
import re
import shutil
import subprocess
import time
from itertools import pairwise
from pathlib import Path
from random import Random

import pytest

from iobench.results.record import Metric, RankReport, RunRecord, read_record, write_record
from iobench.results.report import render, write_report

ROOT = Path(__file__).resolve().parents[2]
AXE_VERSION = "4.14.1"
AXE = ROOT / "build" / "axe" / "node_modules" / "axe-core"
AXE_CALL = """axe.run().then(found => found.violations
    .filter(each => ["serious", "critical"].includes(each.impact))
    .map(each => each.id + ": " + each.nodes[0].html.slice(0, 200)))"""
SEEN = """[...document.querySelectorAll('.plot > div')].filter(each => each.getClientRects().length
    && each.querySelector('path, rect')).map(each => each.className)"""
# Words of a picture that reach over its edge.
LOST_WORDS = """[...document.querySelectorAll('.plot svg')].filter(svg => svg.getClientRects().length).flatMap(svg => {
    const rim = svg.getBoundingClientRect();
    return [...svg.querySelectorAll('text')].filter(text => {
        const box = text.getBoundingClientRect();
        return box.left < rim.left - 1 || box.right > rim.right + 1 || box.bottom > rim.bottom + 1;
    }).map(text => text.textContent);
})"""


@pytest.fixture(scope="module")
def browser():
    spec = importlib.util.spec_from_file_location("browser", ROOT / "tests" / "browser.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    if module.CHROMIUM is None:
        pytest.skip("no chromium is installed (Debian: chromium)")
    with module.chromium() as found:
        yield found


@pytest.fixture
def page(everything, grid, tmp_path):
    """A page with every picture there is, of three runs."""
    path = tmp_path / "report.html"
    write_report([everything, grid("old"), grid("new", 2.0)], path)
    return path


@pytest.mark.parametrize(("width", "shown"), [(1400, "wide"), (390, "narrow")])
def test_every_picture_is_seen_and_the_page_logs_nothing_and_asks_for_nothing(browser, page, width, shown):
    browser.open(page, width=width)
    assert browser.ask("document.querySelectorAll('.plot').length") == 19 + 4 * 3  # of both grids together, too
    seen = browser.ask(SEEN)
    assert seen == [shown] * 31
    assert browser.ask(LOST_WORDS) == []
    assert browser.logged == []
    assert browser.asked == []
    assert browser.ask("document.documentElement.scrollWidth") == width


def test_a_page_with_every_picture_is_light_enough_to_be_mailed(page):
    assert page.stat().st_size < 1e6


@pytest.mark.slow
def test_a_page_is_loaded_in_two_seconds(browser, page):
    browser.open(page)
    assert browser.ask("performance.getEntriesByType('navigation')[0].duration") < 2000


def test_paper_has_every_table_open_and_the_wide_pictures(browser, page):
    browser.open(page, width=390)
    browser.call("Emulation.setEmulatedMedia", media="print")
    browser.ask("dispatchEvent(new Event('beforeprint'))")
    assert browser.ask("document.querySelectorAll('details:not([open])').length") == 0
    assert browser.ask(SEEN) == ["wide"] * 31
    browser.ask("dispatchEvent(new Event('afterprint'))")
    browser.call("Emulation.setEmulatedMedia", media="")
    assert browser.ask("document.querySelectorAll('details[open]').length") == 0


def test_the_driver_sees_what_a_page_logs_and_asks_for(browser, tmp_path):
    page = tmp_path / "bad.html"
    page.write_text("<img src='http://127.0.0.1:9/x.png'><script>console.error('oh')</script>")
    browser.open(page)
    assert browser.asked == ["http://127.0.0.1:9/x.png"]
    assert any("oh" in line for line in browser.logged)


def test_letters_and_lines_follow_the_theme(browser, page):
    ink = "getComputedStyle(document.querySelector('.plot text')).fill"
    paper = "getComputedStyle(document.body).backgroundColor"
    browser.open(page)
    light = browser.ask(ink), browser.ask(paper)
    browser.open(page, dark=True)
    dark = browser.ask(ink), browser.ask(paper)
    assert light != dark
    assert light[0] != light[1]
    assert dark[0] != dark[1]


def test_headings_go_down_one_level_at_a_time(browser, page):
    browser.open(page)
    levels = browser.ask("[...document.querySelectorAll('h1,h2,h3')].map(each => +each.tagName[1])")
    assert levels[0] == 1
    assert all(after <= before + 1 for before, after in pairwise(levels))


@pytest.fixture(scope="module")
def axe():
    """The script of axe-core, fetched once by npm where it is not there in its pinned version."""
    if not _has_axe():
        npm = shutil.which("npm")
        if npm is None:
            pytest.skip(f"no axe-core {AXE_VERSION} in build/axe and no npm to fetch it (Debian: npm)")
        line = [npm, "install", "--prefix", str(ROOT / "build" / "axe"), "--no-audit", "--no-fund", "--ignore-scripts"]
        answer = subprocess.run(
            [*line, f"axe-core@{AXE_VERSION}"], capture_output=True, text=True, timeout=120, check=False
        )
        if answer.returncode or not _has_axe():
            pytest.skip(f"npm did not fetch axe-core {AXE_VERSION}: {answer.stderr.strip()[-200:]}")
    return (AXE / "axe.min.js").read_text(encoding="utf-8")


def _has_axe():
    package = AXE / "package.json"
    return package.exists() and json.loads(package.read_text(encoding="utf-8"))["version"] == AXE_VERSION


@pytest.mark.slow
@pytest.mark.parametrize(("width", "dark"), [(1400, False), (1400, True), (390, False), (390, True)])
def test_axe_finds_nothing_serious(browser, axe, page, width, dark):
    browser.open(page, width=width, dark=dark)
    browser.ask(axe + "; 0")
    assert browser.ask(AXE_CALL) == []
    browser.ask("document.querySelector('.plot').removeAttribute('aria-label')")
    assert any("role-img-alt" in each for each in browser.ask(AXE_CALL))  # it does look


def large(record: RunRecord) -> RunRecord:
    """10,000 points of all kinds, and 512 ranks in one of them."""
    points = [point.model_copy(update={"ranks": ()}) for point in record.points if point.params["stage"] != "stage"]
    many = [points[place % len(points)] for place in range(9_999)]
    trained = next(point for point in record.points if point.ranks)
    first = trained.ranks[0]
    ranks = tuple(
        RankReport(rank=k, local_rank=k % 8, pid=k, host=f"n{k // 8}", metrics=first.metrics) for k in range(512)
    )
    return record.model_copy(update={"points": (*many, trained.model_copy(update={"ranks": ranks}))})


def test_a_large_record_stays_a_page_that_can_be_mailed_and_says_what_it_left_out(everything, tmp_path):
    record = large(everything)
    assert (len(record.points), len(record.points[-1].ranks)) == (10_000, 512)
    text = render([record])
    assert len(text.encode()) < 10e6
    assert "at equal distances; the others are in the record" in text


@pytest.mark.slow
def test_a_large_record_is_rendered_in_five_seconds(everything, tmp_path):
    write_record(large(everything), tmp_path)
    record = read_record(tmp_path)
    start = time.process_time()
    render([record])
    assert time.process_time() - start < 5


NEVER_MEASURED = (0.0, 5e-324, 1e-300, 1.2e308, -1e300, -5.0, None)
NEVER_SET = (None, "", "x" * 300, -1, 0, 10**30, True, "{}", 1e300, "a\nb")


def damaged(record: RunRecord, seed: int) -> RunRecord:
    """The record with some figures and parameters that no run would have, and some missing."""
    random, points = Random(seed), []
    for point in record.points:
        metrics = {name: metric for name, metric in point.metrics.items() if random.random() > 0.1}
        for name in [name for name in metrics if random.random() < 0.15]:
            value = random.choice(NEVER_MEASURED)
            metrics[name] = Metric(value=value, unit=metrics[name].unit, reason="why" if value is None else None)
        params = {name: value for name, value in point.params.items() if name == "stage" or random.random() > 0.03}
        params |= {name: random.choice(NEVER_SET) for name in params if name != "stage" and random.random() < 0.08}
        points.append(point.model_copy(update={"metrics": metrics, "params": params}))
    kept = tuple(point for point in points if random.random() > 0.3)
    workload = {name: random.choice(NEVER_SET) if random.random() < 0.1 else v for name, v in record.workload.items()}
    return record.model_copy(update={"points": kept, "workload": workload})


@pytest.mark.parametrize("seed", range(12))
def test_figures_that_no_run_would_have_break_no_page(everything, seed):
    text = render([damaged(everything, seed)])
    assert re.findall(r'(?:x|y|width|height|d|transform|viewBox)="[^"]*(?:nan|inf)', text) == []


@pytest.mark.parametrize("width", [1400, 390])
def test_figures_that_no_run_would_have_neither_leave_their_picture_nor_widen_the_page(
    browser, everything, tmp_path, width
):
    for seed in range(4):
        path = tmp_path / "report.html"
        write_report([damaged(everything, seed)], path)
        browser.open(path, width=width)
        assert browser.ask(LOST_WORDS) == []
        assert browser.ask("document.documentElement.scrollWidth") == width
        assert browser.logged == []
