"""The command line: ``suffice serve``, and everything the client can do. docs/cli.md lists commands and exit codes.

Written with argparse, so that it works where only the light client is installed and ``--help`` is instant: what is
heavy is imported by the command that needs it.
"""

from __future__ import annotations

import argparse
import os
import re
import sys
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any, NoReturn

from . import replays

STOPPED = 10  # exit code of an ask that was answered with stop
EXIT_CODES = {
    "InvalidRequest": 2,
    "NotFound": 3,
    "Conflict": 4,
    "ConnectionFailed": 5,
    "Unavailable": 5,
    "Unauthorized": 6,
}
SERVE_FLAGS: dict[str, tuple[Callable[[str], Any], str]] = {  # each is a field of settings.Settings
    "host": (str, "address to listen on (127.0.0.1)"),
    "port": (int, "port to listen on; 0 takes any free one (8000)"),
    "database": (str, "where everything is kept (sqlite:///suffice.db)"),
    "workers": (int, "processes that compute suggestions (1)"),
    "worker_threads": (int, "threads for linear algebra in each of them (1)"),
    "engine": (str, "local: workers are processes here; ray: actors on a cluster, with PostgreSQL (local)"),
    "ray_address": (str, "of the Ray cluster, or auto; without it, a Ray of this machine"),
    "sweep_seconds": (float, "how often expired leases are looked for (2)"),
    "learn_seconds": (float, "how often features of finished prompts are learned from; 0: on request (300)"),
    "upstream": (str, "inference servers to put the gateway before, separated by commas"),
    "verifier": (str, "of the gateway: the address of a reward model, or log_probability"),
    "gateway_config": (str, "the gateway's YAML file, in place of --upstream and --verifier"),
    "allow_unauthenticated": (bool, "listen beyond this machine although there are no keys: anyone may do anything"),
    "body_mb": (float, "the largest body of a request, in MiB (64)"),
    "drain_seconds": (float, "after SIGTERM: go on answering, but say that no more should come (0)"),
    "stop_seconds": (int, "then: what requests get to end (5)"),
    "open_metrics": (bool, "answer /metrics without a key"),
    "traces": (bool, "send OpenTelemetry traces where OTEL_EXPORTER_OTLP_ENDPOINT says"),
    "log_level": (str, "critical, error, warning, info or debug (info)"),
    "log_format": (str, "text, or json for one object a line (text)"),
    "log_requests": (bool, "log every request"),
}
GATEWAY_FLAGS = (
    *("host", "port", "upstream", "verifier", "gateway_config", "database", "allow_unauthenticated", "stop_seconds"),
    *("open_metrics", "log_level", "log_format", "log_requests"),
)


def main(argv: Sequence[str] | None = None) -> int:
    """Run a command and return its exit code."""
    args = parser().parse_args(_plainly(sys.argv[1:] if argv is None else argv))
    try:
        return run(args)
    except KeyboardInterrupt:
        return 130
    except BrokenPipeError:  # `suffice trials ... | head`
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 141


def _plainly(argv: Sequence[str]) -> list[str]:
    """What argparse would take for flags, so that it does not: lease tokens and numbers that begin with a dash."""
    words: list[str] = []
    for word in argv:
        if words and words[-1] == "--lease":
            words[-1] = f"--lease={word}"
        elif re.fullmatch(r"-[\d.]+[eE][-+]?\d+", word):
            words.append(f" {word}")
        else:
            words.append(word)
    return words


def run(args: argparse.Namespace) -> int:
    """Run a parsed command."""
    if args.command in ("serve", "gateway"):
        return serve(args)
    if args.command in ("keys", "projects", "backup", "restore"):
        return administrate(args)
    if args.command == "replay":
        return replays.replay(args)
    if args.command == "version":
        print(version())
        return 0
    from . import commands
    from .client_errors import SufficeClientError

    try:
        code = commands.run(args)
        sys.stdout.flush()
        return code
    except SufficeClientError as error:
        print(f"suffice: {error}", file=sys.stderr)
        return next((EXIT_CODES[kind.__name__] for kind in type(error).__mro__ if kind.__name__ in EXIT_CODES), 1)


