"""One token budget over a batch of prompts.

At the optimum a token is worth the same everywhere: there is one price for the whole batch, and the next token goes to
the prompt whose answers add most per token (`Batch`). Two published allocations, made before any answer is drawn, are
there to compare with: marginal gains (Damani et al. 2024, arXiv 2410.04707) and gradient variance (GVM-RAFT; Yao et al.
2025, arXiv 2505.02391). `learnable` and `frontier_weights` say which prompts are worth spending training samples on.
"""

from __future__ import annotations

import heapq
from collections.abc import Sequence

import numpy as np
from jaxtyping import Float64, Int64

from .errors import InvalidInput
from .sampling import Sampling
from .stopping import positive, whole

Rates = Float64[np.ndarray, " p"]
Allocation = Int64[np.ndarray, " p"]


class Batch:
    """Prompts that share a budget of tokens.

    Each ask names the prompts that should draw one more answer now: those whose answers are worth most per token. A
    prompt that has no answer yet comes first. All samplings must follow ``suffice``.
    """

    def __init__(self, samplings: Sequence[Sampling], tokens: float, expected_tokens: float) -> None:
        if not samplings:
            raise InvalidInput("samplings", "at least one", samplings)
        for field, value in (("tokens", tokens), ("expected_tokens", expected_tokens)):
            if not np.isfinite(value) or value <= 0:
                raise InvalidInput(field, "a positive number", value)
        self.samplings = tuple(samplings)
        self.tokens, self.expected_tokens = float(tokens), float(expected_tokens)
        self.price: float | None = None  # gain per token of the last answer that was worth drawing

    @property
    def spent(self) -> float:
        """Tokens told so far."""
        return sum(s.tokens for s in self.samplings)

    def ask(self, count: int = 1) -> list[int]:
        """Up to ``count`` prompts, each once, that should draw next; none when the budget is spent or nothing gains."""
        whole("count", count)
        worth = map(self._worth, self.samplings)
        ranked = sorted((-per_token, i, tokens) for i, (per_token, tokens) in enumerate(worth))
        chosen: list[int] = []
        left = self.tokens - self.spent
        for negative, i, tokens in ranked:
            if negative >= 0 or len(chosen) == count:
                break
            if tokens <= left:
                left -= tokens
                chosen.append(i)
                self.price = -negative
        return chosen

    def _worth(self, sampling: Sampling) -> tuple[float, float]:
        gain, tokens = sampling.worth()
        tokens = tokens or self.expected_tokens
        return (np.inf if sampling.samples == 0 else gain / tokens), tokens


def marginal_gains(solve_rates: Rates, budget: int, most: int | None = None) -> Allocation:
    """How many answers each prompt gets, of ``budget`` in all, by greedy marginal gains (2410.04707, section 3).

    With binary rewards and a perfect check, answer b of a prompt with solve rate p adds p (1 - p)^(b - 1).
    """
    _check_rates(solve_rates)
    whole("budget", budget)
    given = np.zeros(len(solve_rates), dtype=np.int64)
    heap = [(-float(p), i) for i, p in enumerate(solve_rates) if p > 0]
    heapq.heapify(heap)
    for _ in range(budget):
        if not heap:
            break
        gain, i = heapq.heappop(heap)
        given[i] += 1
        if most is None or given[i] < most:
            heapq.heappush(heap, (gain * (1.0 - float(solve_rates[i])), i))
    return given


def gradient_variance(
    accept_rates: Rates, gradient_norms: Rates, budget: int, alpha: float = 1e-3, beta: float = 2.0
) -> Allocation:
    """How many answers each prompt gets for training, of ``budget`` in all: least variance of the gradient (GVM-RAFT).

    n_i is proportional to G_i / sqrt(p_i + alpha / p_i^(beta - 1)), and 0 where p_i or G_i is 0; alpha and beta as in
    the authors' code. Rounded so that the sum is the budget.
    """
    _check_rates(accept_rates)
    whole("budget", budget)
    if len(gradient_norms) != len(accept_rates) or (gradient_norms < 0).any():
        raise InvalidInput("gradient_norms", "a non-negative number per prompt", gradient_norms)
    p = np.where(accept_rates > 0, accept_rates, 1.0)
    share = np.where(accept_rates > 0, gradient_norms / np.sqrt(p + alpha / p ** (beta - 1.0)), 0.0)
    if share.sum() == 0:
        return np.zeros(len(p), dtype=np.int64)
    exact = budget * share / share.sum()
    given = np.floor(exact).astype(np.int64)
    rest = np.argsort(given - exact, kind="stable")[: budget - int(given.sum())]
    given[rest] += 1
    return given


def learnable(solve_rates: Rates, count: int) -> Int64[np.ndarray, " c"]:
    """The ``count`` prompts whose solve rates are nearest one half, best first.

    There a sampled answer is right or wrong with the largest variance p (1 - p), so that a policy learns most from it.
    """
    _check_rates(solve_rates)
    whole("count", count)
    return np.argsort(np.abs(solve_rates - 0.5), kind="stable")[:count]


def frontier_weights(solve_rates: Rates, width: float = 0.2) -> Rates:
    """With which probability to draw each prompt for training: a Gaussian of its solve rate around one half.

    Gaussian curriculum sampling of FG-ExPO (Lin et al. 2026, arXiv 2605.11403). They sum to 1; where all rates are
    alike, so are the weights. The abstract and introduction were at hand: ``width``, the standard deviation, is ours.
    """
    _check_rates(solve_rates)
    positive("width", width)
    exponent = -0.5 * ((solve_rates - 0.5) / width) ** 2
    weights = np.exp(exponent - exponent.max())
    return weights / weights.sum()


def _check_rates(rates: Rates) -> None:
    if rates.ndim != 1 or not len(rates) or not ((rates >= 0) & (rates <= 1)).all():
        raise InvalidInput("rates", "a rate from 0 to 1 per prompt", rates)
