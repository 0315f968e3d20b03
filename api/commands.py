"""What the commands of the command line do with the client, and what they print.

A command returns the answer as JSON would hold it, and how a person would like to read it: a table on a terminal where
rich is installed, tab-separated columns elsewhere (for cut, sort and awk).
"""

from __future__ import annotations

import json
import sys
from argparse import Namespace
from collections.abc import Callable, Iterable, Mapping, Sequence
from importlib import import_module
from pathlib import Path
from typing import Any

from pydantic import BaseModel

from .calls import build
from .cli import STOPPED
from .client import Client, InvalidRequest, Stop, Trial
from .wire import FieldProblem, ParameterSpec, StudyCreate, StudyExport, StudyOut

RETRIES = 3  # a person waits, or a script has its own loop


def run(args: Namespace) -> int:
    """Run one command against the service and print its answer; returns the exit code."""
    with Client(args.url, args.api_key, retries=RETRIES) as client:
        if args.command == "events":
            return events(client, args)
        data, show = COMMANDS[args.command](client, args)
        if args.json:
            print(json.dumps(_plain(data), indent=None if isinstance(data, list) and len(data) > 100 else 2))
        else:
            show()
        return STOPPED if isinstance(data, Stop) else 0


SETTINGS = (  # that few studies have: shown where they are there
    "cost", "model", "context", "fidelity", "environment", "risk", "conservative", "earlier", "early_stopping",
    "global_stopping", "engine",
)  # fmt: skip
Answer = tuple[Any, Callable[[], None]]


# --- studies ----------------------------------------------------------------------------------------------------------


def studies(client: Client, _args: Namespace) -> Answer:
    found = [study.info for study in client.studies()]
    rows = [(s.name, s.state, _goal(s), _counts(s), f"{s.created_at:%Y-%m-%d %H:%M}") for s in found]
    return found, lambda: table(("study", "state", "goal", "trials", "created"), rows)


def show(client: Client, args: Namespace) -> Answer:
    return _study(client.study(args.study).info)


def create(client: Client, args: Namespace) -> Answer:
    definition = _read(args.file)
    if not isinstance(definition, dict):
        raise _wrong("definition", "a study's definition: name, parameters, objectives, ...", type(definition).__name__)
    if args.name:
        definition["name"] = args.name
    if isinstance(definition.get("parameters"), dict):
        definition["parameters"] = [{"name": name, **fields} for name, fields in definition["parameters"].items()]
    study = client._link.run(client._create(build(StudyCreate, **definition), args.exist_ok))
    return _study(study.info)


def best(client: Client, args: Namespace) -> Answer:
    study = client.study(args.study)
    found = study.best(_context(study.info, args))
    rows = [("trial", found.trial.number), *found.parameters.items()]
    rows += [(f"measured {metric}", value) for metric, value in found.trial.values.items()]
    rows += [(name, value) for name, value in (("mean", found.mean), ("sd", found.sd)) if value is not None]
    return found, lambda: table(("best", found.why), rows)


def pareto(client: Client, args: Namespace) -> Answer:
    study = client.study(args.study)
    found = study.pareto(_context(study.info, args))
    return found, lambda: _trials([study._handle(one.trial) for one in found.trials])


def advice(client: Client, args: Namespace) -> Answer:
    study = client.study(args.study)
    found = study.advice(_context(study.info, args))
    numbers = [("pays", found.pays), ("gain", found.gain), ("cost", found.cost), *(found.parameters or {}).items()]
    return found, lambda: table(("advice", found.why), [(name, value) for name, value in numbers if value is not None])


def diagnostics(client: Client, args: Namespace) -> Answer:
    found = client.study(args.study).diagnostics()
    rows: list[tuple[object, ...]] = [("variance explained", found.r2)]
    rows += [(f"truth within {c.level:.0%} intervals", c.share) for c in found.coverage]
    rows += [(f"importance of {i.parameter}", i.total) for i in found.importance]
    rows += [(f"explained by {name}", share) for name, share in found.earlier.items()]
    return found, lambda: table(("of results", str(len(found.leave_one_out))), rows)


