"""GPUs and what speaks to them: driver, NVML, CUDA, kvikio, the nvidia-fs module, peer-to-peer DMA.

Looked at in a process of its own: NVML and cuInit take seconds where the driver sleeps, and never answer where it is
broken.  What the kernel tells in /proc and /sys is told without either.
"""

from __future__ import annotations

import ctypes
import importlib.util
import platform
import re
from importlib import import_module
from pathlib import Path
from typing import Any

from ...loaders.topology import read_topology
from .cores import cores_of_ranks
from .cufile import configuration, find_libraries, look_at_configuration
from .finding import Seen, Subject, text_of
from .kernel import kernel_option, kernel_release

DRIVER = Path("/proc/driver/nvidia")
MODULE = Path("/sys/module/nvidia_fs")
STATS = Path("/proc/driver/nvidia-fs")
NVME_MULTIPATH = Path("/sys/module/nvme_core/parameters/multipath")
INSTALL_DRIVER = "install the NVIDIA driver with its open kernel modules"
INSTALL_EXTRA = "install iobench with its extra `gpu`"
PCI_NVIDIA = "0x10de"
DISPLAY_CLASSES = ("0x0300", "0x0302")  # VGA and 3D controllers


def driver(_path: Path) -> Seen:
    """The kernel's NVIDIA driver, and whether its modules are the open ones, which GPUDirect Storage needs."""
    text = text_of(DRIVER / "version")
    if text is None:
        cards = _cards_on_the_bus()
        if cards:
            return Seen(False, f"{len(cards)} NVIDIA device(s) on the PCI bus, but no driver", INSTALL_DRIVER)
        return Seen(False, "no /proc/driver/nvidia", "run where a GPU and its driver are; until then they are emulated")
    version = re.search(r"\b(\d+\.\d+(?:\.\d+)?)\b", text)
    kind = "open" if "Open Kernel Module" in text else "proprietary"
    advice = "" if kind == "open" else "GPUDirect Storage needs the open kernel modules: install them in their place"
    return Seen(True, f"{version[1] if version else text.splitlines()[0]}, {kind} kernel modules", advice)


def gpus(_path: Path) -> Seen:
    """The GPUs, as NVML tells them, else as the kernel's driver does."""
    named = sorted(text for folder in DRIVER.glob("gpus/*") if (text := text_of(folder / "information")))
    models = [model[1] for text in named if (model := re.search(r"^Model:\s*(.+)$", text, re.MULTILINE))]
    if importlib.util.find_spec("pynvml") is None:
        if models:
            return Seen(True, ", ".join(models), f"{INSTALL_EXTRA}, whose nvidia-ml-py tells more")
        return Seen(False, "none: accelerators are emulated", "run where a GPU and its driver are")
    told, problem = _ask_nvml()
    if told:
        return Seen(True, ", ".join(told))
    if models:
        return Seen(True, f"{', '.join(models)}; NVML: {problem}", "see what `nvidia-smi` says")
    return Seen(False, f"none ({problem}): accelerators are emulated", "run where a GPU and its driver are")


def cores(_path: Path) -> Seen:
    """Which cores ranks would be given, one on each GPU; in the order of their PCI addresses."""
    return cores_of_ranks(sorted(folder.name for folder in DRIVER.glob("gpus/*")), read_topology())


def cuda(_path: Path) -> Seen:
    """What libcuda says of itself, and whether it starts."""
    version, problem = ask_cuda()
    if version is None:
        return Seen(False, problem, INSTALL_DRIVER)
    name = f"driver for CUDA {version // 1000}.{version % 1000 // 10}"
    if problem:
        return Seen(False, f"{name}, which does not start: {problem}", "see whether `nvidia-smi` answers")
    return Seen(True, f"{name} starts")


def kvikio(_path: Path) -> Seen:
    """Whether kvikio, which reads into GPU memory, from object stores too, can be used."""
    if importlib.util.find_spec("kvikio") is None:
        return Seen(False, "not installed", INSTALL_EXTRA)
    version, problem = ask_cuda()
    if version is None:
        return Seen(False, f"installed, but it reads nothing at all without a CUDA driver ({problem})", INSTALL_DRIVER)
    return Seen(True, "host memory only: CUDA does not start" if problem else "can be used")


def cufile_library(_path: Path) -> Seen:
    """Where libcufile is."""
    found = find_libraries()
    if not found:
        return Seen(False, "libcufile is not found", f"{INSTALL_EXTRA}, or NVIDIA's package nvidia-gds")
    return Seen(True, ", ".join(found))


def nvidia_fs(_path: Path) -> Seen:
    """The kernel module that carries GPUDirect Storage, where peer-to-peer DMA does not."""
    if not MODULE.exists() and not STATS.exists():
        return Seen(False, "the module is not loaded", "install nvidia-fs (nvidia-gds) and `modprobe nvidia-fs`")
    told = text_of(MODULE / "version") or text_of(STATS / "version")
    version = re.search(r"\d+(?:\.\d+)+", told or "")
    counted = text_of(MODULE / "parameters/rw_stats_enabled") == "1"
    stats = "counts bytes" if counted else "does not count bytes, so that nothing proves the route"
    advice = "" if counted else f"echo 1 > {MODULE}/parameters/rw_stats_enabled"
    return Seen(True, f"version {version[0] if version else 'not known'}, {stats}", advice)


