"""Fuzz the service: schemathesis sends it what its OpenAPI document allows, and what it does not.

    python -m benchmarks.fuzz [--cases 10000] [--seed 0] [--workers 1]

A real service with real keys, on a database of its own, answers. At least so many requests are sent, chains of them
along the document's links included. It fails on an answer that is an error of the service's own, or that the document
does not describe: its status, its type, its shape. 503 is described: the engine may not be ready. Left out is the
stream of events, which has no end (tests/test_api_events.py).

Imported by schemathesis, this module is its hooks: they put names that exist into most requests, and bodies that are
right, or wrong in some fields only, into half of them, so that not everything ends at the first check.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import re
import signal
import subprocess
import sys
import tempfile
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx

ROOT = Path(__file__).parents[1]
SEED = {
    "name": "fuzzed",
    "parameters": [
        {"name": "x", "type": "float", "low": 0, "high": 1},
        {"name": "n", "type": "int", "low": 1, "high": 9},
        {"name": "c", "type": "categorical", "choices": ["a", "b"]},
    ],
    "objectives": [{"metric": "loss"}],
    "seed": 0,
}
POINT = {"x": 0.5, "n": 3, "c": "a"}
LOSS = {"metric": "loss", "value": 1.0}
STUDY = "/v1/studies/{name}"
TRIAL = f"{STUDY}/trials/{{number}}"
RIGHT: dict[str, Any] = {  # bodies, by operation
    "POST /v1/studies": {**SEED, "name": "other", "budget": {"trials": 9}},
    f"PATCH {STUDY}": {"metadata": {"a": 1}, "lease_seconds": 60},
    f"POST {STUDY}/ask": {"count": 2, "worker": "w", "max_wait_s": 0.05},
    f"POST {STUDY}/trials": {"trials": [{"parameters": POINT}, {"parameters": POINT, "measurements": [LOSS]}]},
    f"POST {STUDY}/predict": {"configurations": [POINT], "max_wait_s": 0.05},
    f"POST {TRIAL}/tell": {"measurements": [LOSS]},
    f"POST {TRIAL}/report": {"measurements": [{**LOSS, "step": 1}]},
    f"POST {TRIAL}/heartbeat": {"lease_token": "a"},
    f"POST {TRIAL}/fail": {"reason": "it was"},
    "POST /v1/samplings": {"prompts": [{"id": "p"}], "max_samples": 4},
    "POST /v1/samplings/{id}/ask": {"count": 2},
    "POST /v1/samplings/{id}/tell": {"answers": [{"prompt": "p", "number": 0, "answer": "42", "tokens": 3}]},
    "POST /v1/samplings:decide": {"answers": [{"answer": "42"}, {"answer": "41"}], "max_samples": 8},
    "POST /v1/keys": {"role": "reader", "name": "fuzz", "days": 1},
    "POST /v1/projects": {"name": "made"},
}
CHECKS = (
    "not_a_server_error,status_code_conformance,content_type_conformance,response_headers_conformance,"
    "response_schema_conformance,unsupported_method,ignored_auth,use_after_free"
)
CONFIG = """
[checks.not_a_server_error]
expected-statuses = ["1xx", "2xx", "3xx", "4xx", "503"]
"""
WAIT = 0.02  # seconds, for the engine
PATIENT = 3.0  # for half of the asks: there has to be a trial to go on with
CHAINS = 4  # more runs along the links, in each round
LIVES = r"^/v1/studies(/\{name\}(/(ask|best|predict|trials.*))?)?$"  # where the longest chains of links are


def main() -> int:
    """Run it, and say how much was sent; 0 where nothing was found."""
    parser = argparse.ArgumentParser(description="Fuzz the service by its OpenAPI document.")
    parser.add_argument("--cases", type=int, default=10_000, help="requests to send, at least (10000)")
    parser.add_argument("--examples", type=int, default=60, help="of an operation, in each round (60)")
    parser.add_argument("--phases", default="coverage,fuzzing,stateful", help="of schemathesis (all of its own)")
    parser.add_argument("--seed", type=int, default=0, help="of the first round (0)")
    parser.add_argument("--workers", type=int, default=1, help="engine workers of the service (1)")
    args = parser.parse_args()
    sent, failed, seed = 0, 0, args.seed
    with tempfile.TemporaryDirectory() as folder, serving(Path(folder), args.workers) as (url, secret, ids):
        while sent < args.cases:
            for phases, paths in ((args.phases, "."), *[("stateful", LIVES)] * CHAINS):
                code, count = fuzz(Path(folder), url, secret, ids, phases, paths, args.examples, seed)
                sent, failed, seed = sent + count, failed or code, seed + 1
                print(f"run {seed - args.seed}: {count} requests, {sent} in all, exit status {code}", flush=True)
                if failed or not count:
                    return failed or 1
    return 0


def fuzz(
    folder: Path, url: str, secret: str, ids: dict[str, str], phases: str, paths: str, examples: int, seed: int
) -> tuple[int, int]:
    """One run over the operations at ``paths``: schemathesis' exit status, and how many requests it sent."""
    config, report = folder / "schemathesis.toml", folder / f"report-{seed}.ndjson"
    config.write_text(CONFIG)
    environment = {**os.environ, "SCHEMATHESIS_HOOKS": "benchmarks.fuzz", "FUZZ": json.dumps(ids)}
    options = {
        "phases": phases,
        "include-path-regex": paths,
        "exclude-path": f"{STUDY}/events",
        "header": f"Authorization: Bearer {secret}",
        "checks": CHECKS,
        "max-examples": str(examples),
        "seed": str(seed),
        "suppress-health-check": "all",
        "request-timeout": "60",
        "generation-database": "none",
        "report": "ndjson",
        "report-ndjson-path": str(report),
        "warnings": "off",
    }
    command = [
        *(sys.executable, "-m", "schemathesis.cli", "--config-file", str(config), "run", f"{url}/openapi.json"),
        *(word for name, value in options.items() for word in (f"--{name}", value)),
        *("--continue-on-failure", "--no-shrink", "--no-color"),
    ]
    done = subprocess.run(command, cwd=ROOT, env=environment)
    text = report.read_text()
    welcome = len(re.findall(r'"status_code":2', text))
    assert welcome, "nothing that was sent was welcome: the key is gone?"
    return done.returncode, text.count('"status_code":')


