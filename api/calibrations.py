"""The gateway's calibrations: what scores are worth, learned from labelled answers, kept as files in a folder."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from suffice.optimizer import InvalidInput, NotFound

if TYPE_CHECKING:
    from suffice.optimizer import Sampling
    from suffice.optimizer.calibration import Calibration
    from suffice.optimizer.drift import Watch

NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.\-]{0,99}")


class Calibrations:
    """By name; without a folder they are kept while the process lives."""

    def __init__(self, folder: Path | None = None) -> None:
        self._folder = folder
        self._kept: dict[str, Calibration] = {}
        self._watch: dict[str, Watch] = {}
        if folder is not None and folder.is_dir():
            for file in sorted(folder.glob("*.json")):
                self._take(file.stem, json.loads(file.read_text()))

    def __contains__(self, name: str) -> bool:
        return name in self._kept

    def get(self, name: str) -> Calibration:
        """Raises NotFound."""
        if name not in self._kept:
            raise NotFound(f"there is no calibration {name!r}")
        return self._kept[name]

    def facts(self) -> list[dict[str, Any]]:
        """What each stands on, and whether its scores still mean the same."""
        return [
            {
                "name": name,
                "version": kept.version,
                "prompts": kept.prompts,
                "max_samples": kept.max_samples,
                "drift": self.drifted(name),
            }
            for name, kept in sorted(self._kept.items())
        ]

    def put(self, name: str, document: Any) -> Calibration:
        """Take in a calibration: one that was exported, or {"pool": ..., "max_samples": ...} to learn one from.

        Learning takes seconds of CPU time. Raises InvalidInput.
        """
        if not NAME.fullmatch(name):
            raise InvalidInput("name", "letters, digits, '_', '.' and '-', at most 100", name)
        if not isinstance(document, Mapping):
            raise InvalidInput("calibration", 'an object with "pool", or an exported calibration', document)
        made = self._fit(name, document) if "pool" in document else self._take(name, document)
        self._kept[name] = made
        self._watch.pop(name, None)
        if self._folder is not None:
            self._folder.mkdir(parents=True, exist_ok=True)
            part = self._folder / f".{name}.part"
            part.write_text(json.dumps(made.to_json()))
            part.replace(self._folder / f"{name}.json")
        return made

    def delete(self, name: str) -> None:
        """Raises NotFound."""
        self.get(name)
        del self._kept[name]
        self._watch.pop(name, None)
        if self._folder is not None:
            (self._folder / f"{name}.json").unlink(missing_ok=True)

    def _fit(self, name: str, document: Mapping[str, Any]) -> Calibration:
        from suffice.optimizer.calibration import Calibration
        from suffice.optimizer.pool import Pool

        version = self._kept[name].version + 1 if name in self._kept else 1
        pool = Pool.of(document["pool"])
        return Calibration.fit(pool, document.get("max_samples", 32), name=name, version=version)

    def _take(self, name: str, document: Mapping[str, Any]) -> Calibration:
        from suffice.optimizer.calibration import Calibration

        try:
            self._kept[name] = Calibration.from_json({**document, "name": name})
        except (KeyError, TypeError, ValueError) as error:
            if isinstance(error, InvalidInput):
                raise
            raise InvalidInput("calibration", "a calibration as it was exported", repr(error)) from None
        return self._kept[name]

    # --- drift ---

    def drifted(self, name: str) -> bool:
        """Whether the alarm is on: scores mean something else than they did."""
        return name in self._watch and self._watch[name].alarm

    def watch(self, name: str, answers: list[str | None], scores: list[float | None], *, by_score: bool = True) -> None:
        """Look at the answers to one more prompt; ``by_score``: whether scores were looked at to decide on it."""
        if name not in self._kept:
            return
        from suffice.optimizer.drift import Watch

        found = self._kept[name].drift_evidence(answers, scores, by_score=by_score)
        if found is not None:
            self._watch[name] = self._watch.get(name, Watch()).after(found)

    # --- features ---

    def learn(self, name: str, features: Sequence[float], sampling: Sampling) -> None:
        """Learn what a prompt's features told of its answers: within the service only, which has somebody to do it."""