def serve(args: argparse.Namespace) -> int:
    """Run the service, or the gateway alone, until it is interrupted."""
    try:
        from sqlalchemy.exc import DatabaseError

        from suffice.optimizer import InvalidInput

        from .server import serve as serve_app
        from .server import serve_gateway
        from .settings import Settings
    except ModuleNotFoundError as error:
        print(f"suffice: the service needs {error.name}: pip install 'suffice[server]'", file=sys.stderr)
        return 1
    given = {name: getattr(args, name) for name in SERVE_FLAGS if getattr(args, name, None) is not None}
    try:
        settings = Settings.read(args.settings, **given)
    except InvalidInput as error:
        print(f"suffice {args.command}: {error}", file=sys.stderr)
        return 2
    try:
        (serve_app if args.command == "serve" else serve_gateway)(settings)
    except InvalidInput as error:
        print(f"suffice {args.command}: {error}", file=sys.stderr)
        return 2
    except DatabaseError as error:
        print(f"suffice {args.command}: the database cannot be used: {error.orig}", file=sys.stderr)
        return 1
    return 0


def administrate(args: argparse.Namespace) -> int:
    """Run a command on the database itself."""
    try:
        from sqlalchemy.exc import DatabaseError

        from suffice.optimizer import Conflict, NotFound, SufficeError

        from . import administration
    except ModuleNotFoundError as error:
        print(f"suffice: this needs {error.name}: pip install 'suffice[server]'", file=sys.stderr)
        return 1
    try:
        return administration.run(args)
    except SufficeError as error:
        print(f"suffice {args.command}: {error}", file=sys.stderr)
        return 3 if isinstance(error, NotFound) else 4 if isinstance(error, Conflict) else 2
    except DatabaseError as error:
        print(f"suffice {args.command}: the database cannot be used: {error.orig}", file=sys.stderr)
        return 1


def version() -> str:
    """The installed version."""
    from importlib.metadata import version as installed

    return installed("suffice")


class Parser(argparse.ArgumentParser):
    """argparse's, with one line of error and a pointer to the help."""

    def error(self, message: str) -> NoReturn:
        self.exit(2, f"{self.prog}: {message}. See {self.prog} --help\n")


def parser() -> argparse.ArgumentParser:
    """All commands and their arguments."""
    root = Parser(prog="suffice", description="Decides what to try next, and when to stop.", parents=[_common(None)])
    root.add_argument("--version", action="version", version=version())
    commands = root.add_subparsers(dest="command", required=True, metavar="COMMAND", parser_class=Parser)

    def add(name: str, text: str, *, study: bool = True, number: bool = False, lease: bool = False) -> Any:
        command = commands.add_parser(name, help=text, description=text, parents=[_common(argparse.SUPPRESS)])
        if study:
            command.add_argument("study", help="the study's name")
        if number:
            command.add_argument("number", type=int, help="the trial's number")
        if lease:
            command.add_argument("--lease", metavar="TOKEN", help="the lease token that the ask gave")
        return command

    command = add("serve", "run the service; each flag can also be set as SUFFICE_HOST, SUFFICE_PORT, ...", study=False)
    _settings(command, SERVE_FLAGS)
    command = add("gateway", "run the gateway alone, before inference servers; flags as SUFFICE_... too", study=False)
    _settings(command, GATEWAY_FLAGS)
    _administration(commands)
    _study_commands(add)
    _trial_commands(add)
    replays.add_arguments(add("replay", "replay stopping rules on recorded answers; asks no service", study=False))
    add("version", "print the installed version", study=False)
    return root


