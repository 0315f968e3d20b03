"""Synthetic functions to minimise; two of them with a fidelity, as BoTorch augments them."""

from __future__ import annotations

import math

import numpy as np

HARTMANN_A = np.array(
    [[10, 3, 17, 3.5, 1.7, 8], [0.05, 10, 17, 0.1, 8, 14], [3, 3.5, 1.7, 10, 17, 8], [17, 8, 0.05, 10, 0.1, 14]]
)
HARTMANN_P = 1e-4 * np.array(
    [
        [1312, 1696, 5569, 124, 8283, 5886],
        [2329, 4135, 8307, 3736, 1004, 9991],
        [2348, 1451, 3522, 2883, 3047, 6650],
        [4047, 8828, 8732, 5743, 1091, 381],
    ]
)
HARTMANN_ALPHA = np.array([1.0, 1.2, 3.0, 3.2])
HARTMANN_OPTIMUM = -3.322368011415511
HARTMANN_BEST = (0.20168952, 0.15001069, 0.47687398, 0.27533243, 0.31165162, 0.65730054)


def hartmann(x: np.ndarray, fidelity: float = 1.0) -> float:
    """Hartmann's function of six variables; its first bump is lower at a low fidelity."""
    heights = HARTMANN_ALPHA - np.array([0.1 * (1 - fidelity), 0, 0, 0])
    return float(-heights @ np.exp(-(HARTMANN_A * (x - HARTMANN_P) ** 2).sum(1)))


def branin(a: float, b: float, fidelity: float = 1.0) -> float:
    """Branin's function; its valley is bent otherwise at a low fidelity."""
    bend = 5.1 / (4 * math.pi**2) - 0.1 * (1 - fidelity)
    return float((b - bend * a**2 + 5 / math.pi * a - 6) ** 2 + 10 * (1 - 1 / (8 * math.pi)) * math.cos(a) + 10)


def ackley(x: np.ndarray) -> float:
    spread, waves = math.sqrt(float(np.mean(x**2))), float(np.mean(np.cos(2 * math.pi * x)))
    return -20 * math.exp(-0.2 * spread) - math.exp(waves) + 20 + math.e


def levy(x: np.ndarray) -> float:
    w = 1 + (x - 1) / 4
    middle = ((w[:-1] - 1) ** 2 * (1 + 10 * np.sin(math.pi * w[:-1] + 1) ** 2)).sum()
    end = (w[-1] - 1) ** 2 * (1 + math.sin(2 * math.pi * w[-1]) ** 2)
    return float(math.sin(math.pi * w[0]) ** 2 + middle + end)


def rosenbrock(x: np.ndarray) -> float:
    return float((100 * (x[1:] - x[:-1] ** 2) ** 2 + (1 - x[:-1]) ** 2).sum())
