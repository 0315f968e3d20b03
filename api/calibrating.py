"""Fitting a calibration: seconds to minutes of CPU time, in a process of its own that ends with it.

`python -m suffice.api.calibrating` reads a pool from standard input and writes the calibration to standard output.
"""

from __future__ import annotations

import asyncio
import json
import os
import sys
from collections.abc import Mapping
from typing import Any

from suffice.optimizer import InvalidInput
from suffice.optimizer.errors import Problem
from suffice.optimizer.pool import Pool

from .errors import EngineFailed
from .sampling_wire import CalibrationCreate
from .traffic import Traffic

COMMAND = (sys.executable, "-m", "suffice.api.calibrating")
NEWEST = 4  # the newest of so many prompts are what a new prior has to predict better
SHOWN = {"agreement"}  # of what is learned, no decision depends on it: no reason for a new version
ONE_THREAD = dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"), "1")


class Fitting:
    """Fits calibrations, one at a time: the service has other work."""

    def __init__(self) -> None:
        self._turn = asyncio.Semaphore(1)

    async def fit(self, wanted: CalibrationCreate) -> dict[str, Any]:
        """The JSON of a calibration. Raises InvalidInput for a pool that it cannot be learned from."""
        await asyncio.to_thread(read, wanted.pool, wanted.score)
        return await self._done(wanted.model_dump(include={"pool", "max_samples", "score", "orders", "seed"}))

    async def learn_prompts(self, document: dict[str, Any], traffic: Traffic) -> dict[str, Any]:
        """A calibration's JSON with what features tell learned from traffic."""
        return await self._done({"document": document, "traffic": traffic})

    async def better_prompts(self, document: dict[str, Any], traffic: Traffic) -> dict[str, Any] | None:
        """The same, of what then predicts the newest traffic better than the calibration does; None: nothing does."""
        made = await self._done({"document": document, "traffic": traffic, "if_better": True})
        return None if made == document else made

    async def _done(self, wanted: dict[str, Any]) -> dict[str, Any]:
        job = json.dumps(wanted).encode()
        async with self._turn:
            pipe = asyncio.subprocess.PIPE
            environment = {**os.environ, **ONE_THREAD}
            process = await asyncio.create_subprocess_exec(*COMMAND, stdin=pipe, stdout=pipe, env=environment)
            try:
                found, _ = await process.communicate(job)
            finally:
                if process.returncode is None:  # the request was given up
                    process.kill()
                    await process.wait()
        if process.returncode != 0:
            raise EngineFailed("the calibration could not be fitted; the service's log says why")
        made: dict[str, Any] = json.loads(found)
        if "problems" in made:
            raise InvalidInput.of(Problem(*problem) for problem in made["problems"])
        return made


def fitted(wanted: CalibrationCreate) -> dict[str, Any]:
    """The JSON of a calibration, computed here. Raises InvalidInput."""
    from suffice.optimizer.calibration import Calibration

    pool = read(wanted.pool, wanted.score)
    return Calibration.fit(pool, wanted.max_samples, orders=wanted.orders, seed=wanted.seed).to_json()


def informed(document: dict[str, Any], traffic: Traffic) -> dict[str, Any]:
    """A calibration's JSON with what features tell learned from traffic, computed here. Raises InvalidInput."""
    import numpy as np

    from suffice.optimizer.forecasts import Forecasts
    from suffice.optimizer.prompts import PromptModel

    rows = traffic["features"]
    if len({len(row) for row in rows}) != 1:
        raise InvalidInput("features", "finished prompts with as many features each", f"{len(rows)} prompts")
    X, right, drawn = (np.array(traffic[name], dtype=float) for name in ("features", "right", "drawn"))
    made = {"forecasts": Forecasts.learn(X, traffic["counted"]).to_json()}
    if not document["quality"]:  # votes tell how many are right, not how good they are
        made["prompt_model"] = PromptModel.fit(X, right, drawn).to_json()
    return {**document, **made}


def improved(document: dict[str, Any], traffic: Traffic) -> dict[str, Any]:
    """The calibration with those parts of ``informed`` of which the newest traffic is more likely than of its own.

    They are judged by what all but the newest traffic teaches, each statistic by itself.
    """
    from suffice.optimizer.prompts import SIGNAL

    newest = {name: values[: len(values) // NEWEST] for name, values in traffic.items()}
    later = informed(document, {name: values[len(values) // NEWEST :] for name, values in traffic.items()})
    before, after = likelihood(_known(document, later), newest), likelihood(later, newest)
    better = {name for name, value in after.items() if value > before[name] + SIGNAL}
    if not better - SHOWN:
        return document
    made = informed(document, traffic)
    if "solve_rate" not in better:
        made["prompt_model"] = document["prompt_model"]
    own = {} if document.get("forecasts") is None else document["forecasts"]["of"]
    new = {name: one for name, one in made["forecasts"]["of"].items() if name in better}
    made["forecasts"] = {**made["forecasts"], "of": {**own, **new}}
    return made


def likelihood(document: Mapping[str, Any], traffic: Traffic) -> dict[str, float]:
    """log P(traffic) under a calibration's JSON, in nats per prompt: of solve rates and each statistic."""
    import numpy as np

    from suffice.optimizer.forecasts import Forecasts
    from suffice.optimizer.prompts import PromptModel

    X, right, drawn = (np.array(traffic[name], dtype=float) for name in ("features", "right", "drawn"))
    found = Forecasts.from_json(document["forecasts"]).log_likelihood(X, traffic["counted"])
    if document["prompt_model"] is not None:
        found["solve_rate"] = PromptModel.from_json(document["prompt_model"]).log_likelihood(X, right, drawn)
    return found


def _known(document: dict[str, Any], later: dict[str, Any]) -> dict[str, Any]:
    """What the calibration says now; where it says nothing, what ``later`` says without looking at features."""
    blind = {name: {**one, "mean": None} for name, one in later["forecasts"]["of"].items()}
    own = document.get("forecasts") or {**later["forecasts"], "of": {}}
    model = document["prompt_model"]
    if model is None and later["prompt_model"] is not None:
        model = {**later["prompt_model"], "mean": None}
    return {"prompt_model": model, "forecasts": {**own, "of": {**blind, **own["of"]}}}


def answer(job: dict[str, Any]) -> dict[str, Any]:
    """The JSON of the calibration that a job wants, or what is wrong with its pool."""
    try:
        if "traffic" in job:
            return (improved if job.get("if_better") else informed)(job["document"], job["traffic"])
        return fitted(CalibrationCreate(name="fitted", **job))
    except InvalidInput as error:
        return {"problems": [(p.field, p.expected, _plain(p.got)) for p in error.problems]}


def read(document: Any, score: str) -> Pool:
    """The pool that a document holds. Raises InvalidInput."""
    try:
        return Pool.of(document, score)
    except InvalidInput as error:
        wrong = (Problem(p.field.removeprefix("pool."), p.expected, p.got) for p in error.problems)
        raise InvalidInput.of(wrong).under("pool") from None
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise InvalidInput("pool", "recorded answers (docs/sampling.md has the format)", str(error)) from None


def _plain(value: Any) -> Any:
    return value if isinstance(value, str | int | float | bool | None) else repr(value)[:200]


if __name__ == "__main__":
    os.nice(5)
    sys.stdout.write(json.dumps(answer(json.load(sys.stdin))))
