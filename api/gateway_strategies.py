"""What the strategies of the configuration become (adapters/strategies.py)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from suffice.adapters.segment_tree import SegmentTree
from suffice.adapters.step_search import StepSearch
from suffice.adapters.strategies import Strategy
from suffice.adapters.subgroups import elected, step_confidence
from suffice.optimizer import InvalidInput

from .drawing import Answer
from .extraction import boxed
from .gateway_config import Dvts, Independent, Scope, Slate, StrategyConfig, TreePO
from .signals import looping

BOXED = ("auto", "boxed", "math")  # extractions that look for \\boxed{} first: with it the answer is there
NOT_CONTINUED = ("tools", "functions", "response_format", "structured_outputs")  # they hold for a whole answer


def strategy(config: StrategyConfig, extract: str) -> Strategy | None:
    """How the answers of one request are made; None: by one call each."""
    match config:
        case Dvts():
            return StepSearch(config.width, config.separator, config.depth)
        case Slate():
            settings = {"threshold": config.enough}
            return StepSearch(config.width, config.separator, config.depth, "threshold", settings)
        case TreePO():
            answered = _has_box if extract in BOXED else _goes_on
            return SegmentTree(config.segment, config.roots, config.depth, looping, answered)
        case Independent() | Scope():
            return None


def _has_box(text: str) -> bool:
    return boxed(text) is not None


def _goes_on(text: str) -> bool:
    return False


def check(config: StrategyConfig, body: Mapping[str, Any]) -> None:
    """Raises InvalidInput for a request whose answers cannot be made in several calls."""
    if isinstance(config, Independent | Scope):
        return
    for name in NOT_CONTINUED:
        if body.get(name):
            raise InvalidInput(name, f"none, with answers made piece by piece ({config.type})", name)
    if "messages" not in body and not isinstance(body.get("prompt"), str):
        raise InvalidInput("prompt", f"a text, with answers made piece by piece ({config.type})", body.get("prompt"))


def election(config: StrategyConfig, answers: Sequence[Answer]) -> dict[str, int] | None:
    """How many subgroups elect each answer, the winner first; None where nothing is elected."""
    if not isinstance(config, Scope):
        return None
    weights = [step_confidence(one.body["choices"][0], config.separator) or 0.0 for one in answers]
    return elected([one.answer for one in answers], weights, config.groups, config.share) or None
