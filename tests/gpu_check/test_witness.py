"""The second witness of a route: what read calls returned, and what nvidia-fs moved."""

import os

import pytest

from iobench.gpu_check.witness import Seen, look, named_truly, route_between

MIB = 1 << 20


@pytest.mark.parametrize(
    ("called", "direct", "into_gpu", "route"),
    [
        (100 * MIB, None, False, "host"),
        (100 * MIB, None, True, "bounce"),
        (91 * MIB, 0, True, "bounce"),  # reads under way at the end
        (0, 100 * MIB, True, "gds"),
        (MIB, 95 * MIB, True, "gds"),
        (0, 0, True, None),  # peer to peer, or a client that neither sees
        (0, None, True, None),
        (100 * MIB, 100 * MIB, True, None),  # somebody else uses nvidia-fs
        (None, 100 * MIB, True, None),
        (50 * MIB, 50 * MIB, True, None),
    ],
)
def test_the_route_is_that_of_who_moved_the_bytes(called, direct, into_gpu, route):
    before = Seen(None if called is None else 7, None if direct is None else 11)
    after = Seen(None if called is None else 7 + called, None if direct is None else 11 + direct)
    found, words = route_between(before, after, delivered_bytes=100 * MIB, into_gpu=into_gpu)
    assert found == route
    assert f"of {100 * MIB} bytes" in words


def test_this_processs_own_reads_are_seen_whoever_has_cached_them(page_set):
    path, before = page_set.shards[0], look()
    size = path.stat().st_size
    file = os.open(path, os.O_RDONLY)
    try:
        for _ in range(8):
            assert len(os.pread(file, size, 0)) == size
    finally:
        os.close(file)
    assert route_between(before, look(), delivered_bytes=8 * size, into_gpu=False)[0] == "host"


@pytest.mark.parametrize(("observed", "seen", "value"), [("bounce", "bounce", 1.0), ("gds", "bounce", 0.0)])
def test_a_route_is_named_truly_or_not(observed, seen, value):
    assert named_truly(observed, (seen, "words")).value == value


@pytest.mark.parametrize(("observed", "seen", "who"), [("unknown", "bounce", "evidence"), ("gds", None, "witness")])
def test_who_names_no_route_is_not_accused(observed, seen, who):
    found = named_truly(observed, (seen, "words"))
    assert found.value is None
    assert who in found.reason