def analyses(client: Client, args: Namespace) -> Answer:
    found = client.study(args.study).analyses(max_wait=args.max_wait)
    if args.output:
        Path(args.output).write_text(found.model_dump_json(exclude_none=True) + "\n")
    rows = [(card.name, card.title if card.plotly else card.subtitle) for card in found.cards]
    return found, lambda: table(("analysis", "about"), rows)


def trials(client: Client, args: Namespace) -> Answer:
    found = list(client.study(args.study).history(args.state))
    return [t.data for t in found], lambda: _trials(found)


def predict(client: Client, args: Namespace) -> Answer:
    study = client.study(args.study)
    found = study.predict(_configuration(study.info, args.params))
    (one,) = found.predictions
    rows = [("mean", one.mean), ("sd", one.sd), ("observations", found.observations)]
    return found, lambda: table((found.metric, "expected"), rows)


def stop(client: Client, args: Namespace) -> Answer:
    return _study(client.study(args.study).stop())


def resume(client: Client, args: Namespace) -> Answer:
    return _study(client.study(args.study).resume())


def delete(client: Client, args: Namespace) -> Answer:
    if not args.yes:
        if not sys.stdin.isatty():
            raise _wrong("--yes", "to be given, since there is nobody to ask", None)
        if input(f"Delete {args.study} and all its trials? [y/N] ").strip().lower() not in ("y", "yes"):
            return {"deleted": None}, lambda: print("kept")
    client.delete_study(args.study)
    return {"deleted": args.study}, lambda: print(f"deleted {args.study}")


def export(client: Client, args: Namespace) -> Answer:
    document = client.study(args.study).export()
    text = document.model_dump_json(indent=2, exclude_none=True)
    if args.output:
        Path(args.output).write_text(text + "\n")
        written = {"file": args.output, "trials": len(document.trials)}
        return written, lambda: print(f"wrote {len(document.trials)} trials to {args.output}")
    return document, lambda: print(text)


def import_(client: Client, args: Namespace) -> Answer:
    document = build(StudyExport, **_read(args.file))
    return _study(client.import_study(document, args.name).info)


def events(client: Client, args: Namespace) -> int:
    """One line per event, for ever."""
    for event in client.study(args.study).events(args.after):
        text = " ".join(f"{name}={value}" for name, value in event.data.items())
        print(event.model_dump_json() if args.json else f"{event.id}\t{event.event}\t{text}", flush=True)
    return 0


# --- trials -----------------------------------------------------------------------------------------------------------


def ask(client: Client, args: Namespace) -> Answer:
    study = client.study(args.study)
    context = _context(study.info, args)
    asked = study.ask(args.count, context=context, worker=args.worker, fresh=args.fresh, max_wait=args.max_wait)
    if isinstance(asked, Stop):
        return asked, lambda: print(f"stop: {asked.reason}. {asked.message}".rstrip(". "))
    return [t.data for t in asked], lambda: _asked(study.name, asked)


def _asked(name: str, asked: list[Trial]) -> None:
    _trials(asked)
    for t in asked:
        if t.data.lease:
            print(f"suffice tell {name} {t.number} VALUE --lease {t.data.lease.token}")


def tell(client: Client, args: Namespace) -> Answer:
    t = _held(client, args)
    if args.infeasible is not None:
        t.infeasible(args.infeasible)
    elif args.pruned is not None:
        t.prune(args.pruned)
    elif args.result:
        t.tell(_result(args.result), args.stderr, _gradient(args))
    else:
        raise _wrong("result", "a value, METRIC=VALUE, --infeasible or --pruned", None)
    return _trial(t)


def report(client: Client, args: Namespace) -> Answer:
    t = _held(client, args)
    prune = t.report(_result(args.result), args.step)
    return t.data.model_copy(update={"prune": prune}), lambda: _reported(t)


