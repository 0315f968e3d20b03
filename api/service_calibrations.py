"""The service's calibrations for a gateway that runs inside it: one resource for both.

The gateway asks between awaits, so nothing here waits for the database's write lock: what is known of a name is read
again after a second, and what the drift alarm has seen is written by a thread of its own.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any

from pydantic import ValidationError

from suffice.optimizer import InvalidInput, NotFound

from . import calibrating
from .calibration_store import CalibrationStore
from .calibrations import Calibrations
from .errors import from_pydantic
from .sampling_wire import CalibrationCreate, CalibrationOut
from .traffic import Lesson

if TYPE_CHECKING:
    from suffice.optimizer import Sampling
    from suffice.optimizer.calibration import Calibration

FRESH_SECONDS = 1.0
log = logging.getLogger("suffice.api")


class ServiceCalibrations(Calibrations):
    """As the gateway's own folder of calibrations, over the newest versions in the database."""

    def __init__(self, store: CalibrationStore) -> None:
        super().__init__()
        self._store = store
        self._seen: dict[str, tuple[float, CalibrationOut]] = {}
        self._writer = ThreadPoolExecutor(1, "drift")

    def __contains__(self, name: str) -> bool:
        return self._known(name) is not None

    def get(self, name: str) -> Calibration:
        """Raises NotFound."""
        known = self._known(name)
        if known is None:
            raise NotFound(f"there is no calibration {name!r}")
        return self._store.named(name, known.version)[1]

    def facts(self) -> list[dict[str, Any]]:
        found: list[CalibrationOut] = []
        while page := self._store.all(found[-1].name if found else None, 1000):
            found += page
        return [
            {
                "name": one.name,
                "version": one.version,
                "prompts": one.prompts,
                "max_samples": one.max_samples,
                "drift": one.drift is not None and one.drift.alarm,
            }
            for one in found
        ]

    def put(self, name: str, document: Any) -> Calibration:
        """Fit or import one more version; takes seconds of CPU time. Raises InvalidInput."""
        if not isinstance(document, Mapping):
            raise InvalidInput("calibration", 'an object with "pool", or an exported calibration', document)
        content = dict(document) if "pool" in document else {"document": dict(document)}
        try:
            wanted = CalibrationCreate.model_validate({**content, "name": name})
        except ValidationError as error:
            raise InvalidInput.of(from_pydantic(error.errors())) from None
        made = self._store.add(name, wanted.document or calibrating.fitted(wanted))
        self._seen.pop(name, None)
        return self._store.named(name, made.version)[1]

    def delete(self, name: str) -> None:
        """Raises NotFound, and Conflict while samplings use it."""
        self._store.delete(name)
        self._seen.pop(name, None)

    def drifted(self, name: str) -> bool:
        known = self._known(name)
        return known is not None and known.drift is not None and known.drift.alarm

    def watch(self, name: str, answers: list[str | None], scores: list[float | None], *, by_score: bool = True) -> None:
        known = self._known(name)
        if known is not None:
            self._writer.submit(self._look, name, known.version, answers, scores, by_score=by_score)

    def _look(
        self, name: str, version: int, answers: list[str | None], scores: list[float | None], *, by_score: bool
    ) -> None:
        try:
            self._store.watch(name, version, answers, scores, by_score=by_score)
        except NotFound:
            pass  # deleted meanwhile
        except Exception:  # a full disk, a busy database: the next prompt may be luckier
            log.exception("what the drift alarm of %r has seen could not be kept", name)

    def learn(self, name: str, features: Sequence[float], sampling: Sampling) -> None:
        self._writer.submit(self._keep, name, features, sampling)

    def _keep(self, name: str, features: Sequence[float], sampling: Sampling) -> None:
        try:
            lesson = Lesson.of(features, sampling)
            if lesson is not None and name in self:
                self._store.learn(name, lesson)
        except Exception:  # as above
            log.exception("what a prompt taught %r could not be kept", name)

    def _known(self, name: str) -> CalibrationOut | None:
        """What is known of the newest version."""
        at = time.monotonic()
        seen = self._seen.get(name)
        if seen is None or at - seen[0] > FRESH_SECONDS:
            try:
                seen = self._seen[name] = at, self._store.one(name)
            except NotFound:
                self._seen.pop(name, None)
                return None
        return seen[1]
