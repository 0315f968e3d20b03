"""Who is compared, by name, and what each name stands for in a family of problems."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

from .fidelity_peers import BoTorchFidelity, OptunaHyperband, SmacHyperband, SufficeFidelity
from .front_peers import AxFront, BoTorchFront, SufficeFront
from .peers import Ax, BoTorch, Cannot, Hebo, Optuna, Peer, Random, Smac, Sobol, Suffice
from .problem import Problem

Make = Callable[[Problem, int, int, int], Peer]
PEERS: dict[str, Make] = {
    "suffice": Suffice,
    "suffice_untold": partial(Suffice, told=False),
    "suffice_single": Suffice,
    "optuna_gp": partial(Optuna, sampler="gp"),
    "optuna_gp_exact": partial(Optuna, sampler="gp", exact=True),
    "optuna_tpe": partial(Optuna, sampler="tpe"),
    "optuna_cma": partial(Optuna, sampler="cma"),
    "optuna_nsga2": partial(Optuna, sampler="nsga2"),
    "optuna_hyperband": OptunaHyperband,
    "ax": Ax,
    "ax_sem0": partial(Ax, sem=True),
    "botorch": BoTorch,
    "smac": partial(Smac, facade="BlackBoxFacade"),
    "smac_forest": partial(Smac, facade="HyperparameterOptimizationFacade"),
    "smac_hyperband": SmacHyperband,
    "hebo": Hebo,
    "sobol": Sobol,
    "random": Random,
}
# What a name stands for where a family of problems is asked for otherwise.
SPECIAL: dict[tuple[str, str], Make] = {
    ("suffice", "two objectives"): SufficeFront,
    ("ax", "two objectives"): AxFront,
    ("botorch", "two objectives"): BoTorchFront,
    ("botorch", "fidelities"): BoTorchFidelity,
    ("suffice", "fidelities"): SufficeFidelity,
}
ONLY = {  # peers that make sense in one family of problems alone
    "suffice_single": "fidelities",
    "optuna_hyperband": "fidelities",
    "smac_hyperband": "fidelities",
    "optuna_nsga2": "two objectives",
}
TITLES = {
    "suffice": "Suffice",
    "suffice_untold": "Suffice, noise not told",
    "suffice_single": "Suffice, fidelity ignored",
    "optuna_gp": "Optuna GPSampler",
    "optuna_gp_exact": "Optuna GPSampler, told exact",
    "optuna_tpe": "Optuna TPE",
    "optuna_cma": "Optuna CMA-ES",
    "optuna_nsga2": "Optuna NSGA-II",
    "optuna_hyperband": "Optuna TPE, Hyperband",
    "ax": "Ax",
    "ax_sem0": "Ax, told SEM 0",
    "botorch": "BoTorch loop",
    "smac": "SMAC3 black box",
    "smac_forest": "SMAC3 forest",
    "smac_hyperband": "SMAC3 Hyperband",
    "hebo": "HEBO",
    "sobol": "Sobol",
    "random": "Random",
}
VARIANTS = (  # in the tables of scores, but not ranked
    "suffice_untold",
    "suffice_single",
    "optuna_gp_exact",
    "ax_sem0",
)
ENVIRONMENTS = {"hebo": ".venv-bench-hebo"}  # where a peer runs in an environment of its own


def make(name: str, problem: Problem, seed: int, start: int, total: int) -> Peer:
    """A peer's run on a problem; raises Cannot where the peer cannot express it."""
    if ONLY.get(name, problem.family) != problem.family:
        raise Cannot(f"for {ONLY[name]} only")
    return SPECIAL.get((name, problem.family), PEERS[name])(problem, seed, start, total)
