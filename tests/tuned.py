"""Functions to tune, where other processes can import them."""

from __future__ import annotations

import os
from typing import Any

from suffice.api.client import Infeasible, Pruned


def process_id(params: dict[str, Any]) -> float:
    return float(os.getpid())


def die(params: dict[str, Any]) -> float:
    os._exit(7)


def report_and_square(trial: Any) -> float:
    x = float(trial.params["x"])
    trial.report(x, step=1)
    return x**2


def stop_when_told(trial: Any) -> float:
    x = float(trial.params["x"])
    for step in range(3):
        if trial.report(x, step=step):
            raise Pruned
    return x


def refuse(params: dict[str, Any]) -> float:
    raise Infeasible(f"x = {params['x']} is too much")


def bowl(params: dict[str, Any]) -> float:
    return float((params["x"] - 3) ** 2)