def _reported(t: Trial) -> None:
    _trials([t])
    if t.should_prune is not None:
        print(f"stop it: {t.should_prune.reason}")


def heartbeat(client: Client, args: Namespace) -> Answer:
    t = _held(client, args)
    t.heartbeat()
    return _trial(t)


def fail(client: Client, args: Namespace) -> Answer:
    t = _held(client, args)
    t.fail(args.reason, retry=not args.no_retry)
    return _trial(t)


def cancel(client: Client, args: Namespace) -> Answer:
    return _trial(client.study(args.study).cancel(args.number, args.reason))


def enqueue(client: Client, args: Namespace) -> Answer:
    study = client.study(args.study)
    return _trial(study.enqueue(_configuration(study.info, args.params)))


def add(client: Client, args: Namespace) -> Answer:
    study = client.study(args.study)
    return _trial(
        study.add(_configuration(study.info, args.params), _result(args.result), args.stderr, _gradient(args))
    )


COMMANDS: Mapping[str, Callable[[Client, Namespace], Answer]] = {
    "studies": studies, "show": show, "create": create, "best": best, "pareto": pareto, "advice": advice,
    "diagnostics": diagnostics, "analyses": analyses, "trials": trials, "predict": predict, "stop": stop,
    "resume": resume, "delete": delete, "export": export, "import": import_, "ask": ask, "tell": tell,
    "report": report, "heartbeat": heartbeat, "fail": fail, "cancel": cancel, "enqueue": enqueue, "add": add,
}  # fmt: skip


# --- input ------------------------------------------------------------------------------------------------------------


def _held(client: Client, args: Namespace) -> Trial:
    return client.study(args.study).trial(args.number, lease_token=args.lease)


def _read(file: str) -> Any:
    """A JSON, YAML or TOML document from a file, or JSON from stdin."""
    try:
        text = sys.stdin.read() if file == "-" else Path(file).read_text()
    except OSError as error:
        raise _wrong("file", "a file that can be read", f"{file} ({error.strerror})") from None
    kind = Path(file).suffix.lower()
    try:
        if kind == ".toml":
            return import_module("tomllib").loads(text)
        if kind in (".yaml", ".yml"):
            return import_module("yaml").safe_load(text)
        return json.loads(text)
    except ModuleNotFoundError:
        raise _wrong("file", "JSON or TOML, or an installed pyyaml (pip install pyyaml)", file) from None
    except Exception as error:
        raise _wrong("file", f"{kind.lstrip('.') or 'json'} ({error})", file) from None


def _result(words: Sequence[str]) -> float | dict[str, float]:
    if len(words) == 1 and "=" not in words[0]:
        return _number("result", words[0])
    return {name: _number(name, text) for name, text in _pairs(words, "METRIC=VALUE")}


def _context(study: StudyOut, args: Namespace) -> dict[str, Any] | None:
    return _configuration(study, args.context) if args.context else None


def _gradient(args: Namespace) -> dict[str, float] | None:
    return {name: _number(name, text) for name, text in _pairs(args.gradient or (), "NAME=VALUE")} or None


def _configuration(study: StudyOut, words: Sequence[str]) -> dict[str, Any]:
    specs = {spec.name: spec for spec in study.parameters}
    return {name: _value(specs.get(name), text) for name, text in _pairs(words, "NAME=VALUE")}


def _pairs(words: Iterable[str], form: str) -> list[tuple[str, str]]:
    pairs = [(word, *word.split("=", 1)) for word in words]
    for pair in pairs:
        if len(pair) != 3:
            raise _wrong("arguments", form, pair[0])
    return [(pair[1], pair[2]) for pair in pairs if len(pair) == 3]


def _value(spec: ParameterSpec | None, text: str) -> Any:
    """What a person means by ``text`` for a parameter: a choice of it, a number, true or false, or else the text."""
    for choice in (spec.choices if spec else None) or ():
        if text == (choice if isinstance(choice, str) else json.dumps(choice)):
            return choice
    try:
        value = json.loads(text)
    except ValueError:
        return text
    return value if isinstance(value, bool | int | float) else text


