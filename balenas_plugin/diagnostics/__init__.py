"""Watch a search: uncertainty, shape of the architecture, curvature, ground truth it never sees, and warnings."""

from __future__ import annotations

from balenas_plugin.diagnostics.cells import depth, width
from balenas_plugin.diagnostics.curvature import Curvature, measure_curvature
from balenas_plugin.diagnostics.diagnostics_options import DiagnosticsOptions
from balenas_plugin.diagnostics.log_file import DiagnosticsLog, past_posterior, read_log
from balenas_plugin.diagnostics.operations import kind_of, parameter_free_share, skip_ratio
from balenas_plugin.diagnostics.search_warnings import SearchWarning, eigenvalue_growth, stop_reason, warnings_of
from balenas_plugin.diagnostics.summary import SearchState, summarise
from balenas_plugin.diagnostics.uncertainty import choice_entropy, draw_outcomes, probabilities

__all__ = [
    "Curvature",
    "DiagnosticsLog",
    "DiagnosticsOptions",
    "SearchState",
    "SearchWarning",
    "choice_entropy",
    "depth",
    "draw_outcomes",
    "eigenvalue_growth",
    "kind_of",
    "measure_curvature",
    "parameter_free_share",
    "past_posterior",
    "probabilities",
    "read_log",
    "skip_ratio",
    "stop_reason",
    "summarise",
    "warnings_of",
    "width",
]
