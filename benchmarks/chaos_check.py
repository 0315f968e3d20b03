"""Whether what the clients wrote down agrees with what the database holds.

A client writes down, before it goes on, what it was answered: the trials that it was `given` and with which lease, the
results that were acknowledged (`told`) or `refused`, and that a study has `stopped`.
"""

from __future__ import annotations

import json
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime
from itertools import pairwise
from pathlib import Path
from typing import Any

Entry = dict[str, Any]


def read(folder: Path) -> list[Entry]:
    """The clients' logs."""
    return [json.loads(line) for log in sorted(folder.glob("*.jsonl")) for line in log.read_text().splitlines()]


def check(log: Iterable[Entry], stored: Mapping[str, Sequence[Entry]], budget: int) -> list[str]:
    """What is wrong, in words. ``stored`` are the trials of each study as the database has them."""
    entries = list(log)
    problems: list[str] = []
    for study, trials in stored.items():
        own = [entry for entry in entries if entry["study"] == study]
        for found in (
            _lost(own, trials),
            _handed_out_twice(own),
            _duplicates(trials),
            _unfinished(own, trials, budget),
        ):
            problems += [f"{study}: {problem}" for problem in found]
    return problems


def _lost(log: Sequence[Entry], trials: Sequence[Entry]) -> Iterable[str]:
    """Every acknowledged tell is there, once, with its value; and nothing that nobody told."""
    values = {t["number"]: [m["value"] for m in t["measurements"]] for t in trials}
    told = defaultdict(list)
    for entry in log:
        if entry["what"] == "told":
            told[entry["number"]].append(entry["value"])
    for number, acknowledged in told.items():
        if len(acknowledged) > 1:
            yield f"trial {number} was acknowledged {len(acknowledged)} times"
        if values.get(number) != acknowledged[:1]:
            yield f"trial {number}: {acknowledged[0]} was acknowledged, {values.get(number)} is stored"
    for number in sorted(set(values) - set(told)):
        if values[number]:
            yield f"trial {number} has a result that nobody was told is stored"


def _handed_out_twice(log: Sequence[Entry]) -> Iterable[str]:
    """A trial goes to a second lease only when the first one has ended; only a lost lease is refused."""
    leases = defaultdict(list)
    for entry in log:
        if entry["what"] == "given":
            leases[entry["number"]].append(entry)
    for number, given in leases.items():
        given.sort(key=lambda entry: datetime.fromisoformat(entry["expires_at"]))
        for before, after in pairwise(given):
            began = datetime.fromisoformat(after["started_at"])
            if before["token"] != after["token"] and began < datetime.fromisoformat(before["expires_at"]):
                yield f"trial {number} was in two leases at {began}"
    for entry in log:
        if entry["what"] == "refused" and len({one["token"] for one in leases[entry["number"]]}) < 2:
            yield f"trial {entry['number']}: a result was refused, and nobody else had the trial"


def _duplicates(trials: Sequence[Entry]) -> Iterable[str]:
    for point, count in Counter(json.dumps(t["parameters"], sort_keys=True) for t in trials).items():
        if count > 1:
            yield f"{point} was suggested {count} times"


def _unfinished(log: Sequence[Entry], trials: Sequence[Entry], budget: int) -> Iterable[str]:
    if not any(entry["what"] == "stopped" for entry in log):
        yield "no client was told that it is finished"
    if [t["number"] for t in trials] != list(range(budget)):
        yield f"there are {len(trials)} trials of {budget}"
    if open_ := [t["number"] for t in trials if t["state"] != "COMPLETED"]:
        yield f"not completed: {open_}"
