"""Where the value of a configuration counts.

Usually the value of x is f(x) itself. Where some parameters say how a trial is run rather than what is chosen (how long
it trains, which simulator answers, what the weather is like), it is a weighted sum over other rows,

    value(x) = sum_j weights_j f(T_j x),

where T_j puts those parameters at node j and leaves the rest: one node at the target fidelity, or nodes spread over the
distribution of the conditions. A value is linear in f. So its posterior is normal, and its covariance with whatever may
be observed is the same weighted sum of covariances (Bayesian quadrature; Toscano-Palmerin and Frazier 2018, section 3).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from jaxtyping import Bool, Float64

from .errors import InvalidInput
from .kernel import Cross, Kernel, Sites
from .ranges import as_float
from .space import Params, Space

if TYPE_CHECKING:
    from .models import GaussianProcess

Rows = Float64[np.ndarray, "m d"]
Covariances = Float64[np.ndarray, "m t"]


Measure = Literal["expectation", "var", "cvar"]


@dataclass(frozen=True)
class Risk:
    """How a distribution of values counts: their expectation, or "var" or "cvar" at a ``level`` such as 0.9.

    The value at risk is what the value falls short of with a probability of at most 1 - level; the conditional value at
    risk is the mean of the worst values, of probability 1 - level (Rockafellar and Uryasev 2000).
    """

    measure: Measure = "expectation"
    level: float = 0.0

    @classmethod
    def of(cls, risk: Any) -> Risk:
        """From a Risk, "expectation", ``{"var": level}`` or ``{"cvar": level}``."""
        if isinstance(risk, Risk):
            return risk
        if risk == "expectation":
            return cls()
        if isinstance(risk, Mapping) and len(risk) == 1:
            ((measure, level),) = risk.items()
            if measure in ("var", "cvar"):
                if not 0.0 < as_float(level) < 1.0:
                    raise InvalidInput(f"risk.{measure}", "a level between 0 and 1, such as 0.9", level)
                return cls(measure, float(level))
        raise InvalidInput("risk", '"expectation", {"var": level} or {"cvar": level}', risk)

    @property
    def linear(self) -> bool:
        return self.measure == "expectation"

    def to_json(self) -> str | dict[str, float]:
        return self.measure if self.measure == "expectation" else {self.measure: self.level}

    def __str__(self) -> str:
        return self.measure if self.measure == "expectation" else f"{self.measure} at level {self.level:g}"

    def shares(
        self, values: Float64[np.ndarray, "... q"], weights: Float64[np.ndarray, " q"]
    ) -> Float64[np.ndarray, "... q"]:
        """How much of each value counts: the risk is their sum over ``shares * values``, larger values being better.

        ``weights`` are the probabilities of the values. Shares do not change with small changes of the values.
        """
        if self.measure == "expectation":
            return np.broadcast_to(weights, values.shape)
        order = np.argsort(values, axis=-1, kind="stable")
        ordered = weights[order]
        until = np.cumsum(ordered, axis=-1)
        tail = 1.0 - self.level
        if self.measure == "cvar":
            taken = np.clip(tail - (until - ordered), 0.0, ordered) / tail
        else:
            first = np.argmax(until >= tail - 1e-12, axis=-1)
            taken = 1.0 * (np.arange(values.shape[-1]) == first[..., None])
        shares = np.empty(values.shape)
        np.put_along_axis(shares, order, taken, axis=-1)
        return shares


@dataclass(frozen=True, eq=False)
class Target:
    """The rows at which the function counts: the rows of a cube with some ``columns`` put at each of the ``nodes``.

    ``space`` is the space with those parameters fixed (at the first node): its configurations are the designs. Where
    ``risk`` is not the expectation, the value is not linear in f; what is linear stays useful for a part of it.
    """

    space: Space
    columns: Bool[np.ndarray, " d"]
    nodes: Float64[np.ndarray, "q d"]
    weights: Float64[np.ndarray, " q"]
    risk: Risk = Risk()

    @classmethod
    def of(
        cls, space: Space, nodes: Sequence[Mapping[str, Any]], weights: Sequence[float], risk: Risk | None = None
    ) -> Target:
        """The target whose nodes are these values of some parameters of the space, all naming the same ones."""
        parts = [space.at(node) for node in nodes]
        middle = np.full((1, space.dimension), 0.5)
        rows = np.concatenate([part.snap(middle) for part in parts])
        return cls(parts[0], space.columns(parts[0].fixed), rows, np.asarray(weights, dtype=float), risk or Risk())

    @property
    def names(self) -> tuple[str, ...]:
        """The parameters that say how a trial is run."""
        return tuple(self.space.fixed)

    def design(self, params: Params) -> Params:
        """What is chosen: a configuration without how it is run."""
        return {name: value for name, value in params.items() if name not in self.space.fixed}

    def designs(self, X: Rows) -> Rows:
        """Rows moved to the first node: equal just where the designs are."""
        return np.where(self.columns, self.nodes[0], X)

    def rows(self, X: Rows) -> Float64[np.ndarray, "qm d"]:
        """Every row of X at every node: node after node, each for all rows."""
        return np.where(self.columns, self.nodes[:, None, :], X[None]).reshape(-1, X.shape[1])

    def average(self, values: Float64[np.ndarray, "qm ..."]) -> Float64[np.ndarray, "m ..."]:
        """The weighted sum over the nodes of what belongs to `rows`."""
        return np.tensordot(self.weights, values.reshape(len(self.weights), -1, *values.shape[1:]), 1)

    def everywhere(self, holds: Bool[np.ndarray, " qm"]) -> Bool[np.ndarray, " m"]:
        """Where what is said of `rows` holds at every node."""
        return np.asarray(holds.reshape(len(self.weights), -1).all(axis=0), dtype=bool)

    def spread(self, weights: Float64[np.ndarray, "m ..."]) -> Float64[np.ndarray, "qm ..."]:
        """What pulls on averages, as what pulls on `rows`: the transpose of `average`."""
        return np.multiply.outer(self.weights, weights).reshape(-1, *weights.shape[1:])

    def pull(self, gradient: Float64[np.ndarray, "qm d"]) -> Rows:
        """Gradients in `rows`, summed into gradients in X: nothing moves along the columns of the nodes."""
        total = gradient.reshape(len(self.weights), -1, gradient.shape[1]).sum(0)
        return np.where(self.columns, 0.0, total)

    def posterior(self, gp: GaussianProcess, X: Rows) -> tuple[Float64[np.ndarray, " m"], Float64[np.ndarray, " m"]]:
        """Mean and standard deviation of the values at the rows of X, in the standardised unit of the model."""
        if not self.risk.linear:
            from .risk import risk_posterior

            return risk_posterior(self, gp, X)
        cross = ValueCross(self, gp.sites, X)
        V = gp.half_solve(cross.k.T)
        prior = float(self.weights @ gp.kernel.covariance(self.nodes, self.nodes) @ self.weights)
        mean = gp.hyperparameters.mean * self.weights.sum() + cross.k @ gp.alpha
        return mean, np.sqrt(np.maximum(prior - (V * V).sum(0), 1e-18))


class Averaged:
    """A logarithm, such as that of a probability, averaged over the nodes, and its gradient."""

    def __init__(self, target: Target, log: Callable[[Rows], tuple[Float64[np.ndarray, " m"], Rows]]) -> None:
        self._target, self._log = target, log

    def __call__(self, X: Rows) -> tuple[Float64[np.ndarray, " m"], Rows]:
        value, gradient = self._log(self._target.rows(X))
        each = self._target.spread(np.ones(len(X)))
        return self._target.average(value), self._target.pull(each[:, None] * gradient)


class ValueCross:
    """The prior covariances ``k`` of the values at rows with sites, and their derivatives in the rows."""

    k: Covariances

    def __init__(self, target: Target, sites: Sites, X: Rows) -> None:
        self._target = target
        self._cross = sites.cross(target.rows(X))
        self.k = target.average(self._cross.k)

    def pull(self, weights: Covariances) -> Rows:
        """The gradient of (weights * k).sum() in every row."""
        return self._target.pull(self._cross.pull(self._target.spread(weights)))


class ValueSites:
    """Values at fixed rows, as what the function at rows that move is compared with."""

    def __init__(self, target: Target, kernel: Kernel, A: Rows) -> None:
        self._target, self._sites = target, kernel.sites(target.rows(A))

    def cross(self, X: Rows) -> CrossWithValues:
        """The prior covariances of the function at the rows of X with the values."""
        return CrossWithValues(self._target, self._sites.cross(X))


class CrossWithValues:
    """The prior covariances ``k`` of rows with values, and their derivatives in the rows."""

    k: Covariances

    def __init__(self, target: Target, cross: Cross) -> None:
        self._target, self._cross = target, cross
        self.k = target.average(cross.k.T).T

    def pull(self, weights: Covariances) -> Rows:
        """The gradient of (weights * k).sum() in every row."""
        return self._cross.pull(self._target.spread(weights.T).T)


class OwnCross:
    """The prior covariance of the function at each row with the value of that same row.

    A row and its copies at the nodes differ in the columns of the nodes alone. So do they with all other columns at one
    place, and then the copies are the same few sites for every row.
    """

    k: Float64[np.ndarray, " m"]

    def __init__(self, target: Target, kernel: Kernel, X: Rows) -> None:
        self._target = target
        elsewhere = target.designs(np.full((1, X.shape[1]), 0.5))
        sites = kernel.sites(target.rows(elsewhere))
        self._cross = sites.cross(np.where(target.columns, X, elsewhere))
        self.k = self._cross.k @ target.weights

    def pull(self, weights: Float64[np.ndarray, " m"]) -> Rows:
        """The gradient of (weights * k).sum() in every row."""
        gradient = self._cross.pull(weights[:, None] * self._target.weights)
        return np.where(self._target.columns, gradient, 0.0)
