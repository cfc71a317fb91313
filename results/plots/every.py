"""All pictures of a record: one function a picture, None where its data are missing.

A title states the finding; an emulated accelerator and a scaled step time say so in titles and axes.  Every picture
has the table of its figures.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from .copies import chain_plot, copy_plot
from .fed import supply_plot, utilisation_plot
from .folders import checkpoint_plot, names_plot
from .limits import energy_plot, percentile_plot, roofline_plot
from .loaders import loader_plots
from .ranks import rank_plot
from .scaling import scaling_plots
from .steps import hop_plot, step_plot
from .sweeps import sweep_plots

if TYPE_CHECKING:
    from ..record import RunRecord
    from .drawing import Plot


def all_plots(record: RunRecord) -> list[Plot]:
    """The pictures a record has data for, in the order of the page."""
    first = (draw(record) for draw in (step_plot, hop_plot, utilisation_plot, supply_plot))
    several = [
        *loader_plots(record),
        copy_plot(record),
        chain_plot(record),
        *sweep_plots(record),
        *scaling_plots([record]),
    ]
    last = (rank_plot, percentile_plot, names_plot, checkpoint_plot, roofline_plot, energy_plot)
    return [plot for plot in (*first, *several, *(draw(record) for draw in last)) if plot]
