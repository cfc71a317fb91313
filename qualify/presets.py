"""What a preset asks of a storage, in words and numbers."""

from __future__ import annotations

from dataclasses import dataclass

from ..configs import load, presets
from ..results.quantities import amount, counted
from ..storage_bench.accelerators import MODEL_TITLES, Accelerator, resolve_accelerator
from ..storage_bench.emulate import WORKLOADS, demand_bps
from .settings import QualifyConfig

IMAGE_CHANNELS = 3


@dataclass(frozen=True, slots=True)
class Preset:
    """One preset as a table shows it."""

    name: str
    about: str
    minutes: float
    requirement: str
    needed_gbps: float


def all_presets() -> list[Preset]:
    """Every preset that comes with iobench, the shortest first."""
    found = [_preset(name, load(QualifyConfig, preset=name)) for name in presets()]
    return sorted(found, key=lambda preset: (preset.minutes, preset.name))


def requirement_text(config: QualifyConfig, *, record_bytes: int | None = None) -> str:
    """`feeds 8 emulated H100 running ResNet-50 at AU 90 %: 1.48 GB/s`, of records as they are where these are known."""
    lasting = f", and still does after {config.sustain.seconds / 60:.0f} min" if config.sustain.seconds else ""
    count = config.required_gpus
    who = f"{count} {accelerator_of(config).label_for(count)} running {MODEL_TITLES[config.model]}"
    each = sample_bytes(config) if record_bytes is None else record_bytes
    needs = f"{amount(needed_gbps(config, each), 'GB/s')} of samples of {counted(each, 'byte')}"
    return f"feeds {who} at AU {config.threshold * 100:g} %{lasting}: {needs}"


def needed_gbps(config: QualifyConfig, each_bytes: int) -> float:
    """What the required accelerators read together at the threshold, of samples of so many bytes."""
    accelerator = accelerator_of(config)
    each = demand_bps(accelerator.batch_size, each_bytes, accelerator.step_time_s)
    return config.threshold * config.required_gpus * each / 1e9


def sample_bytes(config: QualifyConfig) -> int:
    """Bytes of a sample, without what formats put around it."""
    size = config.data.size
    return WORKLOADS[config.model].record_bytes if config.data.workload else size * size * IMAGE_CHANNELS


def accelerator_of(config: QualifyConfig) -> Accelerator:
    """The accelerator that the settings name."""
    return resolve_accelerator(config.accelerator, batch_size=config.batch_size, model=config.model)


def _preset(name: str, config: QualifyConfig) -> Preset:
    return Preset(
        name=name,
        about=config.about,
        minutes=config.total_seconds / 60,
        requirement=requirement_text(config),
        needed_gbps=needed_gbps(config, sample_bytes(config)),
    )
