"""A found schedule as a record: which scheduler, at which times, with which settings, and where it comes from."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path
from typing import Any

from suffice.optimizer import InvalidInput
from suffice.optimizer.ranges import real

FORMAT = "suffice.schedule/1"
_KEYS = (
    "format",
    "scheduler",
    "timesteps",
    "sigmas",
    "config",
    "arguments",
    "guided",
    "correction",
    "skipped",
    "provenance",
)


@dataclass(frozen=True)
class Schedule:
    """How to run a diffusers pipeline: `apply_schedule` makes it do so.

    ``scheduler`` is the name of a diffusers class. Either ``timesteps``, whole numbers of a model that was trained on
    discrete times, or ``sigmas``, the noise levels of flow matching after every shift; both decreasing, one per step.
    ``config`` holds the scheduler's settings, ``arguments`` what else the pipeline is called with (guidance, eta).
    ``guided`` limits guidance to the steps from the first number up to, not including, the second (Kynkäänniemi et al.
    2024); None: all. With a ``correction`` c every step but the first is taken with (1 + c) e - c e', e being the noise
    that the network estimates and e' what it estimated a step before. ``skipped`` names blocks of the network that are
    left out, each with the steps at which it is, counted from 0.

    ``provenance`` tells how it was found: nothing there changes what is run, but ``betas``, a digest of the training
    noise levels, keeps it from being applied where they differ.
    """

    scheduler: str
    timesteps: tuple[int, ...] | None = None
    sigmas: tuple[float, ...] | None = None
    config: Mapping[str, Any] = field(default_factory=dict)
    arguments: Mapping[str, Any] = field(default_factory=dict)
    provenance: Mapping[str, Any] = field(default_factory=dict)
    guided: tuple[int, int] | None = None
    correction: float = 0.0
    skipped: Mapping[str, tuple[int, ...]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if (self.timesteps is None) == (self.sigmas is None):
            raise InvalidInput("timesteps", "either timesteps or sigmas", self.timesteps)
        name, number = ("timesteps", int) if self.sigmas is None else ("sigmas", float)
        given = self.times
        try:
            times = tuple(number(t) for t in given)
        except (TypeError, ValueError):
            times = ()
        falls = all(a > b for a, b in pairwise(times))
        if not times or times != tuple(given) or not falls or times[-1] < 0:
            kind = "whole numbers" if number is int else "numbers"
            raise InvalidInput(name, f"decreasing {kind} of at least 0", list(given))
        object.__setattr__(self, name, times)
        if self.guided is not None:
            object.__setattr__(self, "guided", tuple(self.guided))
            whole = len(self.guided) == 2 and all(isinstance(i, int) for i in self.guided)
            if not whole or not 0 <= self.guided[0] < self.guided[1] <= self.steps:
                raise InvalidInput("guided", f"two rising numbers of steps from 0 to {self.steps}", list(self.guided))
        object.__setattr__(self, "correction", real(self.correction, "correction"))
        for block, at in self.skipped.items():
            if not isinstance(at, list | tuple) or not at or any(i not in range(self.steps) for i in at):
                raise InvalidInput(f"skipped.{block}", f"a list of numbers of steps from 0 to {self.steps - 1}", at)
        object.__setattr__(self, "skipped", {block: tuple(at) for block, at in self.skipped.items()})

    @property
    def times(self) -> tuple[float, ...]:
        """The timesteps or sigmas."""
        found = self.timesteps if self.sigmas is None else self.sigmas
        return tuple(found or ())

    @property
    def steps(self) -> int:
        """How many steps the sampler takes."""
        return len(self.times)

    def after(self, time: float) -> float:
        """The time that follows; -1 after the last."""
        place = self.times.index(time) + 1
        return self.times[place] if place < self.steps else -1

    def to_json(self) -> dict[str, Any]:
        name = "timesteps" if self.sigmas is None else "sigmas"
        return {
            "format": FORMAT,
            "scheduler": self.scheduler,
            name: list(self.times),
            "config": dict(self.config),
            "arguments": dict(self.arguments),
            **({} if self.guided is None else {"guided": list(self.guided)}),
            **({} if self.correction == 0 else {"correction": self.correction}),
            **({} if not self.skipped else {"skipped": {block: list(at) for block, at in self.skipped.items()}}),
            "provenance": dict(self.provenance),
        }

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Schedule:
        """The schedule of what `to_json` gave; raises InvalidInput for anything else."""
        if not isinstance(data, Mapping) or data.get("format") != FORMAT:
            raise InvalidInput("format", FORMAT, data.get("format") if isinstance(data, Mapping) else data)
        for key in data:
            if key not in _KEYS:
                raise InvalidInput(key, f"one of {', '.join(_KEYS)}", data[key])
        if not isinstance(data.get("scheduler"), str):
            raise InvalidInput("scheduler", "the name of a diffusers scheduler", data.get("scheduler"))
        times: dict[str, Any] = {}
        for name in ("timesteps", "sigmas"):
            if (given := data.get(name)) is not None:
                if not isinstance(given, list):
                    raise InvalidInput(name, "a list of numbers", given)
                times[name] = tuple(given)
        for name in ("config", "arguments", "skipped", "provenance"):
            if not isinstance(data.get(name, {}), Mapping):
                raise InvalidInput(name, "settings by name", data[name])
        settings: dict[str, Any] = {name: dict(data.get(name, {})) for name in ("config", "arguments", "provenance")}
        if (guided := data.get("guided")) is not None and not isinstance(guided, list):
            raise InvalidInput("guided", "two rising numbers of steps", guided)
        return cls(
            data["scheduler"],
            **times,
            **settings,
            guided=None if guided is None else tuple(guided),
            correction=data.get("correction", 0.0),
            skipped=data.get("skipped", {}),
        )

    def save(self, path: str | Path) -> Path:
        """Write it as JSON, for example beside a saved pipeline; returns the path."""
        target = Path(path)
        target.write_text(json.dumps(self.to_json(), indent=1) + "\n")
        return target

    @classmethod
    def load(cls, path: str | Path) -> Schedule:
        """The schedule in a file that `save` wrote."""
        try:
            data = json.loads(Path(path).read_text())
        except ValueError as error:
            raise InvalidInput("path", f"a file with JSON ({error})", str(path)) from None
        return cls.from_json(data)

    def __str__(self) -> str:
        times = ", ".join(f"{t:g}" for t in self.times)
        given = {**self.config, **self.arguments, **({} if self.guided is None else {"guided": self.guided})}
        given |= {} if self.correction == 0 else {"correction": round(self.correction, 4)}
        given |= {} if not self.skipped else {"skipped": dict(self.skipped)}
        settings = ", ".join(f"{k}={v!r}" for k, v in given.items())
        return f"{self.scheduler}[{times}]" + (f" ({settings})" if settings else "")
