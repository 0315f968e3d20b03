"""Who chooses what a study tries next: the optimizer, or another engine that its definition names.

Only in the engine's workers: another engine's library is imported when a study that names it is read.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from suffice.optimizer import InvalidInput, Stop, StopReason, Study, Suggestion
from suffice.optimizer.errors import Problem

Choice = list[Suggestion] | Stop
Chooser = Callable[[Study, int, int, Mapping[str, Any]], Choice]
"""``count`` suggestions of which the first will be trial ``first_number``, in a context (empty: there is none)."""


def check_engine(definition: Mapping[str, Any]) -> None:
    """Raises InvalidInput where the engine does not know a setting, or a policy is wrong; imports no engine."""
    if definition.get("engine", "suffice") == "ax":
        from suffice.adapters.ax import unknown_to_ax

        if problems := unknown_to_ax(definition):
            raise InvalidInput.of(problems)
    if (policy := definition.get("global_stopping")) is not None:
        global_stopping(policy)


def global_stopping(definition: Mapping[str, Any]) -> Any:
    """The policy (`suffice.adapters.ax.Improvement`) that a definition means; raises InvalidInput naming the field."""
    from suffice.adapters.ax import Improvement, policy

    if definition.get("name") != "improvement":
        raise InvalidInput("global_stopping.name", "improvement", definition.get("name"))
    try:
        found = policy(definition)
    except InvalidInput as error:
        problems = [Problem(p.field.replace("policy", "global_stopping", 1), p.expected, p.got) for p in error.problems]
        raise InvalidInput.of(problems) from None
    assert isinstance(found, Improvement)
    return found


def chooser(definition: Mapping[str, Any]) -> Chooser:
    """Who chooses for a study of this definition."""
    choose = _ax if definition.get("engine") == "ax" else _suffice
    policy = definition.get("global_stopping")
    return choose if policy is None else _stopping(choose, global_stopping(policy))


def _suffice(study: Study, count: int, first_number: int, context: Mapping[str, Any]) -> Choice:
    return study.suggest(count, first_number=first_number, context=context or None)


def _ax(study: Study, count: int, first_number: int, _context: Mapping[str, Any]) -> Choice:
    from suffice.adapters.ax import AxGenerator

    return AxGenerator().suggest(study, count, first_number=first_number)


def _stopping(choose: Chooser, policy: Any) -> Chooser:
    """As ``choose``, unless the policy finds that the study should end."""

    def chosen(study: Study, count: int, first_number: int, context: Mapping[str, Any]) -> Choice:
        from suffice.adapters.ax import stop_study

        why = stop_study(study, policy)
        return choose(study, count, first_number, context) if why is None else Stop(StopReason.NO_PROGRESS, why)

    return chosen
