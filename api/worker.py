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
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from importlib import import_module
from typing import Any, TextIO

from suffice.optimizer import Conflict, InvalidInput, NotFound, Stop, Study, Suggestion, Trial, TrialState

from .database import Database
from .store import Changes, Store

WARM_STUDIES = 32
MOST = 16  # spare suggestions
EARLY = 16  # suggestions prepared before there is a model: they cost next to nothing
HEAVY = (
    "suffice.optimizer.suggest",
    "suffice.optimizer.recommend",
    "botorch.optim.batched_lbfgs_b",
)  # for the first model

log = logging.getLogger("suffice.engine")


class Worker:
    """Computes, and writes what it computed to the store."""

    def __init__(self, store: Store) -> None:
        self.store = store
        self._warm: OrderedDict[int, tuple[Study, int]] = OrderedDict()  # the study and the change it was read up to

    def run(self, job: Mapping[str, Any]) -> dict[str, Any]:
        """The answer to a job."""
        match job["kind"]:
            case "refresh":
                return self.refresh(job["study"], job["count"], job["spare"])
            case "best":
                return self.best(job["study"])
            case "pareto":
                return self.pareto(job["study"])
            case "advice":
                return self.advice(job["study"])
            case "predict":
                return self.predict(job["study"], job["configurations"])
            case kind:
                raise InvalidInput("kind", "refresh, best, pareto, advice or predict", kind)

    def refresh(self, study_id: int, count: int, spare: int = 0) -> dict[str, Any]:
        """Replace the study's ready suggestions by ``count`` that know everything up to now, and about ``spare`` more.

        ``current`` in the answer: nothing happened meanwhile that they do not know.
        """
        study, known = self._read(study_id)
        if not any(trial.state.informative for trial in study.trials):
            count = max(count, EARLY)
        elif spare:
            running = sum(trial.state is TrialState.RUNNING for trial in study.trials)
            count += min(max(spare, running + 1), MOST)  # each of the workers may be back before the next refresh
        ready = study.suggest(count, first_number=known.next_number)
        suggestions = [] if isinstance(ready, Stop) else ready
        stop = _why_no_more(study, ready, known.next_number) if len(suggestions) < count else None
        current = self.store.replace_ready(study_id, suggestions, known, stop=stop)
        return {"current": current, "ready": len(suggestions)}

    def best(self, study_id: int) -> dict[str, Any]:
        """The recommended trial of today; kept with the study."""
        study, known = self._read(study_id)
        best = study.best
        answer = {
            "number": best.trial.number,
            "mean": best.mean,
            "sd": best.sd,
            "why": best.why,
            "data_version": known.data_version,
        }
        self.store.save_best(study_id, answer)
        return answer

    def pareto(self, study_id: int) -> dict[str, Any]:
        study, known = self._read(study_id)
        front = [{"number": b.trial.number, "mean": b.mean, "sd": b.sd, "why": b.why} for b in study.pareto]
        return {"trials": front, "data_version": known.data_version}

    def advice(self, study_id: int) -> dict[str, Any]:
        study, known = self._read(study_id)
        return {**study.advice.to_json(), "data_version": known.data_version}

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
        if study_id not in self._warm:
            self._warm[study_id] = (Study.from_json(self.store.definition(study_id)), 0)
        study, since = self._warm.pop(study_id)
        known = self.store.changes(study_id, since)
        study.load(known.trials)
        self._warm[study_id] = (study, known.sequence)
        while len(self._warm) > WARM_STUDIES:
            self._warm.popitem(last=False)
        return study, known


def _why_no_more(study: Study, ready: Sequence[Suggestion] | Stop, number: int) -> Stop | None:
    """What an ask is answered once ``ready`` is handed out: what the study says with all of it pending."""
    if isinstance(ready, Stop):
        return ready
    beside = Study.from_json(study.to_json())
    beside.load(study.trials)
    beside.load(Trial(number + i, s.params, TrialState.WAITING, source=s.source) for i, s in enumerate(ready))
    after = beside.suggest(1)
    return after if isinstance(after, Stop) else None


def answer(worker: Worker, job: Mapping[str, Any]) -> dict[str, Any]:
    """What goes back for a job: its result, or the error it met."""
    try:
        return {"result": worker.run(job)}
    except InvalidInput as error:
        problems = [{"field": p.field, "expected": p.expected, "got": repr(p.got)} for p in error.problems]
        return {"error": {"type": "InvalidInput", "message": str(error), "problems": problems}}
    except (NotFound, Conflict) as error:
        return {"error": {"type": type(error).__name__, "message": str(error)}}
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
