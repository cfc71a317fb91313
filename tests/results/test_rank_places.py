"""Where ranks stood, as a page shows it."""

import pytest

from iobench.results.rank_places import client_lines, place_table
from iobench.results.report import render

PLACED = [
    {
        "rank": rank,
        "host": "node7",
        "cores": cores,
        "node": rank,
        "reason": f"cores {cores} of NUMA node {rank}",
        "threads": {cores or "0-7": 9},
        "readers": readers,
        "readers_reason": "where their rank stands",
    }
    for rank, cores, readers in ((0, "0-3", {"0-3": 2, "0-1": 1}), (1, None, {}))
]


@pytest.fixture
def placed(qualified):
    told = {
        "placement": "auto",
        "placed": PLACED,
        "clients": [{"host": "node7", "ranks": [0, 1]}, {"host": "node8", "ranks": [2]}],
        "storage_way": "the server of this nfs4 mount is reached through ib0",
    }
    return qualified.model_copy(update={"workload": {**qualified.workload, **told}})


def column(table, head):
    (found,) = [column for column in table.columns if column.head == head]
    return [cell.text for cell in found.cells]


def test_each_rank_is_shown_with_its_cores_and_where_its_threads_were(placed):
    table = place_table(placed)
    assert column(table, "cores of its own") == ["0-3", "none"]
    assert column(table, "threads on cores") == ["9 on 0-3", "9 on 0-7"]
    assert column(table, "readers on cores") == ["2 on 0-3; 1 on 0-1", "not measured"]


def test_who_shared_a_client_is_said_in_sentences(placed):
    assert client_lines(placed) == (
        "2 ranks on node7 read through its one file system client.",
        "1 rank on node8 read through its one file system client.",
        "On the host that started them, the server of this nfs4 mount is reached through ib0.",
    )


def test_the_page_shows_that_once_and_not_as_plain_facts(placed):
    page = render([placed])
    assert "Cores and clients of the ranks" in page
    assert page.count("2 ranks on node7 read through") == 1
    assert "placed 0" not in page


@pytest.mark.parametrize("workload", [{}, {"placed": "auto", "clients": 3}, {"placed": [], "clients": []}])
def test_a_record_without_ranks_or_of_another_make_shows_nothing(qualified, workload):
    record = qualified.model_copy(update={"workload": workload})
    assert place_table(record) is None
    assert client_lines(record) == ()
