"""An engine worker: a process of its own that computes suggestions, recommendations and predictions.

It opens the database itself and keeps studies warm, reading only what changed; a job names a study and what is wanted.
`python -m suffice.api.worker DATABASE` speaks JSON lines: jobs come on standard input, answers go to standard output.
When its input ends (the service stopped or was killed), it exits at once; what it had not committed never happened.
"""

from __future__ import annotations

import json
import logging
import os
import queue
import signal
import sys
import threading
import time
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from importlib import import_module
from typing import Any, TextIO

from suffice.optimizer import Best, Conflict, InvalidInput, NotFound, Stop, Study, Suggestion, Trial, TrialState

from .chooser import Chooser, chooser
from .database import Database
from .definitions import study_of
from .store import Changes, Store

JOBS = (
    *("refresh", "best", "pareto", "advice", "predict", "should_prune"),
    *("diagnostics", "analyses", "slices", "contour"),
)
WARM_STUDIES = 32
MOST = 16  # spare suggestions
EARLY = 16  # suggestions prepared before there is a model: they cost next to nothing
HEAVY = (
    "suffice.optimizer.suggest",
    "suffice.optimizer.recommend",
    "botorch.optim.batched_lbfgs_b",
)  # for the first model

log = logging.getLogger("suffice.engine")


@dataclass(slots=True)
class Warm:
    """A study that is kept, and the change that it was read up to."""

    study: Study
    choose: Chooser
    quick: bool  # whether one more suggestion costs next to nothing
    earlier: Mapping[str, int]  # the studies that it learns from: their ids
    since: int = 0
    learned: dict[str, int] = field(default_factory=dict)  # up to which data version, from each of them


class Worker:
    """Computes, and writes what it computed to the store."""

    def __init__(self, store: Store) -> None:
        self.store = store
        self._warm: OrderedDict[int, Warm] = OrderedDict()

    def run(self, job: Mapping[str, Any]) -> dict[str, Any]:
        """The answer to a job: its kind is the name of a method, its other fields are that one's arguments."""
        if job["kind"] not in JOBS:
            raise InvalidInput("kind", f"one of {list(JOBS)}", job["kind"])
        arguments = {name: value for name, value in job.items() if name not in ("kind", "study")}
        found: dict[str, Any] = getattr(self, job["kind"])(job["study"], **arguments)
        return found

    def refresh(
        self, study_id: int, count: int, spare: int = 0, context: Mapping[str, Any] | None = None
    ) -> dict[str, Any]:
        """Replace the study's ready suggestions by ``count`` that know everything up to now, and about ``spare`` more.

        Of a study with contexts those in ``context``, or in the newest trial's, which may well be the next one's.
        ``current`` in the answer: nothing happened meanwhile that they do not know; ``seconds``: where the time went.
        """
        study, known = self._read(study_id)
        context = context or {name: study.trials[-1].params[name] for name in study.context if study.trials}
        if study.context and not context:
            return {"current": True, "ready": 0}
        warm = self._warm[study_id]
        if not warm.quick:
            count = max(count, 1)
        elif not any(trial.state.informative for trial in study.trials):
            count = max(count, EARLY)
        elif spare:
            running = sum(trial.state is TrialState.RUNNING for trial in study.trials)
            count += min(max(spare, running + 1), MOST)  # each of the workers may be back before the next refresh
        began = time.perf_counter()
        if warm.quick:  # another engine has models of its own
            study._learned()
        fitted = time.perf_counter()
        ready = warm.choose(study, count, known.next_number, context)
        chosen = time.perf_counter()
        suggestions = [] if isinstance(ready, Stop) else ready
        stop = ready if isinstance(ready, Stop) else None
        if 0 < len(suggestions) < count:
            stop = self._after(study_id, suggestions, known.next_number, context)
        current = self.store.replace_ready(study_id, suggestions, known, stop=stop, context=context)
        seconds = {"fit": fitted - began, "acquisition": chosen - fitted}
        return {"current": current, "ready": len(suggestions), "seconds": seconds}

    def best(self, study_id: int, context: Mapping[str, Any] | None = None) -> dict[str, Any]:
        """The recommended trial of today; kept with the study where it depends on no context."""
        study, known = self._read(study_id)
        best = study.best_at(context) if context else study.best
        answer = {**_recommended(best), "data_version": known.data_version}
        if not context:
            self.store.save_best(study_id, answer)
        return answer

    def pareto(self, study_id: int, context: Mapping[str, Any] | None = None) -> dict[str, Any]:
        study, known = self._read(study_id)
        front = study.pareto_at(context) if context else study.pareto
        return {"trials": [_recommended(best) for best in front], "data_version": known.data_version}

    def advice(self, study_id: int, context: Mapping[str, Any] | None = None) -> dict[str, Any]:
        study, known = self._read(study_id)
        advice = study.advice_at(context) if context else study.advice
        return {**advice.to_json(), "data_version": known.data_version}

    def should_prune(self, study_id: int, number: int) -> dict[str, Any]:
        """Whether to stop a running trial early."""
        study, _ = self._read(study_id)
        found = study.should_prune(number)
        return {"prune": None if found is None else found.to_json()}

    def diagnostics(self, study_id: int) -> dict[str, Any]:
        """How well the model predicts what it has not seen, and which parameters matter."""
        study, known = self._read(study_id)
        found = study.diagnostics
        columns = (found.observed.tolist(), found.mean.tolist(), found.sd.tolist())
        return {
            "r2": found.r2,
            "coverage": [{"level": level, "share": share} for level, share in found.coverage.items()],
            "importance": [
                {"parameter": name, "alone": i.alone, "total": i.total} for name, i in found.importance.items()
            ],
            "earlier": found.earlier,
            "leave_one_out": [{"observed": y, "mean": m, "sd": s} for y, m, s in zip(*columns, strict=True)],
            "data_version": known.data_version,
        }

    def analyses(self, study_id: int) -> dict[str, Any]:
        """Ax's analyses; kept with the study. Takes seconds to minutes."""
        from suffice.adapters.ax import analyse

        study, known = self._read(study_id)
        self.store.save_analyses(study_id, [card.to_json() for card in analyse(study)], known.data_version)
        return {}

    def slices(self, study_id: int, **wanted: Any) -> dict[str, Any]:
        """What the model expects along single parameters (optimizer/slices.py)."""
        from suffice.optimizer.slices import slice_json, slices

        study, known = self._read(study_id)
        return {"slices": [slice_json(one) for one in slices(study, **wanted)], "data_version": known.data_version}

    def contour(self, study_id: int, **wanted: Any) -> dict[str, Any]:
        """The same over two parameters."""
        from suffice.optimizer.slices import contour, contour_json

        study, known = self._read(study_id)
        return {**contour_json(contour(study, **wanted)), "data_version": known.data_version}

    def predict(self, study_id: int, configurations: list[dict[str, Any]]) -> dict[str, Any]:
        study, known = self._read(study_id)
        predicted = study.predict(configurations)
        return {
            "mean": predicted.mean.tolist(),
            "sd": predicted.sd.tolist(),
            "observations": sum(trial.state.informative for trial in study.trials),
            "data_version": known.data_version,
        }

    def _read(self, study_id: int) -> tuple[Study, Changes]:
        """The study as the store has it now."""
        warm = self._warm.pop(study_id, None) or self._open(study_id)
        known = self.store.changes(study_id, warm.since)
        warm.study.load(known.trials)
        warm.since = known.sequence
        self._learn(warm)
        self._warm[study_id] = warm
        while len(self._warm) > WARM_STUDIES:
            self._warm.popitem(last=False)
        return warm.study, known

    def _learn(self, warm: Warm) -> None:
        """What the studies that it learns from have measured by now."""
        for name, source_id in warm.earlier.items():
            source, known = self._read(source_id)
            if warm.learned.get(name) != known.data_version:
                warm.study.learn_from(name, source)
                warm.learned[name] = known.data_version

    def _after(
        self, study_id: int, handed_out: Sequence[Suggestion], number: int, context: Mapping[str, Any]
    ) -> Stop | None:
        """What an ask is answered once these are handed out, if that is a stop: what is chosen with them pending."""
        beside = self._open(study_id)
        beside.study.load(self._warm[study_id].study.trials)
        beside.study.load(
            Trial(number + i, s.params, TrialState.WAITING, source=s.source) for i, s in enumerate(handed_out)
        )
        self._learn(beside)
        after = beside.choose(beside.study, 1, number + len(handed_out), context)
        return after if isinstance(after, Stop) else None

    def _open(self, study_id: int) -> Warm:
        definition = self.store.definition(study_id)
        quick = definition.get("engine") != "ax"
        return Warm(study_of(definition), chooser(definition), quick, self.store.earlier(study_id))


