"""What is asked of a GPU: which interval meets a figure or misses it, and what is said of those nobody measured."""

from dataclasses import dataclass, field
from pathlib import Path

import pytest

from iobench.gpu_check.asked import ASKED, asked, outcome_of, rows
from iobench.gpu_check.part import Bench, parts_named
from iobench.gpu_check.parts import PARTS, run_of
from iobench.results.record import Metric, not_measured

GPU = Bench("cuda", Path(), Path(), Path(), 1.0, 1)
TWIN = Bench("cpu", Path(), Path(), Path(), 1.0, 1)


def metric(value, low, high):
    return Metric(value=value, unit="ours/theirs", ci95=(low, high), n=8)


@dataclass
class Told:
    """What is needed of a part's outcome."""

    requirements: tuple = ()
    unmeasured: dict = field(default_factory=dict)
    why_not: str = "part x skipped: no time"


@pytest.mark.parametrize(
    ("name", "found", "outcome"),
    [
        ("storage_to_gpu", metric(0.97, 0.95, 0.99), "met"),  # at least 0.95
        ("storage_to_gpu", metric(0.97, 0.94, 1.0), "not distinguishable"),
        ("storage_to_gpu", metric(0.9, 0.86, 0.94), "missed"),
        ("stall_of_injected_delay", metric(0.01, 0.0, 0.02), "met"),  # at most 0.02
        ("stall_of_injected_delay", metric(0.01, -0.01, 0.03), "not distinguishable"),
        ("stall_of_injected_delay", metric(0.05, 0.03, 0.07), "missed"),
        ("storage_to_gpu", Metric(value=2.0, unit="ours/theirs", n=1), "not distinguishable"),  # a block alone
        ("tests", Metric(value=0.0, unit="tests", n=1), "met"),  # a count is no sample
        ("tests", Metric(value=1.0, unit="tests", n=1), "missed"),
        ("route_kvikio", not_measured("true", "the witness sees no route"), "not measured"),
    ],
)
def test_the_whole_interval_decides(name, found, outcome):
    (requirement,) = asked(name).judge(found, GPU)
    assert outcome_of(requirement) == outcome
    assert requirement.ci95 == found.ci95
    assert requirement.reason == found.reason


def test_of_the_twin_nothing_is_required():
    assert asked("storage_to_gpu").judge(metric(0.1, 0.1, 0.1), TWIN) == ()


def test_every_figure_is_in_the_summary_beside_what_is_asked():
    judged = asked("storage_to_gpu").judge(metric(0.97, 0.96, 0.98), GPU)
    found = rows({"storage": Told(judged), "peers": Told((), {"raw_over_dali": "DALI is not installed"})})
    assert [row["name"] for row in found] == [each.name for each in ASKED]
    by_name = {row["name"]: row for row in found}
    storage = by_name["storage_to_gpu"]
    assert (storage["measured"], storage["ci95"], storage["outcome"]) == (0.97, [0.96, 0.98], "met")
    assert (storage["bound"], storage["required"]) == ("at least", 0.95)
    assert by_name["raw_over_dali"]["reason"] == "DALI is not installed"
    assert by_name["raw_over_torch"]["reason"] == "part x skipped: no time"
    assert by_name["jpeg_over_dali"]["reason"] == "part jpeg was not asked for"
    assert {by_name[name]["outcome"] for name in ("raw_over_dali", "raw_over_torch")} == {"not measured"}


def test_the_figures_are_those_that_this_project_has_set_itself():
    bounds = {each.name: (each.above, each.required) for each in ASKED}
    assert bounds["storage_to_gpu"] == (True, 0.95)
    assert (bounds["raw_over_dali"], bounds["raw_over_torch"]) == ((True, 2.0), (True, 4.0))
    assert bounds["warm_of_synthetic"] == (True, 0.98)
    assert bounds["jpeg_over_dali"] == (True, 1.0)
    assert bounds["stall_agreement_warm"] == bounds["stall_of_injected_delay"] == (False, 0.02)


class JudgedTwin(Bench):
    """A twin whose figures are held to what is asked of a GPU."""

    judged = True


def judged_by(name, bench):
    """Names of the figures that a part judges, with those that it says it cannot measure here."""
    (part,) = parts_named([name], PARTS)
    found = list(run_of(part)(bench))[-1]
    return {each.name for each in found.requirements} | set(found.unmeasured)


def figures_of(name):
    return {each.name for each in ASKED if each.part == name}


@pytest.mark.parametrize("name", ["storage", "stall"])
def test_a_part_judges_all_its_figures(name, page_set, tmp_path):
    bench = JudgedTwin("cpu", page_set.folder, page_set.folder, tmp_path, 0.2, 2)
    assert judged_by(name, bench) == figures_of(name) != set()


@pytest.mark.slow
@pytest.mark.parametrize("name", ["direct", "peers", "train", "jpeg", "graphs"])
def test_a_part_judges_all_its_figures_where_that_takes_longer(name, page_set, jpeg_folder, tmp_path):
    bench = JudgedTwin("cpu", page_set.folder, jpeg_folder, tmp_path, 0.2, 2)
    assert judged_by(name, bench) == figures_of(name) != set()


def test_each_figure_is_some_parts():
    assert {each.part for each in ASKED} <= {part.name for part in PARTS}
    assert len({each.name for each in ASKED}) == len(ASKED)
