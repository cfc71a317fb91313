"""Hosts from lists, files and what Slurm and PBS say; expectations by hand."""

from pathlib import Path

import pytest

from iobench.storage_bench.launching.hosts import (
    HostsError,
    HostSlots,
    assign,
    expand_nodes,
    job_hosts,
    parse_hosts,
    read_host_file,
)


def test_a_list_names_hosts_and_their_ranks():
    assert parse_hosts("a:4, user@b.example:2,c") == (
        HostSlots("a", 4),
        HostSlots("user@b.example", 2),
        HostSlots("c", 1),
    )


@pytest.mark.parametrize(
    "text", ["", "a:", "a:x", "a:0", "-oProxyCommand=x:1", "a b:1", "a;b:1", "a:2,a:2", "a:99999", "$(x)"]
)
def test_what_is_not_a_host_is_refused_with_the_way_out(text):
    with pytest.raises(HostsError, match="write a:4,b:4") as raised:
        parse_hosts(text)
    assert raised.value.exit_status == 2


def test_a_host_file_may_be_written_as_mpi_or_horovod_have_it(tmp_path):
    file = tmp_path / "hosts"
    file.write_text("# rack 1\na slots=4\nb max_slots = 2  # half of it\n\nc:3\nd\n")
    assert [(host.name, host.slots) for host in read_host_file(file)] == [("a", 4), ("b", 2), ("c", 3), ("d", 1)]


def test_a_host_file_that_is_not_one_is_named(tmp_path):
    file = tmp_path / "hosts"
    file.write_text("a and b\n")
    with pytest.raises(HostsError, match="hosts: 'a and b' is not a host and its slots"):
        read_host_file(file)
    with pytest.raises(HostsError, match="cannot be read"):
        read_host_file(tmp_path / "none")
    file.write_bytes(b"\xff\xfe")
    with pytest.raises(HostsError, match="cannot be read"):
        read_host_file(file)


@pytest.mark.parametrize(
    ("text", "names"),
    [
        ("login", ["login"]),
        ("a,b", ["a", "b"]),
        ("gpu[01-03,7],login", ["gpu01", "gpu02", "gpu03", "gpu7", "login"]),
        ("r[1-2]n[8-9]", ["r1n8", "r1n9", "r2n8", "r2n9"]),
        ("n[009-011].x", ["n009.x", "n010.x", "n011.x"]),
    ],
)
def test_slurms_short_form_is_written_out(text, names):
    assert expand_nodes(text) == names


@pytest.mark.parametrize("text", ["a[1-99999999]", "a[x]", "a[1-2-3]", "a[]"])
def test_a_range_that_is_none_is_refused(text):
    with pytest.raises(HostsError):
        expand_nodes(text)


def test_a_slurm_job_gives_its_nodes_and_tasks():
    job = {"SLURM_JOB_NODELIST": "n[1-2]", "SLURM_NTASKS_PER_NODE": "8", "SLURM_GPUS_ON_NODE": "4"}
    assert job_hosts(job) == (HostSlots("n1", 8), HostSlots("n2", 8))
    assert job_hosts({**job, "SLURM_NTASKS_PER_NODE": "2(x3)"}) == (HostSlots("n1", 4), HostSlots("n2", 4))


def test_a_pbs_job_has_a_line_for_each_rank(tmp_path: Path):
    file = tmp_path / "nodes"
    file.write_text("n1\nn1\nn2\nn1\n")
    assert job_hosts({"PBS_NODEFILE": str(file)}) == (HostSlots("n1", 3), HostSlots("n2", 1))


def test_outside_of_a_job_there_are_no_hosts():
    with pytest.raises(HostsError, match="no Slurm or PBS job"):
        job_hosts({})


def test_hosts_are_filled_one_after_the_other():
    hosts = parse_hosts("a:2,b:2,c:2")
    assert assign(hosts, 3) == [(hosts[0], range(2)), (hosts[1], range(2, 3))]
    with pytest.raises(HostsError, match="7 ranks do not fit on a:2, b:2, c:2"):
        assign(hosts, 7)
