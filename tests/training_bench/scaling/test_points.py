"""Which cell the record of a grid leads with."""

import pytest

from iobench.results.record import Metric, Point, not_measured
from iobench.training_bench.scaling.points import leading_cell


def cell(source, nodes, gpus, rate):
    metric = not_measured("images/s", "failed") if rate is None else Metric(value=rate, unit="images/s")
    params = {"stage": "scale", "source": source, "nodes": nodes, "gpus_per_node": gpus, "num_ranks": nodes * gpus}
    return Point(params=params, metrics={"images_per_s": metric})


CELLS = (cell("synthetic", 1, 1, 100.0), cell("synthetic", 2, 2, 400.0), cell("direct", 1, 1, 90.0))


@pytest.mark.parametrize(
    ("more", "leads"),
    [
        ((cell("direct", 1, 4, 200.0), cell("direct", 2, 2, 190.0)), ("direct", 2, 2)),  # of one size, the most nodes
        ((cell("direct", 1, 2, 60.0),), ("direct", 1, 2)),  # more ranks, although they do less together
        ((cell("direct", 2, 2, None), cell("staged", 2, 2, 390.0)), ("direct", 1, 1)),  # the largest that was measured
        ((cell("staged", 2, 2, 390.0),), ("direct", 1, 1)),  # the storage in place before a copy of it
    ],
)
def test_a_grid_leads_with_the_largest_cell_of_the_storage(more, leads):
    params = leading_cell((*CELLS, *more)).params
    assert (params["source"], params["nodes"], params["gpus_per_node"]) == leads


def test_a_copy_leads_where_nothing_was_read_in_place_and_synthetic_batches_where_nothing_was_read():
    synthetic = CELLS[:2]
    assert leading_cell((*synthetic, cell("staged", 1, 2, 150.0))).params["source"] == "staged"
    assert leading_cell(synthetic).params["num_ranks"] == 4
