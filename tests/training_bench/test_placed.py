"""What a record says of where ranks stood, and of the file system clients that they shared."""

import pytest

from iobench.training_bench.placed import Read, client_rate, clients, place_warnings, rank_rates, told_of_places

GB = 10**9
MACHINES = {0: "a", 1: "a", 2: "a", 3: "b"}


def result(rank, *, cores="0-3", threads=("0-3",), readers=("0-3",)):
    return {
        "rank": rank,
        "host": f"host-{MACHINES[rank]}",
        "machine": MACHINES[rank],
        "readers": dict.fromkeys(readers, 2),
        "placement": "batches go to cpu, which is near all cores",
        "stood": {
            "asked": "auto",
            "cores": cores,
            "node": None,
            "reason": "as it was made",
            "usable": "0-7",
            "online": 16,
            "threads": dict.fromkeys(threads, 5),
            "hints": {"NCCL_SOCKET_IFNAME": "ib0"},
        },
    }


def test_ranks_of_one_machine_share_a_client(tmp_path):
    told = told_of_places([result(rank) for rank in range(4)], tmp_path)
    assert told["clients"] == [{"host": "host-a", "ranks": [0, 1, 2]}, {"host": "host-b", "ranks": [3]}]
    assert told["placed"][3]["cores"] == "0-3"
    assert told["placed"][3]["readers"] == {"0-3": 2}
    assert told["storage_way"] == "the data are on this host, or their server is not named"
    assert told["communication"]["variables"] == {"NCCL_SOCKET_IFNAME": "ib0"}


def test_two_names_of_one_machine_are_one_client():
    other = {**result(1), "host": "another-name"}
    assert clients([result(0), other]) == [{"host": "host-a", "ranks": [0, 1]}]


def test_what_a_client_reads_is_what_its_ranks_read_while_the_slowest_was_at_it():
    """Machine a: (2 + 4 + 6) GB in 4 s; machine b: 5 GB in 1 s; the mean of both.  Then all of it in half the time."""
    reads = {0: Read(2 * GB, 2.0), 1: Read(4 * GB, 4.0), 2: Read(6 * GB, 3.0), 3: Read(5 * GB, 1.0)}
    faster = {rank: Read(read.num_bytes, read.seconds / 2) for rank, read in reads.items()}
    rate = client_rate([reads, faster], MACHINES)
    assert rate.samples == pytest.approx((4.0, 8.0))
    assert rate.unit == "GB/s"
    own = rank_rates([reads, faster])
    assert {rank: metric.samples for rank, metric in own.items()} == {
        0: pytest.approx((1.0, 2.0)),
        1: pytest.approx((1.0, 2.0)),
        2: pytest.approx((2.0, 4.0)),
        3: pytest.approx((5.0, 10.0)),
    }


def test_a_block_of_fewer_ranks_counts_those_alone():
    rate = client_rate([{0: Read(2 * GB, 2.0)}, {0: Read(2 * GB, 2.0), 1: Read(2 * GB, 2.0)}], MACHINES)
    assert rate.samples == pytest.approx((1.0, 2.0))


def test_where_nothing_is_read_there_is_no_rate():
    assert client_rate([{0: Read(0, 2.0)}], MACHINES).reason == "nothing was read from files"
    assert rank_rates([{0: Read(0, 2.0)}])[0].value is None


def test_threads_that_something_moved_are_told():
    moved = [result(0), result(1, cores="2", threads=("2", "0-3"), readers=()), result(2, cores=None)]
    assert place_warnings(moved) == ("rank 1 was given cores 2, and has threads on 0-3",)
    assert place_warnings([result(3, threads=("1", "0-2"))]) == ()


@pytest.mark.parametrize(("usable", "online", "warned"), [("3", 16, True), ("3", 1, False), ("0-2", 16, False)])
def test_a_job_with_fewer_cores_than_ranks_is_told_to_ask_for_more(usable, online, warned):
    ranks = [result(rank) for rank in range(3)]
    told = place_warnings([{**each, "stood": {**each["stood"], "usable": usable, "online": online}} for each in ranks])
    few = "3 ranks on host-a share 1 core of 16: taskset, a cgroup or the job allows no more; ask for a core for each "
    assert told == ((f"{few}rank at least",) if warned else ())


@pytest.mark.parametrize(
    ("variables", "warned"),
    [
        ({"OMP_PROC_BIND": "true"}, True),
        ({"OMP_PROC_BIND": "close", "OMP_PLACES": "cores"}, True),
        ({"OMP_PLACES": "cores"}, True),
        ({"OMP_PROC_BIND": "FALSE", "OMP_PLACES": "cores"}, False),
        ({"OMP_NUM_THREADS": "4"}, False),
    ],
)
def test_openmp_that_binds_threads_by_itself_is_told(variables, warned):
    one = result(0)
    told = place_warnings([{**one, "stood": {**one["stood"], "hints": variables}}])
    assert bool(told) is warned
    assert all("leave them out" in text for text in told)
