"""A reader's own counts, alone and beside nvidia-fs."""

import pytest

from iobench.loaders.counters.backends import route_by_backends

MIB = 1 << 20


@pytest.mark.parametrize(
    ("own", "nvidia_fs", "into_gpu", "route"),
    [
        ({"kvikio_posix_bytes": 5, "kvikio_posix_ops": 1}, None, False, "host"),
        ({"kvikio_posix_bytes": 5, "kvikio_gds_bytes": 0}, None, True, "bounce"),
        ({"kvikio_remote_http_bytes": 5, "kvikio_remote_s3_bytes": 5}, None, False, "remote"),
        ({"kvikio_mmap_bytes": 5}, None, False, "unknown"),
        ({"kvikio_posix_bytes": 5, "kvikio_gds_bytes": 5}, 5, True, "unknown"),
        ({"kvikio_posix_bytes": 2, "kvikio_gds_bytes": 98}, 98, True, "gds"),  # ends below kvikio's threshold
        ({"kvikio_posix_bytes": 3, "kvikio_gds_bytes": 97}, 97, True, "unknown"),
        ({"kvikio_gds_bytes": 100 * MIB}, 100 * MIB, True, "gds"),
        ({"kvikio_gds_bytes": 100 * MIB}, 97 * MIB, True, "gds"),  # 98 % of it, and a MiB that is not full yet
        ({"kvikio_gds_bytes": 100 * MIB}, 96 * MIB, True, "unknown"),
        ({"kvikio_gds_bytes": 100 * MIB}, None, True, "unknown"),
    ],
)
def test_bytes_for_cufile_are_direct_only_where_nvidia_fs_counted_them_too(own, nvidia_fs, into_gpu, route):
    assert route_by_backends(own, nvidia_fs_bytes=nvidia_fs, into_gpu=into_gpu)[0] == route


def test_a_reader_that_counted_nothing_says_nothing():
    assert route_by_backends({}, nvidia_fs_bytes=None) is None
    assert route_by_backends({"kvikio_gds_bytes": 0, "other": 5}, nvidia_fs_bytes=9) is None


def test_what_cufile_did_otherwise_is_told_with_both_figures():
    _, words = route_by_backends({"kvikio_gds_bytes": 9 * MIB}, nvidia_fs_bytes=2 * MIB)
    assert "9437184 bytes by gds" in words
    assert "nvidia-fs read only 2097152 bytes" in words