def _settings(command: argparse.ArgumentParser, flags: Iterable[str]) -> None:
    command.add_argument(
        "--settings",
        type=Path,
        metavar="FILE",
        default=os.environ.get("SUFFICE_SETTINGS"),
        help="a TOML file with settings; flags and SUFFICE_... win over it",
    )
    for flag in flags:
        kind, text = SERVE_FLAGS[flag]
        names = [*(["--config"] if flag == "gateway_config" else []), "--" + flag.replace("_", "-")]
        if kind is bool:
            command.add_argument(*names, dest=flag, action="store_true", default=None, help=text)
        else:
            command.add_argument(*names, dest=flag, type=kind, help=text)


def _administration(commands: Any) -> None:
    """Commands on the database itself."""

    def add(parent: Any, name: str, text: str) -> argparse.ArgumentParser:
        made: argparse.ArgumentParser = parent.add_parser(
            name, help=text, description=text, parents=[_common(argparse.SUPPRESS)]
        )
        return made

    def leaf(parent: Any, name: str, text: str) -> argparse.ArgumentParser:
        made = add(parent, name, text)
        made.add_argument("--database", metavar="URL", help="the service's (SUFFICE_DATABASE, or sqlite:///suffice.db)")
        return made

    def group(name: str, text: str) -> Any:
        return add(commands, name, text).add_subparsers(
            dest="action", required=True, metavar="ACTION", parser_class=Parser
        )

    keys = group("keys", "make, list and revoke API keys, in the service's database")
    command = leaf(keys, "create", "make a key and print it; from then on the service wants one of every request")
    command.add_argument("--role", required=True, choices=("reader", "worker", "owner", "admin"), help="what it may do")
    command.add_argument("--project", help="where it may do that (default)")
    command.add_argument("--name", help="what it is for")
    command.add_argument("--days", type=float, help="until it expires; without, it does not")
    command.add_argument("--tokens-per-day", type=int, help="that it may spend at the gateway")
    command.add_argument("--requests-per-minute", type=int, help="that it may send")
    leaf(keys, "list", "list keys, without their secrets")
    leaf(keys, "revoke", "have a key open nothing any more").add_argument("id", help="the key's id, as listed")
    projects = group("projects", "make, list and delete projects, in the service's database")
    leaf(projects, "create", "make a project").add_argument("name")
    leaf(projects, "list", "list projects")
    leaf(projects, "delete", "delete an empty project and its keys").add_argument("name")
    for name, text in (
        ("backup", "copy the SQLite database into a file, also while the service runs"),
        ("restore", "put a backup in the database's place, while the service does not run"),
    ):
        command = leaf(commands, name, text)
        command.add_argument("file", help="the backup")
        command.add_argument("--replace", action="store_true", help="overwrite what is there")


def _common(default: str | None) -> Parser:
    """Options that every command has; they may stand before the command, too."""
    common = Parser(add_help=False, argument_default=default)
    group = common.add_argument_group("connection and output")
    group.add_argument("--url", help="address of the service (SUFFICE_URL, or http://127.0.0.1:8000)")
    group.add_argument("--api-key", help="its key, where it wants one (SUFFICE_API_KEY)")
    group.add_argument("--json", action="store_true", default=default or False, help="answer in JSON, for programs")
    return common


