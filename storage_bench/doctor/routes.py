"""Which ways are open from storage to where the data are used, and what closes the others.

    host/buffered, host/direct, mmap   storage -> host memory
    remote                             object store -> host memory
    bounce                             storage -> host memory -> GPU
    gds                                storage -> GPU, arranged by nvidia-fs
    p2pdma                             NVMe -> GPU, arranged by the kernel itself

A route is closed by what it needs and does not find, and open only where everything was seen.
"""

from __future__ import annotations

from .finding import Finding, Findings, Route

NEEDS: dict[str, tuple[str, ...]] = {
    "host/buffered": ("file system",),
    "host/direct": ("file system", "engine direct", "O_DIRECT alignment"),
    "mmap": ("file system", "engine mmap"),
    "remote": ("obstore",),
    "bounce": ("file system", "GPU", "CUDA"),
    "gds": ("GPU", "CUDA", "kvikio", "cuFile", "cuFile configuration", "nvidia-fs", "GDS support", "engine direct"),
    "p2pdma": ("GPU", "CUDA", "kvikio", "cuFile", "cuFile configuration", "P2PDMA", "P2PDMA support", "engine direct"),
}
MEANS = {
    "host/buffered": "through the page cache: --engine buffered",
    "host/direct": "past the page cache: --engine direct",
    "mmap": "mapped files: --engine mmap",
    "remote": "objects on servers: s3:// and https:// addresses; into GPU memory by kvikio",
    "bounce": "host memory, then a copy to the GPU: any engine",
    "gds": "cuFile with nvidia-fs: --engine kvikio",
    "p2pdma": "cuFile with the kernel's peer-to-peer DMA: --engine kvikio",
}
SLOWED_BY = {"gds": ("IOMMU", "ACS"), "p2pdma": ("IOMMU", "ACS")}


def find_routes(findings: Findings) -> list[Route]:
    """Every route, by the findings of the same run."""
    return [_route(name, findings) for name in NEEDS]


def _route(name: str, findings: Findings) -> Route:
    needed = [findings[need] for need in NEEDS[name]]
    lacking = [finding for finding in needed if finding.available is False]
    unknown = [finding for finding in needed if finding.available is None]
    if lacking or unknown:
        first, *others = lacking or unknown
        names = ", ".join([f"{first.name} ({first.seen})", *(finding.name for finding in others)])
        return Route(name, False, f"missing: {names}", first.advice) if lacking else _open_question(name, names, first)
    doubts = [findings[other] for other in SLOWED_BY.get(name, ()) if findings[other].available is not True]
    if doubts:
        reason = "; ".join(f"{finding.name} {finding.seen}" for finding in doubts)
        return Route(name, None, f"{MEANS[name]}; {reason}", doubts[0].advice)
    return Route(name, True, MEANS[name])


def _open_question(name: str, names: str, first: Finding) -> Route:
    return Route(name, None, f"depends on {names}", first.advice)
