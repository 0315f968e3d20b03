"""``suffice replay``: what stopping rules would have done on recorded answers. No service is asked.

Prints one row per rule and setting, as a table or, with ``--json``, as a JSON list.
"""

from __future__ import annotations

import gzip
import json
import sys
from argparse import Namespace
from pathlib import Path
from typing import Any


def replay(args: Namespace) -> int:
    """Replay a pool and print the rows; returns the exit code."""
    try:
        from suffice.optimizer.errors import InvalidInput
        from suffice.optimizer.replay import rows
    except ModuleNotFoundError as error:
        sys.stderr.write(f"suffice: replay needs {error.name}: pip install 'suffice[server]'" + "\n")
        return 1
    try:
        found = rows(
            _read(args.pool), args.rules.split(","), args.max_samples, args.orders, args.seed, score=args.score
        )
    except InvalidInput as error:
        sys.stderr.write(f"suffice replay: {error}" + "\n")
        return 2
    except (OSError, EOFError, UnicodeDecodeError, json.JSONDecodeError) as error:
        sys.stderr.write(f"suffice replay: {args.pool}: expected a pool in JSON, plain or gzipped, got {error}" + "\n")
        return 2
    if args.json:
        sys.stdout.write(json.dumps(found, indent=2) + "\n")
    else:
        _table(found)
    return 0


def add_arguments(command: Any) -> None:
    """The arguments of ``suffice replay``."""
    command.add_argument("pool", help="recorded answers, .json or .json.gz (docs/sampling.md has the format)")
    command.add_argument("--rules", default="suffice,adaptive_consistency,fixed", help="names, with commas between")
    command.add_argument("--max-samples", type=int, default=64, metavar="N", help="answers per prompt at most (64)")
    command.add_argument("--orders", type=int, default=50, metavar="N", help="random orders of each prompt (50)")
    command.add_argument("--seed", type=int, default=0, help="of the orders (0)")
    command.add_argument("--score", default="score", metavar="FIELD", help="the samples' field that is the score")


def _read(path: str) -> Any:
    data = Path(path).read_bytes()
    return json.loads(gzip.decompress(data) if data[:2] == b"\x1f\x8b" else data)


def _table(rows: list[dict[str, Any]]) -> None:
    lines = [("rule", "setting", "accuracy", "interval", "samples", "tokens")]
    for row in rows:
        setting = " ".join(f"{k}={_short(v)}" for k, v in row["setting"].items())
        low, high = row["interval"]
        tokens = "" if row["tokens"] is None else f"{row['tokens']:.0f}"
        numbers = f"{row['accuracy']:.4f}", f"{low:.4f}..{high:.4f}", f"{row['samples']:.2f}"
        lines.append((row["rule"], setting, *numbers, tokens))
    sys.stdout.writelines("\t".join(line) + "\n" for line in lines)


def _short(value: Any) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)
