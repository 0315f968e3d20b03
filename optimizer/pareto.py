"""Several objectives: the hypervolume improvement, the reference point, and the Pareto front.

A set of configurations is as good as the volume that it dominates above a reference point, in standardised y with all
objectives larger better. One more configuration is worth the volume it adds, averaged over the noiseless values of the
observed and pending ones (Daulton, Balandat and Bakshy 2021; as logarithms Ament et al. 2023): BoTorch computes it.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from jaxtyping import Bool, Float64

from .acquisition import Acquisition
from .from_botorch import from_botorch, quiet
from .objective import Objective
from .surrogate import MetricModel

Front = Float64[np.ndarray, "n m"]
DRAWS = 64


def hypervolume_improvement(
    models: Sequence[MetricModel],
    reference: Float64[np.ndarray, " m"],
    observed: Float64[np.ndarray, "b d"],
    pending: Float64[np.ndarray, "p d"],
    seed: int,
) -> Acquisition:
    """log of the expected rise in dominated volume, above ``reference``, over observed and pending points."""
    import torch
    from botorch.acquisition.multi_objective.logei import qLogNoisyExpectedHypervolumeImprovement
    from botorch.models.model_list_gp_regression import ModelListGP
    from botorch.sampling.normal import SobolQMCNormalSampler

    with quiet():
        acquisition = qLogNoisyExpectedHypervolumeImprovement(
            ModelListGP(*(m.gp.to_botorch() for m in models)),
            ref_point=torch.from_numpy(reference),
            X_baseline=torch.from_numpy(observed),
            X_pending=torch.from_numpy(pending) if len(pending) else None,
            sampler=SobolQMCNormalSampler(torch.Size([DRAWS]), seed=seed),
            prune_baseline=True,
            cache_root=False,
        )
    return from_botorch(acquisition, logarithmic=True)


def reference_point(
    objectives: Sequence[Objective], models: Sequence[MetricModel], Y: Front
) -> Float64[np.ndarray, " m"]:
    """The reference in standardised y: as given, else a tenth of the front's range below its worst (Ishibuchi 2011).

    ``Y`` are standardised values, for example posterior means, of the feasible observed configurations.
    """
    front = Y[non_dominated(Y)]
    span = front.max(0) - front.min(0)
    spread = Y.max(0) - Y.min(0)
    inferred = front.min(0) - 0.1 * np.where(span > 0, span, np.where(spread > 0, spread, 1.0))
    given = [o.reference_point for o in objectives]
    return np.array(
        [
            inferred[j] if point is None else float(model.scale.forward(np.array([point]))[0])
            for j, (point, model) in enumerate(zip(given, models, strict=True))
        ]
    )


def non_dominated(Y: Front) -> Bool[np.ndarray, " n"]:
    """Which rows no other row beats in every objective (larger is better); of equal rows the first."""
    keep = np.ones(len(Y), dtype=bool)
    for i in range(len(Y)):
        at_least = (Y[i] <= Y).all(1)
        better = at_least & (Y[i] < Y).any(1)
        twin = at_least & ~better & (np.arange(len(Y)) < i)
        keep[i] = not (better | twin).any()
    return keep
