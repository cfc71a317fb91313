"""Routes follow from findings: open where everything was seen, closed by what is missing, open to doubt otherwise."""

import pytest

from iobench.storage_bench.doctor.finding import Finding
from iobench.storage_bench.doctor.routes import NEEDS, find_routes

ALL = {need for needs in NEEDS.values() for need in needs} | {"IOMMU", "ACS"}


def routes_with(**changed):
    """The routes of a machine that has everything, but for what is named (blanks as underscores)."""
    findings = {name: Finding("any", name, True, "fine") for name in ALL}
    for word, available in changed.items():
        name = word.replace("_", " ")
        assert name in ALL
        findings[name] = Finding("any", name, available, f"{name} as it is", f"mend {name}")
    return {route.name: route for route in find_routes(findings)}


def closed(routes):
    return {name for name, route in routes.items() if route.available is False}


def test_with_everything_every_route_is_open():
    assert {route.available for route in routes_with().values()} == {True}


@pytest.mark.parametrize(
    ("missing", "names"),
    [
        ("GPU", {"bounce", "gds", "p2pdma"}),
        ("nvidia-fs", {"gds"}),
        ("P2PDMA", {"p2pdma"}),
        ("kvikio", {"gds", "p2pdma"}),
        ("obstore", {"remote"}),
        ("engine direct", {"host/direct", "gds", "p2pdma"}),
        ("engine mmap", {"mmap"}),
        ("GDS support", {"gds"}),
        ("P2PDMA support", {"p2pdma"}),
        ("file system", {"host/buffered", "host/direct", "mmap", "bounce"}),
    ],
)
def test_what_is_missing_closes_the_routes_that_need_it_with_its_reason_and_way_out(missing, names):
    routes = routes_with(**{missing.replace(" ", "_"): False})
    assert closed(routes) == names
    for name in names:
        assert f"{missing} as it is" in routes[name].reason
        assert routes[name].advice == f"mend {missing}"


def test_what_is_not_known_leaves_a_route_open_to_doubt():
    routes = routes_with(GDS_support=None)
    assert routes["gds"].available is None
    assert routes["gds"].reason == "depends on GDS support (GDS support as it is)"
    assert routes["host/direct"].available is True


def test_everything_that_is_missing_is_named_and_doubts_are_not_mixed_with_it():
    route = routes_with(GPU=False, CUDA=False, GDS_support=None)["gds"]
    assert (route.available, route.reason) == (False, "missing: GPU (GPU as it is), CUDA")


def test_an_iommu_that_translates_puts_direct_routes_in_doubt_and_no_others():
    routes = routes_with(IOMMU=None)
    assert {name for name, route in routes.items() if route.available is None} == {"gds", "p2pdma"}
    assert routes["gds"].advice == "mend IOMMU"
