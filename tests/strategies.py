"""Hypothesis strategies for parameters, spaces and configurations, and for what nobody would send."""

from __future__ import annotations

from typing import Any

import numpy as np
from hypothesis import strategies as st

from suffice.optimizer import Bool, Categorical, Constant, Float, Int, Ordinal, Space, TimeSteps

finite = st.floats(-1e6, 1e6, allow_nan=False)


@st.composite
def floats(draw: st.DrawFn) -> Float:
    log = draw(st.booleans())
    low = draw(st.floats(1e-6, 1e3)) if log else draw(finite)
    width = draw(st.floats(1e-3, 1e6))
    step = draw(st.sampled_from([None, width / 7, width / 100])) if not log else None
    return Float(low, low + width, log=log, step=step)


@st.composite
def ints(draw: st.DrawFn) -> Int:
    log = draw(st.booleans())
    low = draw(st.integers(1, 50)) if log else draw(st.integers(-1000, 1000))
    width = draw(st.integers(1, 300))
    return Int(low, low + width, log=log, step=draw(st.integers(1, width)))


@st.composite
def time_steps(draw: st.DrawFn) -> TimeSteps:
    k = draw(st.integers(1, 14))
    points = draw(st.one_of(st.none(), st.integers(min(k, 2), k)))
    if draw(st.booleans()):
        first, gap = draw(st.integers(-50, 50)), draw(st.integers(1, 5))
        return TimeSteps(k, first, first + max(k - 1, 1) * gap + draw(st.integers(0, 1000)), gap=gap, points=points)
    low, width, log = draw(st.floats(1e-3, 10)), draw(st.floats(1e-2, 1e3)), draw(st.booleans())
    return TimeSteps(k, low, low + width, integer=False, log=log, points=points)


choices = st.lists(
    st.one_of(st.text(max_size=3), st.integers(2, 99), st.floats(0.5, 0.75)), min_size=2, max_size=5, unique=True
)
parameters = st.one_of(
    floats(),
    ints(),
    choices.map(Categorical),
    choices.map(Ordinal),
    st.just(Bool()),
    st.just(Constant("fixed")),
    time_steps(),
)


@st.composite
def spaces(draw: st.DrawFn) -> Space:
    """Spaces of one to five parameters, some of them conditional on others."""
    kinds = draw(st.lists(parameters, min_size=0, max_size=4))
    named: dict[str, Any] = {"a": draw(st.one_of(floats(), ints())), "flag": Bool()}
    named |= {f"p{i}": kind for i, kind in enumerate(kinds)}
    if draw(st.booleans()):
        named["child"] = Float(0.0, 1.0, active_if="flag")
        named["grandchild"] = Int(1, 9, active_if="child >= 0.5")
    return Space(named)


def configurations(space: Space, n: int, seed: int) -> list[dict[str, Any]]:
    return space.decode(space.sample(n, np.random.default_rng(seed)))


# --- requests with something wrong in them ----------------------------------------------------------------------------

STRANGE = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(),
    st.sampled_from([2**31, 2**53, 2**63, 2**64, -(2**70), 10**400, -1, 0]),
    st.floats(),
    st.text(max_size=20),
    st.sampled_from(["", "\0", "\ud800", "x" * 5000, "NaN", "x1 <= ", "((((", "not", "COMPLETED", "1e999"]),
    st.lists(st.integers(), max_size=2),
    st.dictionaries(st.text(max_size=5), st.integers(), max_size=2),
)


def places(body: Any, at: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """Where something can be replaced."""
    items = body.items() if isinstance(body, dict) else enumerate(body) if isinstance(body, list) else ()
    return [at, *(place for key, value in items for place in places(value, (*at, key)))]


def replaced(body: Any, place: tuple[Any, ...], value: Any) -> Any:
    if not place:
        return value
    copy = dict(body) if isinstance(body, dict) else list(body)
    copy[place[0]] = replaced(copy[place[0]], place[1:], value)
    return copy
