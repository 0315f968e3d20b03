"""Contexts: parameters that are not chosen but given with every ask, such as the site, the data set or its size."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from .errors import Conflict, InvalidInput, Problem
from .space import Constant, Params, Space


def check_names(space: Space, names: Sequence[str]) -> tuple[str, ...]:
    """The names of a study's contexts; InvalidInput where they are no parameters that could be given beforehand."""
    if isinstance(names, str) or not isinstance(names, Sequence):
        raise InvalidInput("context", "a list of names of parameters", names)
    problems: list[Problem] = []
    for i, name in enumerate(names):
        p = space.parameters.get(name) if isinstance(name, str) else None
        if p is None:
            problems.append(Problem(f"context.{i}", f"one of the parameters {list(space.parameters)}", name))
        elif name in names[:i]:
            problems.append(Problem(f"context.{i}", "a parameter that is not named twice", name))
        elif isinstance(p, Constant) or p.active_if is not None:
            expected = "a parameter that is neither constant nor conditional, since it is given before all others"
            problems.append(Problem(f"context.{i}", expected, name))
    if not problems and all(n in names for n, p in space.parameters.items() if p.cardinality > 1):
        problems.append(Problem("context", "at least one parameter that is left to choose", list(names)))
    if problems:
        raise InvalidInput.of(problems)
    return tuple(names)


def check_context(space: Space, names: Sequence[str], given: Mapping[str, Any] | None) -> Params:
    """The values of all contexts ``names``; InvalidInput lists what is missing, unknown or impossible."""
    if given is None:
        given = {}
    if not isinstance(given, Mapping):
        raise InvalidInput("context", "a mapping from the names of contexts to values", given)
    expected = f"one of the contexts {list(names)}" if names else "nothing, since the study has no contexts"
    problems = [Problem(f"context.{n}", expected, v) for n, v in given.items() if n not in names]
    problems += [
        Problem(f"context.{n}", "a value, because the study chooses for a given one", None)
        for n in names
        if n not in given
    ]
    checked: Params = {}
    try:
        checked = space.check_values({n: v for n, v in given.items() if n in names}, "context")
    except InvalidInput as error:
        problems += error.problems
    if problems:
        raise InvalidInput.of(problems)
    if names and space.constraints:
        _must_hold_a_configuration(space, checked)
    return checked


def _must_hold_a_configuration(space: Space, context: Params) -> None:
    try:
        space.at(context).sample(1, np.random.default_rng(0))
    except InvalidInput:
        expected = "a context in which some configuration satisfies the parameter constraints"
        raise InvalidInput("context", expected, context) from None


def refuse_without_context(names: Sequence[str], instead: str) -> None:
    """What only means something in one context of a study that has contexts."""
    if names:
        raise Conflict(f"this depends on the context {list(names)}: use {instead}")