@contextmanager
def serving(folder: Path, workers: int) -> Generator[tuple[str, str, dict[str, str]]]:
    """A service with something in it: its address, an admin's key, and the ids of what is there."""
    database = f"sqlite:///{folder / 'fuzz.db'}"
    suffice = (sys.executable, "-m", "suffice.api.cli")
    make_key = [*suffice, "keys", "create", "--role", "admin", "--database", database]
    secret = subprocess.run(make_key, capture_output=True, text=True, check=True).stdout.strip()
    command = [*suffice, "serve", "--port", "0", "--database", database, "--workers", str(workers)]
    process = subprocess.Popen([*command, "--log-level", "error"], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    try:
        url = process.stdout.readline().strip()
        assert process.stdout.readline() == "ready\n"
        with httpx.Client(base_url=url, headers={"Authorization": f"Bearer {secret}"}) as http:
            http.post("/v1/studies", json=SEED).raise_for_status()
            points = {"trials": [{"parameters": POINT}] * 40}
            http.post("/v1/studies/fuzzed/trials", json=points).raise_for_status()
            sampling = http.post("/v1/samplings", json=RIGHT["POST /v1/samplings"]).raise_for_status().json()["id"]
        yield url, secret, {"name": "fuzzed", "id": sampling, "key": secret.split("_")[1]}
        assert process.poll() is None, "the service died"
    finally:
        process.send_signal(signal.SIGTERM)
        process.wait(30)


# --- hooks ------------------------------------------------------------------------------------------------------------

if "FUZZ" in os.environ:
    import schemathesis

    there: dict[str, str] = json.loads(os.environ["FUZZ"])

    def chosen(*what: Any) -> random.Random:
        """A choice that is made again for the same request: schemathesis repeats those that fail."""
        return random.Random(json.dumps(what, sort_keys=True, default=str))

    @schemathesis.hook
    def before_call(context: Any, case: Any, kwargs: Any) -> None:
        """What all the others need is not deleted: the key they come with, and what they are about."""
        if case.method.upper() == "DELETE":
            for name, value in (case.path_parameters or {}).items():
                if value in there.values():
                    case.path_parameters[name] = "0" * 12

    @schemathesis.hook
    def map_path_parameters(context: Any, path_parameters: dict[str, Any] | None) -> dict[str, Any] | None:
        """Most of what is named is there; what is deleted is not the one that the others need."""
        if not path_parameters or context.operation.method.upper() == "DELETE":
            return path_parameters
        pick = chosen(path_parameters)
        for name in path_parameters:
            if name in there and pick.random() < 0.7:
                path_parameters[name] = there[name]
            elif name == "number" and pick.random() < 0.9:
                path_parameters[name] = pick.randrange(60)
        return path_parameters

    @schemathesis.hook
    def map_query(context: Any, query: dict[str, Any] | None) -> dict[str, Any] | None:
        """Nobody waits long."""
        if any(one.name == "max_wait_s" for one in context.operation.query):
            query = {**(query or {}), "max_wait_s": (query or {}).get("max_wait_s", WAIT)}
            if _long(query["max_wait_s"]):
                query["max_wait_s"] = WAIT
        return query

    @schemathesis.hook
    def map_body(context: Any, body: Any) -> Any:
        operation = f"{context.operation.method.upper()} {context.operation.path}"
        right = RIGHT.get(operation)
        pick = chosen(operation, body)
        if right is not None and pick.random() < 0.6:
            given = body if isinstance(body, dict) and pick.random() < 0.5 else {}
            strange = {name: value for name, value in given.items() if pick.random() < 0.3}
            body = {**right, **strange}
            if operation == "POST /v1/studies" and "name" not in strange:
                body["name"] = f"study{pick.randrange(10**6)}"
        waits = re.search(r"studies.*/(ask|predict|best|pareto|advice|slices|contour)$", operation)
        if waits and isinstance(body, dict) and _long(body.get("max_wait_s", 30)):
            patient = waits[1] == "ask" and pick.random() < 0.5
            body = {**body, "max_wait_s": PATIENT if patient else WAIT}
        return body

    def _long(seconds: Any) -> bool:
        try:
            return float(seconds) > WAIT
        except (TypeError, ValueError):
            return False


if __name__ == "__main__":
    sys.exit(main())
