"""Learning what features of prompts tell from the service's own traffic, by itself: no request asks for it.

Once enough further prompts with features are finished under a calibration, of samplings or of a gateway, the engine's
process for calibrations fits the prior over prompts, and forecasts of their answers, to all of them. How many of the
answers are right is what votes and scores say: nobody labels traffic. A new version of the calibration is made only
where what all but the newest prompts teach predicts the newest ones better than the calibration does now, so that it
does not chase noise and versions stay few.
"""

from __future__ import annotations

import asyncio
import logging
from dataclasses import dataclass, field

from fastapi.concurrency import run_in_threadpool

from .calibrating import Fitting
from .sampling_store import SamplingStore
from .sampling_wire import CalibrationOut
from .traffic import traffic

FEWEST = 48  # prompts that are worth looking at
GROWTH = 1.5  # times as many as the last time, before they are looked at again
log = logging.getLogger("suffice.api")


@dataclass
class PromptLearning:
    """Of all projects' calibrations; ``looked`` is how many prompts each had when it was last looked at."""

    samplings: SamplingStore
    fitting: Fitting
    looked: dict[tuple[int, str], int] = field(default_factory=dict[tuple[int, str], int])

    async def run(self, seconds: float) -> None:
        """Look every so many seconds, until cancelled; not at all with 0."""
        while seconds:
            await asyncio.sleep(seconds)
            try:
                await self.look()
            except Exception:  # a full disk, a lost connection: it may work the next time
                log.exception("what features of prompts tell could not be learned")

    async def look(self) -> list[CalibrationOut]:
        """Learn where there is enough that is new; the new versions."""
        found: list[CalibrationOut] = []
        for (project, name), prompts in (await run_in_threadpool(self.samplings.finished)).items():
            if prompts < max(FEWEST, GROWTH * self.looked.get((project, name), 0)):
                continue
            self.looked[project, name] = prompts
            made = await self._learn(self.samplings.within(project), name)
            if made is not None:
                log.info("calibration %s: version %d has learned from %d prompts", name, made.version, prompts)
                found.append(made)
        return found

    async def _learn(self, samplings: SamplingStore, name: str) -> CalibrationOut | None:
        known = await run_in_threadpool(samplings.calibrations.export, name)
        lessons = await run_in_threadpool(samplings.traffic, name)
        if len(lessons) < FEWEST or len({len(one.features) for one in lessons}) != 1:
            return None
        document = await self.fitting.better_prompts(known.document, traffic(lessons))
        if document is None:
            return None
        newest = await run_in_threadpool(samplings.calibrations.one, name)
        if newest.version != known.version:  # somebody made another meanwhile
            return None
        return await run_in_threadpool(samplings.calibrations.add, name, document)
