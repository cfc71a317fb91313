"""What changed since another run, as people read it."""

import re

from iobench.results.comparison.changes import change_label, change_tables, note_lines
from iobench.results.record import Change, Comparison, Difference
from iobench.results.report import render

SLOWER = Change(
    name="read_gbps",
    where="shard-replay, 4 threads",
    unit="GB/s",
    base=2.0,
    candidate=1.5,
    ratio=0.75,
    ci95=(0.741, 0.759),
    finding="worse",
)
MISSING = Change(
    name="stage_time_s", unit="s", base=None, candidate=3.0, finding="not comparable", reason="no copy in the base run"
)
COMPARISON = Comparison(
    base_run_id="20261101-100000-qualify-aaaa",
    base_started_at="2026-11-01T10:00:00+00:00",
    base_outcome="pass",
    changes=(SLOWER, MISSING),
    differences=(Difference(name="kernel", base="6.1", candidate="6.12"),),
    sentence="Since then: the read rate is worse.",
)


def test_a_change_is_a_row_with_both_figures_their_ratio_and_what_it_shows():
    changes, differences = change_tables(COMPARISON)
    texts = [[cell.text for cell in row] for row in changes.rows]
    assert texts[0] == [
        "read rate, shard-replay, 4 threads",
        "2 GB/s",
        "1.5 GB/s",
        "0.750 (0.741 to 0.759)",
        "worse",
    ]
    assert texts[1][1:] == ["not measured", "3 s", "", "not comparable"]
    assert changes.notes == ["no copy in the base run"]
    assert [[cell.text for cell in row] for row in differences.rows] == [["kernel", "6.1", "6.12"]]


def test_what_is_to_be_said_of_figures_is_a_line_for_each_reason():
    alike = MISSING.model_copy(update={"name": "write_s", "where": ""})
    assert note_lines([SLOWER, MISSING, alike]) == [
        f"{change_label(MISSING)}, {change_label(alike)}: no copy in the base run"
    ]


def test_nothing_that_changed_is_no_table():
    assert change_tables(COMPARISON.model_copy(update={"changes": (), "differences": ()})) == []


def test_the_page_tells_what_changed_only_where_there_is_an_earlier_run(qualified):
    page = render([qualified.model_copy(update={"history": COMPARISON})])
    assert "Since the last good run" in page
    assert COMPARISON.sentence in page
    assert re.search(r"0\.750 \(0\.741 to 0\.759\)", page)
    assert "Since the last good run" not in render([qualified])