def _study_commands(add: Callable[..., Any]) -> None:
    add("studies", "list the studies", study=False)
    add("show", "show a study's definition and where it stands")
    command = add("create", "create a study from its definition", study=False)
    command.add_argument(
        "file", help="definition as the REST API takes it, in .json, .yaml or .toml; - for JSON on stdin"
    )
    command.add_argument("--name", help="its name, in place of the definition's")
    command.add_argument("--exist-ok", action="store_true", help="take a study of that name and definition that exists")
    _within(add("best", "show the recommended trial, and why it is that one"))
    _within(add("pareto", "with several objectives: the trials that no other beats in all of them"))
    _within(add("advice", "what one more trial is worth, and whether it pays"))
    add("diagnostics", "whether the model can be trusted, and which parameters matter")
    command = add("analyses", "Ax's analyses as Plotly figures; takes seconds to minutes")
    command.add_argument("-o", "--output", metavar="FILE", help="write them there, as JSON")
    command.add_argument("--max-wait", type=float, default=300.0, metavar="S", help="seconds to wait at most (300)")
    command = add("trials", "list the trials")
    command.add_argument("--state", help="only those in this state: WAITING, RUNNING, COMPLETED, ...")
    command = add("predict", "what the model expects of a configuration")
    command.add_argument("params", nargs="+", metavar="NAME=VALUE", help="the configuration")
    command = add("events", "print what happens, as it happens, until interrupted")
    command.add_argument("--after", type=int, metavar="ID", help="go on after this event")
    add("stop", "hand out no more trials; running ones can still be told")
    add("resume", "hand out trials again")
    command = add("delete", "delete a study and its trials")
    command.add_argument("--yes", action="store_true", help="do not ask")
    command = add("export", "print a study with all its trials as one JSON document")
    command.add_argument("-o", "--output", metavar="FILE", help="write it there")
    command = add("import", "take in what export printed", study=False)
    command.add_argument("file", help="the document; - for stdin")
    command.add_argument("--name", help="its new name, in place of its own")


def _within(command: Any) -> None:
    command.add_argument("--context", nargs="+", metavar="NAME=VALUE", help="in a study with contexts: their values")


def _known(command: Any) -> None:
    command.add_argument("--stderr", type=float, help="the standard error of the value, where it is known")
    command.add_argument("--gradient", nargs="+", metavar="NAME=VALUE", help="its partial derivatives, where known")


def _trial_commands(add: Callable[..., Any]) -> None:
    command = add("ask", f"get the next trial to run; exit code {STOPPED} when there is none")
    _within(command)
    command.add_argument("-n", "--count", type=int, default=1, help="how many (1)")
    command.add_argument("--worker", help="who is asking (host name and process)")
    command.add_argument("--fresh", action="store_true", help="wait for one that knows every result told so far")
    command.add_argument("--max-wait", type=float, default=30.0, metavar="S", help="seconds to wait at most (30)")
    command = add("tell", "record the result of a trial", number=True, lease=True)
    command.add_argument("result", nargs="*", metavar="VALUE|METRIC=VALUE", help="what was measured")
    _known(command)
    other = command.add_mutually_exclusive_group()
    other.add_argument("--infeasible", metavar="REASON", help="the configuration cannot be run: learned from")
    other.add_argument("--pruned", metavar="REASON", help="stopped early on purpose: what was reported is kept")
    command = add("report", "record an intermediate result; renews the lease", number=True, lease=True)
    command.add_argument("result", nargs="+", metavar="VALUE|METRIC=VALUE", help="what was measured")
    command.add_argument(
        "--step", type=int, required=True, help="the epoch, iteration or image count it was measured at"
    )
    command = add("heartbeat", "renew a trial's lease", number=True)
    command.add_argument("--lease", metavar="TOKEN", required=True, help="the lease token that the ask gave")
    command = add("fail", "the worker could not run a trial", number=True, lease=True)
    command.add_argument("--reason", default="", help="why")
    command.add_argument("--no-retry", action="store_true", help="do not put it back into the queue")
    command = add("cancel", "give a trial up for good", number=True)
    command.add_argument("--reason", default="", help="why")
    command = add("enqueue", "queue a configuration of your own")
    command.add_argument("params", nargs="+", metavar="NAME=VALUE", help="the configuration")
    command = add("add", "record a result that was obtained elsewhere")
    command.add_argument("params", nargs="+", metavar="NAME=VALUE", help="the configuration")
    command.add_argument("--result", nargs="+", required=True, metavar="VALUE|METRIC=VALUE", help="what was measured")
    _known(command)


if __name__ == "__main__":
    sys.exit(main())
