"""The environment that ranks find: nothing that might be a secret, and what of it a record may show."""

import os

import pytest

from iobench.storage_bench.launching.variables import hints, variables_of_ranks


@pytest.fixture
def environment(monkeypatch):
    for name in list(os.environ):
        monkeypatch.delenv(name)
    for name, value in {
        "PATH": "/bin",
        "AWS_SECRET_ACCESS_KEY": "secret",
        "SSH_AUTH_SOCK": "/run/agent",
        "NCCL_SOCKET_IFNAME": "ib0",
        "OMP_NUM_THREADS": "7",
        "HOROVOD_RANK": "3",
        "HOROVOD_CYCLE_TIME": "5",
    }.items():
        monkeypatch.setenv(name, value)


@pytest.mark.usefixtures("environment")
def test_ranks_find_what_they_need_and_no_secret_and_no_slot_of_another_launch():
    found = variables_of_ranks(2, emulated=False, by_ssh=False, more={"PYTHONPATH": "/x"})
    assert found == {
        "PATH": "/bin",
        "NCCL_SOCKET_IFNAME": "ib0",
        "OMP_NUM_THREADS": "7",
        "HOROVOD_CYCLE_TIME": "5",
        "HOROVOD_STALL_CHECK_DISABLE": "1",
        "PYTHONPATH": "/x",
    }


@pytest.mark.usefixtures("environment")
def test_emulated_ranks_have_one_thread_and_those_elsewhere_the_way_of_ssh():
    found = variables_of_ranks(2, emulated=True, by_ssh=True, more=None)
    assert (found["OMP_NUM_THREADS"], found["MKL_NUM_THREADS"]) == ("1", "1")
    assert found["SSH_AUTH_SOCK"] == "/run/agent"


def test_a_record_shows_what_is_said_of_interfaces_cores_and_gpus_and_no_path():
    variables = {
        "NCCL_SOCKET_IFNAME": "ib0",
        "NCCL_IB_HCA": "mlx5_0,mlx5_1",
        "NCCL_TOPO_FILE": "/home/somebody/topo.xml",
        "NCCL_DEBUG_FILE": "log",
        "OMP_PROC_BIND": "close",
        "CUDA_VISIBLE_DEVICES": "0,1",
        "HOROVOD_RANK": "1",
        "HOROVOD_GLOO_IFACE": "eth0",
        "HOME": "somewhere",
    }
    shown = ("CUDA_VISIBLE_DEVICES", "HOROVOD_GLOO_IFACE", "NCCL_IB_HCA", "NCCL_SOCKET_IFNAME", "OMP_PROC_BIND")
    assert list(hints(variables)) == list(shown)
    assert hints(variables)["NCCL_IB_HCA"] == "mlx5_0,mlx5_1"
