"""Who decides what is tried next: a study in this process, one of a running service, or a baseline."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

from suffice.optimizer import InvalidInput, Stop, Study, Trial, TrialState

from .evolution import AutoDiffusion, Proposer, RandomSearch, UnifiedSampling
from .grid import grid

if TYPE_CHECKING:
    from torch import Tensor

    from .search import Search


class Source(Protocol):
    """Decides what is tried next, and keeps what came out."""

    def past(self) -> list[tuple[dict[str, Any], dict[str, float]]]:
        """What was tried in an earlier run, with its values."""
        ...

    def ask(self) -> tuple[Any, dict[str, Any]] | None:
        """The next configuration, and what to hand back with its values; None: enough."""
        ...

    def tell(self, handle: Any, values: Mapping[str, float], shown: Tensor | None = None) -> None:
        """What a configuration is worth, and some of the images that it made."""
        ...

    def refuse(self, handle: Any, reason: str) -> None:
        """A configuration diverges."""
        ...


def source_of(search: Search, checkpoint: str | Path | None, service: Any, name: str) -> Source:
    """Who decides for a search: a study here, one of a running service, or a baseline."""
    if service is not None:
        if search.method != "bayes" or checkpoint is not None:
            raise InvalidInput("service", 'none, with a checkpoint or a method other than "bayes"', name)
        return FromService.of(search, service, name)
    if search.method == "bayes":
        return FromStudy.of(search, None if checkpoint is None else Path(checkpoint))
    if checkpoint is not None:
        raise InvalidInput("checkpoint", 'none, with a method other than "bayes"', str(checkpoint))
    return FromProposer(proposer(search), search.trials, search.metric, search.evaluation.quality.direction)


@dataclass
class FromStudy:
    """A study in this process, written to a file after every result."""

    study: Study
    file: Path | None = None
    settings: Mapping[str, Any] = field(default_factory=dict)

    @classmethod
    def of(cls, search: Search, file: Path | None) -> FromStudy:
        study = search.study()
        settings = json.loads(json.dumps({"study": study.to_json(), "basis": search.basis()}))
        if file is not None and file.exists():
            study.load(_reopened(Trial.from_json(t)) for t in _saved(file, settings))
        elif file is not None and not file.parent.is_dir():
            raise InvalidInput("checkpoint", "a file in a folder that exists", str(file))
        return cls(study, file, settings)

    def past(self) -> list[tuple[dict[str, Any], dict[str, float]]]:
        return [(dict(t.params), dict(t.values)) for t in self.study.trials if t.state is TrialState.COMPLETED]

    def ask(self) -> tuple[Any, dict[str, Any]] | None:
        step = self.study.ask()
        return None if isinstance(step, Stop) else (step, dict(step.params))

    def tell(self, handle: Any, values: Mapping[str, float], shown: Tensor | None = None) -> None:
        self.study.tell(handle, values)
        self._save()

    def refuse(self, handle: Any, reason: str) -> None:
        self.study.infeasible(handle, reason)
        self._save()

    def _save(self) -> None:
        if self.file is not None:
            saved = {**self.settings, "trials": [t.to_json() for t in self.study.trials]}
            part = self.file.with_name(f"{self.file.name}.part")
            part.write_text(json.dumps(saved))
            part.replace(self.file)


def _saved(file: Path, settings: Mapping[str, Any]) -> list[Any]:
    """The trials of a checkpoint. Raises InvalidInput where it is of other settings, or none."""
    try:
        saved = json.loads(file.read_text())
    except ValueError as error:
        raise InvalidInput("checkpoint", f"a file that a search wrote ({error})", str(file)) from None
    if not isinstance(saved, dict) or "trials" not in saved:
        raise InvalidInput("checkpoint", "a file that a search wrote", str(file))
    for part, wanted in settings.items():
        before = saved.get(part) or {}
        if changed := sorted(name for name in {*wanted, *before} if wanted.get(name) != before.get(name)):
            expected = f"a file of a search with the same settings; others are its {', '.join(changed)}"
            raise InvalidInput("checkpoint", expected, str(file))
    trials: list[Any] = saved["trials"]
    return trials


def _reopened(trial: Trial) -> Trial:
    """A trial that was interrupted is handed out again."""
    return replace(trial, state=TrialState.WAITING) if trial.state is TrialState.RUNNING else trial


@dataclass
class FromService:
    """A study of a running service, which goes on from what it knows."""

    study: Any

    @classmethod
    def of(cls, search: Search, service: Any, name: str) -> FromService:
        fidelity = search.fidelity
        study = service.create_study(
            name,
            search.space,
            search.objectives,
            budget={"cost": search.trials} if fidelity else search.trials,
            fidelity=None if fidelity is None else fidelity.to_json(),
            seed=search.seed,
            exist_ok=True,
        )
        if next(iter(study.history()), None) is None:
            for params in search.beginnings():
                study.enqueue(params)
        return cls(study)

    def past(self) -> list[tuple[dict[str, Any], dict[str, float]]]:
        return [(dict(t.params), dict(t.values)) for t in self.study.history("COMPLETED")]

    def ask(self) -> tuple[Any, dict[str, Any]] | None:
        step = self.study.ask()
        return (step, dict(step.params)) if hasattr(step, "params") else None

    def tell(self, handle: Any, values: Mapping[str, float], shown: Tensor | None = None) -> None:
        if shown is not None:
            handle.attach("images.png", grid(shown))
        handle.tell(dict(values))

    def refuse(self, handle: Any, reason: str) -> None:
        handle.infeasible(reason)


@dataclass
class FromProposer:
    """A baseline, for a number of trials."""

    proposer: Proposer
    trials: int
    metric: str
    direction: str = "minimize"
    told: list[tuple[dict[str, Any], float]] = field(default_factory=list)

    def past(self) -> list[tuple[dict[str, Any], dict[str, float]]]:
        return []

    def ask(self) -> tuple[Any, dict[str, Any]] | None:
        if len(self.told) >= self.trials:
            return None
        params = self.proposer.propose(self.told)
        return params, params

    def tell(self, handle: Any, values: Mapping[str, float], shown: Tensor | None = None) -> None:
        sign = 1.0 if self.direction == "minimize" else -1.0
        self.told.append((handle, sign * values[self.metric]))

    def refuse(self, handle: Any, reason: str) -> None:
        self.told.append((handle, math.inf))


def proposer(search: Search, population: int | None = None) -> Proposer:
    """The baseline that ``search.method`` names; AutoDiffusion's population is a third of the budget, at most 50."""
    space, rng = search.space, np.random.default_rng(search.seed)
    match search.method:
        case "random":
            return RandomSearch(space, rng)
        case "usf":
            return UnifiedSampling(space, rng)
        case _:
            known = search.known_times()
            uniform = search.choices.params(known["trailing" if "trailing" in known else "flow_1"])
            size = population or max(4, min(50, search.trials // 3))
            return AutoDiffusion(space, uniform, rng, size, min(10, size // 2))
