"""Which way a figure is better: one table of names, looked through from the top."""

from __future__ import annotations

from fnmatch import fnmatchcase

UP, DOWN, UNKNOWN = 1, -1, 0
DIRECTIONS = {
    "demand_*": UNKNOWN,  # what was asked for, not what came of it
    "latency_bound_s": UNKNOWN,
    "first_done_s": UNKNOWN,
    "au_*": UP,
    "gpus_fed_*": UP,
    "hosts_fed_*": UP,
    "roof_reached_fraction": UP,
    "scaling_efficiency": UP,
    "of_bare_loop": UP,
    "of_limit": UP,
    "tests_passed": UP,
    "tests_failed": DOWN,
    "meter_error": DOWN,
    "wrong_steps": DOWN,
    "loss_difference": DOWN,
    "stall_disagreement": DOWN,
    "images_per_joule": UP,
    "*_per_w": UP,
    "*_per_watt": UP,
    "*_accuracy": UP,
    "*_agreement": UP,
    "*_gbps": UP,
    "*_iops": UP,
    "*_per_s": UP,
    "*_s": DOWN,  # times, after all rates
    "*_us": DOWN,
    "*_loss": DOWN,
    "*_cost_fraction": DOWN,
    "data_stall_fraction": DOWN,
    "missed_fraction": DOWN,
    "queue_empty_fraction": DOWN,
    "break_even_epochs": DOWN,
    "cpu_seconds_per_gb": DOWN,
    "peak_*_bytes": DOWN,
    "*joules_per_image": DOWN,
}


def direction_of(name: str) -> int:
    """UP where more of a metric is better, DOWN where less is, UNKNOWN for a name that no line knows."""
    return next((way for pattern, way in DIRECTIONS.items() if fnmatchcase(name, pattern)), UNKNOWN)