def p2pdma(_path: Path) -> Seen:
    """Whether kernel, driver and cuFile are set for peer-to-peer DMA between NVMe and GPU.

    What is asked for: the "NVMe P2PDMA" chapter of NVIDIA's GPUDirect Storage troubleshooting guide.
    """
    missing = list(_missing_for_p2pdma())
    if not missing:
        return Seen(True, f"Linux {platform.release()}, the driver and cuFile are set for it")
    return Seen(False, "; ".join(problem for problem, _ in missing), missing[0][1])


def ask_cuda() -> tuple[int | None, str]:
    """What cuDriverGetVersion says (13000 is 13.0), None without one; and why CUDA does not start, or nothing."""
    try:
        library = ctypes.CDLL("libcuda.so.1")
    except OSError as error:
        return None, "there is no libcuda.so.1" if "No such file" in str(error) else f"libcuda.so.1: {error}"
    version, name = ctypes.c_int(), ctypes.c_char_p()
    if status := library.cuDriverGetVersion(ctypes.byref(version)):
        return None, f"libcuda.so.1 is not a driver's: cuDriverGetVersion answers {status}"
    if status := library.cuInit(0):
        library.cuGetErrorName(status, ctypes.byref(name))
        return version.value, (name.value or b"error %d" % status).decode()
    return version.value, ""


def _missing_for_p2pdma() -> list[tuple[str, str]]:
    missing = []
    if kernel_release() < (6, 2):
        missing.append((f"Linux {platform.release()} is older than 6.2", "boot Linux 6.2 or newer"))
    option = kernel_option("CONFIG_PCI_P2PDMA")
    if option is False:
        missing.append(("the kernel was built without CONFIG_PCI_P2PDMA", "boot a kernel that was built with it"))
    if not DRIVER.exists():
        missing.append(("no NVIDIA driver", INSTALL_DRIVER))
    elif platform.machine() == "x86_64" and "RMForceStaticBar1=1" not in (text_of(DRIVER / "params") or ""):
        registry = 'options nvidia NVreg_RegistryDwords="RMForceStaticBar1=1;RmForceDisableIomapWC=1;"'
        missing.append(("the driver does not map the GPU's memory statically", f"in /etc/modprobe.d: {registry}"))
    if text_of(NVME_MULTIPATH) == "Y":
        missing.append(("NVMe multipathing is on", "in /etc/modprobe.d: options nvme_core multipath=N"))
    if not configuration().use_p2pdma:
        missing.append(("cuFile is not told to use it", 'set "use_pci_p2pdma": true in cufile.json'))
    return missing


def _cards_on_the_bus() -> list[str]:
    return [
        device.name
        for device in Path("/sys/bus/pci/devices").glob("*")
        if text_of(device / "vendor") == PCI_NVIDIA and (text_of(device / "class") or "")[:6] in DISPLAY_CLASSES
    ]


def _ask_nvml() -> tuple[list[str], str]:
    nvml: Any = import_module("pynvml")
    try:
        nvml.nvmlInit()
        handles = [nvml.nvmlDeviceGetHandleByIndex(index) for index in range(nvml.nvmlDeviceGetCount())]
        told = [_described(nvml, handle) for handle in handles]
        nvml.nvmlShutdown()
    except nvml.NVMLError as error:
        return [], str(error)
    return told, "" if told else "NVML finds no GPU"


def _described(nvml: Any, handle: Any) -> str:
    memory = nvml.nvmlDeviceGetMemoryInfo(handle).total
    bar = nvml.nvmlDeviceGetBAR1MemoryInfo(handle).bar1Total
    bus = nvml.nvmlDeviceGetPciInfo(handle).busId
    bus = bus.decode() if isinstance(bus, bytes) else bus
    node = text_of(Path("/sys/bus/pci/devices") / bus[-12:].lower() / "numa_node")
    where = f", NUMA node {node}" if node and node != "-1" else ""
    return f"{nvml.nvmlDeviceGetName(handle)} ({memory / 1e9:.0f} GB, BAR1 {bar / 1e9:.0f} GB{where})"


SUBJECT = Subject(
    "gpu",
    __name__,
    {
        "driver": driver,
        "GPU": gpus,
        "cores of ranks": cores,
        "CUDA": cuda,
        "kvikio": kvikio,
        "cuFile": cufile_library,
        "cuFile configuration": look_at_configuration,
        "nvidia-fs": nvidia_fs,
        "P2PDMA": p2pdma,
    },
    when_silent="see whether `nvidia-smi` answers; a driver that sleeps is kept awake by `nvidia-smi -pm 1`",
)