def _number(field: str, text: str) -> float:
    try:
        return float(text)
    except ValueError:
        raise _wrong(field, "a number", text) from None


def _wrong(field: str, expected: str, got: Any) -> InvalidRequest:
    return InvalidRequest.of(FieldProblem(field=field, expected=expected, got=got))


# --- output -----------------------------------------------------------------------------------------------------------


def _study(info: StudyOut) -> Answer:
    rows: list[tuple[str, object]] = [("state", info.state), ("goal", _goal(info)), ("trials", _counts(info))]
    rows += [(f"parameter {p.name}", _parameter(p)) for p in info.parameters]
    rows += [("constraint", text) for text in (*info.parameter_constraints, *info.outcome_constraints)]
    rows += [("budget", _setting(info.budget) or "none"), ("acquisition", info.acquisition), ("noise", info.noise)]
    rows += [(name, _setting(getattr(info, name))) for name in SETTINGS if getattr(info, name)]
    rows += [("seed", info.seed), ("lease", f"{info.lease_seconds:g} s"), ("retries", info.max_retries)]
    return info, lambda: table(("study", info.name), rows)


def _setting(setting: Any) -> str:
    plain = _plain(setting)
    if not isinstance(plain, dict):
        return plain if isinstance(plain, str) else json.dumps(plain)
    return ", ".join(
        f"{name} {value if isinstance(value, str) else json.dumps(value)}" for name, value in plain.items()
    )


def _parameter(p: ParameterSpec) -> str:
    what = f"{p.low:g} to {p.high:g}" if p.low is not None and p.high is not None else ""
    what = (
        ", ".join(map(str, p.choices))
        if p.choices is not None
        else what or str(p.value if p.type == "constant" else "")
    )
    parts = [p.type, what, "log" if p.log else "", f"step {p.step:g}" if p.step not in (None, 1) else ""]
    return " ".join(part for part in parts if part) + (f" if {p.active_if}" if p.active_if else "")


def _goal(info: StudyOut) -> str:
    return ", ".join(f"{o.direction} {o.metric}" for o in info.objectives)


def _counts(info: StudyOut) -> str:
    return ", ".join(f"{count} {state.lower()}" for state, count in info.trials.items() if count) or "none"


def _trial(t: Trial) -> Answer:
    return t.data, lambda: _trials([t])


def _trials(found: Sequence[Trial]) -> None:
    names = list(dict.fromkeys(name for t in found for name in t.params))
    metrics = list(dict.fromkeys(metric for t in found for metric in t.values))
    rows = [
        (
            t.number,
            t.state,
            *(t.values.get(m, "") for m in metrics),
            *(t.params.get(n, "") for n in names),
            t.source.method,
        )
        for t in found
    ]
    table(("trial", "state", *metrics, *names, "source"), rows)


def table(header: Sequence[str], rows: Sequence[Sequence[object]]) -> None:
    cells = [[f"{cell:.6g}" if isinstance(cell, float) else str(cell) for cell in row] for row in rows]
    if not sys.stdout.isatty():
        for row in (header, *cells):
            print(*row, sep="\t")
        return
    try:
        from rich.console import Console
        from rich.markup import escape
        from rich.table import Table
        from rich.text import Text
    except ImportError:
        widths = [max(map(len, column)) for column in zip(header, *cells, strict=True)]
        for row in (header, *cells):
            print("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip())
        return
    table = Table(*map(escape, header), box=None, header_style="bold")
    for row in cells:
        table.add_row(*map(Text, row))
    Console().print(table)


def _plain(data: Any) -> Any:
    if isinstance(data, BaseModel):
        return data.model_dump(mode="json", exclude_none=True)
    return [_plain(one) for one in data] if isinstance(data, list) else data