def _recommended(best: Best) -> dict[str, Any]:
    return {
        "number": best.trial.number,
        "parameters": best.params,
        "mean": best.mean,
        "sd": best.sd,
        "why": best.why,
        "expected": {metric: {"mean": mean, "sd": sd} for metric, (mean, sd) in best.expected.items()},
        "probability": best.probability,
    }


def answer(worker: Worker, job: Mapping[str, Any]) -> dict[str, Any]:
    """What goes back for a job: its result, or the error it met."""
    try:
        return {"result": worker.run(job)}
    except InvalidInput as error:
        problems = [{"field": p.field, "expected": p.expected, "got": repr(p.got)} for p in error.problems]
        return {"error": {"type": "InvalidInput", "message": str(error), "problems": problems}}
    except (NotFound, Conflict) as error:
        kind = "NotFound" if isinstance(error, NotFound) else "Conflict"
        return {"error": {"type": kind, "message": str(error)}}
    except Exception as error:  # whatever it was, the service has to hear of it, and the next job may be fine
        log.exception("%s of study %s failed", job["kind"], job["study"])
        return {"error": {"type": type(error).__name__, "message": str(error)}}


def serve(worker: Worker, jobs: queue.SimpleQueue[dict[str, Any]], out: TextIO) -> None:
    """Answer jobs, one at a time, for ever."""
    _write(out, {"ready": os.getpid()})
    while True:
        _write(out, answer(worker, jobs.get()))


def _write(out: TextIO, message: Mapping[str, Any]) -> None:
    out.write(json.dumps(message) + "\n")
    out.flush()


def _listen(jobs: queue.SimpleQueue[dict[str, Any]]) -> None:
    for line in sys.stdin:
        jobs.put(json.loads(line))
    os._exit(0)  # the service is gone; whatever is being computed is of no use to anyone


def _import_heavy() -> None:
    for name in HEAVY:
        import_module(name)


def main() -> None:
    """Serve the database that is the first argument; with a second one, ``aside``, at a lower priority."""
    if "aside" in sys.argv[2:]:
        os.nice(5)
    logging.basicConfig(level=logging.INFO, format="%(levelname)s: %(name)s: %(message)s")
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C in a terminal reaches the whole group: the service decides
    out = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # what a library prints does not belong between the answers
    jobs: queue.SimpleQueue[dict[str, Any]] = queue.SimpleQueue()
    threading.Thread(target=_listen, args=(jobs,), daemon=True).start()
    threading.Thread(target=_import_heavy, daemon=True).start()
    serve(Worker(Store(Database(sys.argv[1]))), jobs, out)


if __name__ == "__main__":
    main()
