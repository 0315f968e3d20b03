"""How close a search for the next configuration comes to the acquisition's maximum, and what it takes.

One fitted model, one log expected improvement, three searches: Suffice's, BoTorch's default (512 raw samples, 10
restarts) and Optuna's GPSampler's (2,048 samples, 10 local searches, one of them from the best trial). All are compared
with the best value that is found by L-BFGS-B from thousands of starts, or by one of them.
"""

from __future__ import annotations

import importlib
import time
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
from scipy.stats import qmc

STARTS = 4096  # half of them quasi-random, half around the best configurations
Row = np.ndarray


def searches(study: Any, seed: int) -> dict[str, Any]:
    """The acquisition's value where each search ends, CPU seconds, and the best of ``STARTS`` starts."""
    from suffice.optimizer.choice import choose
    from suffice.optimizer.search import maximise

    knowledge = study._learned()
    space, surrogate = knowledge.definition.space, knowledge.surrogate
    chosen = choose(knowledge.definition, surrogate, space.encode([]), seed, knowledge.trials)
    rng = np.random.default_rng(seed)

    def ours() -> Row:
        found = maximise(chosen.acquisition, space, rng, chosen.incumbents, knowledge.excluded([]), chosen.box)
        assert found is not None
        return found.x

    gp = surrogate.objective.gp
    peers: Mapping[str, Callable[[], Row]] = {
        "suffice": ours,
        "botorch": lambda: botorch_search(gp, chosen.best, seed),
        "optuna_gp": lambda: optuna_search(gp, chosen.best, seed),
    }
    values, seconds = {}, {}
    for name, search in peers.items():
        search()  # imports and compiles
        clock = time.process_time()
        x = search()
        seconds[name] = float(f"{time.process_time() - clock:.3g}")
        values[name] = float(chosen.acquisition(x[None])[0][0])
    best = thorough(chosen.acquisition, chosen.incumbents, rng)
    return {"values": values, "seconds": seconds, "best": max(best, *values.values()), "starts": STARTS}


def thorough(acquisition: Any, incumbents: np.ndarray, rng: np.random.Generator) -> float:
    """The best value that L-BFGS-B finds from all the starts; the middling ones are given up after a few steps."""
    d = incumbents.shape[1]
    spread = qmc.Sobol(d, rng=rng).random(STARTS // 2)
    scales = 10.0 ** rng.uniform(-3, -0.5, (STARTS // 2, 1))
    near = incumbents[rng.integers(len(incumbents), size=STARTS // 2)]
    X = np.concatenate([spread, np.clip(near + scales * rng.standard_normal(near.shape), 0, 1)])
    for steps, kept in ((10, 512), (300, 1)):
        X, values = climb(acquisition, X, steps)
        order = np.argsort(-values)[:kept]
        X = X[order]
    return float(values[order[0]])


def climb(acquisition: Any, X: np.ndarray, steps: int) -> tuple[np.ndarray, np.ndarray]:
    """Every row moved uphill by L-BFGS-B."""
    batched: Any = importlib.import_module("botorch.optim.batched_lbfgs_b")

    def loss(Z: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        value, gradient = acquisition(Z)
        return -value, -gradient

    parts = []
    for rows in np.array_split(X, max(len(X) // 256, 1)):
        Z, _, _ = batched.fmin_l_bfgs_b_batched(loss, rows, bounds=[(0.0, 1.0)] * X.shape[1], maxiter=steps, factr=10.0)
        parts.append(np.where(acquisition(Z)[0][:, None] > acquisition(rows)[0][:, None], Z, rows))
    X = np.concatenate(parts)
    return X, np.concatenate([acquisition(rows)[0] for rows in parts])


def log_improvement(gp: Any, best: float) -> Any:
    analytic: Any = importlib.import_module("botorch.acquisition.analytic")
    return analytic.LogExpectedImprovement(gp.to_botorch(), best_f=best)


def botorch_search(gp: Any, best: float, seed: int) -> Row:
    """Where `optimize_acqf` ends with the settings of BoTorch's tutorials."""
    torch: Any = importlib.import_module("torch")
    optim: Any = importlib.import_module("botorch.optim")
    torch.manual_seed(seed)
    d = gp.data.X.shape[1]
    bounds = torch.tensor([[0.0] * d, [1.0] * d], dtype=torch.double)
    x, _ = optim.optimize_acqf(log_improvement(gp, best), bounds, q=1, num_restarts=10, raw_samples=512)
    row: Row = x[0].numpy(force=True)
    return row


def optuna_search(gp: Any, best: float, seed: int) -> Row:
    """Where GPSampler's search ends with its defaults."""
    acqf: Any = importlib.import_module("optuna._gp.acqf")
    optim: Any = importlib.import_module("optuna._gp.optim_mixed")
    space: Any = importlib.import_module("optuna._gp.search_space")
    distributions: Any = importlib.import_module("optuna.distributions")
    ei, d = log_improvement(gp, best), gp.data.X.shape[1]

    class Same(acqf.BaseAcquisitionFunc):  # type: ignore[misc]
        """The one acquisition as Optuna's search sees it."""

        def eval_acqf(self, x: Any) -> Any:
            return ei(x.unsqueeze(-2)) if x.ndim > 1 else ei(x[None, None])[0]

    box = space.SearchSpace({f"x{i}": distributions.FloatDistribution(0.0, 1.0) for i in range(d)})
    same = Same(gp.hyperparameters.lengthscales[gp.data.groups], box)
    best_row = gp.data.X[[int(np.argmax(gp.data.y))]]
    row, _ = optim.optimize_acqf_mixed(
        same,
        warmstart_normalized_params_array=best_row,
        rng=np.random.RandomState(seed),
    )
    return np.asarray(row, dtype=float)
