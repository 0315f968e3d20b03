"""Ax beside the core: its experiments read and written, its analyses, its stopping policies, its generator to compare.

Ax is imported inside the functions, since that takes seconds and some 160 MiB: they belong into a worker, never onto
the path of a request. The policies can be checked anywhere.
"""

from .analyses import ANALYSES, Analysis, Card, analyse
from .from_ax import Imported, from_ax, from_snapshot
from .generator import AxGenerator, unknown_to_ax
from .stopping import EarlyStopping, Improvement, Percentile, Policy, Threshold, policy, stop_early, stop_study
from .to_ax import to_ax, to_snapshot

__all__ = [
    "ANALYSES",
    "Analysis",
    "AxGenerator",
    "Card",
    "EarlyStopping",
    "Imported",
    "Improvement",
    "Percentile",
    "Policy",
    "Threshold",
    "analyse",
    "from_ax",
    "from_snapshot",
    "policy",
    "stop_early",
    "stop_study",
    "to_ax",
    "to_snapshot",
    "unknown_to_ax",
]
