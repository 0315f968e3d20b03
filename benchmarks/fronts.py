"""Problems of two objectives, scored by how much of the dominated area they leave out (`Problem.shortfall`).

The area of each best front was computed once: on a grid refined around the front (Branin-Currin), from the front's
formula (ZDT3), and from the least mass at every deflection by SLSQP from 40 starts (the tube).
"""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np

from .problem import SECOND, VALUE, Front, Params, Problem, Truth, box, real


def _branin_currin(p: Params) -> Truth:
    """Branin's function and that of Currin, Mitchell, Morris and Ylvisaker (1988) on the unit square."""
    x, y = p["x1"], p["x2"]
    a, b = 15 * x - 5, 15 * y
    branin = (b - 5.1 / (4 * math.pi**2) * a**2 + 5 / math.pi * a - 6) ** 2
    branin += 10 * (1 - 1 / (8 * math.pi)) * math.cos(a) + 10
    rising = 1 - math.exp(-1 / (2 * y)) if y > 0 else 1.0
    currin = rising * (2300 * x**3 + 1900 * x**2 + 2092 * x + 60) / (100 * x**3 + 500 * x**2 + 4 * x + 20)
    return {VALUE: branin, SECOND: currin}


def _zdt3(p: Params) -> Truth:
    """The third function of Zitzler, Deb and Thiele (2000): a front of five pieces, at one edge of the box."""
    first, *others = p.values()
    g = 1 + 9 * float(np.mean(others))
    share = first / g
    return {VALUE: first, SECOND: g * (1 - math.sqrt(share) - share * math.sin(10 * math.pi * first))}


# A steel tube of one metre, clamped at one end and loaded at the other; diameter and wall change linearly between them.
FORCE, YOUNG, DENSITY = 1500.0, 210e9, 7850.0  # N, Pa, kg/m^3
STRENGTH, SLENDEREST = (
    110e6,
    40.0,
)  # Pa, of fatigue; the largest diameter that a wall of 1 carries without buckling locally
TUBE = (
    real("root_diameter", 20, 120),
    real("tip_diameter", 20, 120),
    real("root_wall", 1, 10),
    real("tip_wall", 1, 10),
)  # in mm
_AT = (np.arange(100) + 0.5) / 100  # from tip (0) to root (1)


def tube(p: Params) -> Truth:
    """Mass (kg) and deflection of the tip (mm), with the largest stress and slenderness relative to what is allowed."""
    outer = 1e-3 * (p["tip_diameter"] + (p["root_diameter"] - p["tip_diameter"]) * _AT)
    wall = 1e-3 * (p["tip_wall"] + (p["root_wall"] - p["tip_wall"]) * _AT)
    inner = outer - 2 * wall
    inertia = math.pi / 64 * (outer**4 - inner**4)
    moment = FORCE * _AT
    return {
        VALUE: float(DENSITY * math.pi / 4 * np.mean(outer**2 - inner**2)),
        SECOND: float(1e3 * np.mean(moment * _AT / (YOUNG * inertia))),
        "stress": float(np.max(moment * outer / (2 * inertia)) / STRENGTH - 1),
        "slenderness": float(np.max(outer / wall) / SLENDEREST - 1),
    }


_BRANIN_CURRIN = Problem(
    "branin_currin",
    "Branin and Currin, 2-d",
    box(2, 0, 1),
    _branin_currin,
    trials=40,
    front=Front(reference=(18.0, 6.0), hypervolume=59.40304),
    penalty=1.0,
)
_FRONTS = (
    _BRANIN_CURRIN,
    replace(
        _BRANIN_CURRIN,
        name="branin_currin_noisy",
        title="Branin and Currin, 2-d, noise of 5 % of the ranges",
        trials=50,
        noise=1.0,
        front=Front(reference=(18.0, 6.0), hypervolume=59.40304, units=(15.19, 0.63)),
    ),
    Problem(
        "zdt3",
        "ZDT3, 4-d",
        box(4, 0, 1),
        _zdt3,
        front=Front(reference=(1.1, 5.0), hypervolume=5.62176),
        penalty=1.0,
    ),
    Problem(
        "tube",
        "Mass and deflection of a tube, 4-d, two outcome constraints",
        TUBE,
        tube,
        outcomes=("stress", "slenderness"),
        front=Front(reference=(12.0, 10.0), hypervolume=71.0960),
        penalty=1.0,
    ),
)
FRONTS = {p.name: p for p in _FRONTS}
