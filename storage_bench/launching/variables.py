"""The environment of ranks: what Python, torch and Horovod need to start, and nothing that might be a secret.

Of what the user set for communication and cores the record says what reached the ranks (`hints`).
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping

_PASSED_ON = re.compile(
    r"(PATH|HOME|USER|LANG|TZ|TMPDIR|VIRTUAL_ENV|LD_LIBRARY_PATH)$|"
    r"(LC_|XDG_|PYTHON|OMP_|MKL_|OPENBLAS_|HOROVOD_|IOBENCH_|CUDA_|NVIDIA_|NCCL_|KVIKIO_|CUFILE_)\w+$"
)
# Where ssh finds its agent and its tickets; ranks on other hosts get neither.
_FOR_SSH = ("SSH_AUTH_SOCK", "KRB5CCNAME")
_SLOT = re.compile(r"HOROVOD_(LOCAL_|CROSS_)?(RANK|SIZE)$|HOROVOD_(HOSTNAME|GLOO_RENDEZVOUS_\w+)$")
_HINT = re.compile(
    r"NCCL_(SOCKET_|IB_|NET|P2P_|SHM_|CROSS_NIC|ALGO|PROTO|TOPO_|IGNORE_CPU_AFFINITY|COLLNET|NVLS)\w*$|"
    r"HOROVOD_(GLOO_IFACE|THREAD_AFFINITY|HIERARCHICAL_\w+|FUSION_THRESHOLD|CYCLE_TIME|NUM_NCCL_STREAMS)$|"
    r"OMP_(NUM_THREADS|PROC_BIND|PLACES)$|CUDA_VISIBLE_DEVICES$"
)


def variables_of_ranks(
    num_ranks: int, *, emulated: bool, by_ssh: bool, more: Mapping[str, str] | None
) -> dict[str, str]:
    """What ranks find in their environment, but for their slot; `more` wins, then what the user set."""
    passed_on = {name: value for name, value in os.environ.items() if _PASSED_ON.match(name) and not _SLOT.match(name)}
    threads = dict.fromkeys(("OMP_NUM_THREADS", "MKL_NUM_THREADS"), "1") if emulated else {}
    ssh = {name: os.environ[name] for name in _FOR_SSH if by_ssh and name in os.environ}
    return {**_horovod_settings(num_ranks), **passed_on, **threads, **(more or {}), **ssh}


def hints(variables: Mapping[str, str]) -> dict[str, str]:
    """Those that say over which interfaces ranks talk, and on which cores and GPUs they are, by name."""
    return {name: value for name, value in sorted(variables.items()) if _HINT.match(name) and "/" not in value}


def _horovod_settings(num_ranks: int) -> dict[str, str]:
    """Settings for small meetings of ranks that share cores.

    Horovod's thread wakes up in every rank once per cycle, and all ranks exchange a bit vector, whether there is
    something to do or not: a short cycle makes meetings quick, and idle ranks costly where there are more ranks than
    cores.  Without the response cache both get worse, so the cache stays on.  Stalls are watched by us.
    """
    cycle_ms = 1 if num_ranks <= len(os.sched_getaffinity(0)) else 2
    return {"HOROVOD_CYCLE_TIME": str(cycle_ms), "HOROVOD_STALL_CHECK_DISABLE": "1"}
