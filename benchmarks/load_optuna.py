"""The same load on Optuna: its RDB storage on the same databases, and the gRPC proxy before it.

Optuna has no service: every client process is one of the database's. An ask is `Study.ask` and six parameters drawn at
random, a tell is `Study.tell`, as `benchmarks.load` has them. Clients are threads of a few processes, as many as there
are cores, since an interpreter for each of 64 clients would measure the interpreters.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
import warnings
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from typing import Any

from benchmarks.load import Cell, spread
from benchmarks.postgres import Postgres, cpu_seconds
from benchmarks.service import free_port

PARAMETERS = 6
PROXY = """
import sys
from optuna import storages

storages.run_grpc_proxy_server(storages.RDBStorage(sys.argv[1]), port=int(sys.argv[2]))
"""


def optuna(args: argparse.Namespace, name: str) -> Iterator[Cell]:
    """The cells of one storage."""
    with ExitStack() as stack:
        folder = stack.enter_context(tempfile.TemporaryDirectory())
        postgres = stack.enter_context(Postgres()) if name == "optuna-postgresql" else None
        url = postgres.new() if postgres else f"sqlite:///{folder}/optuna.db"
        proxy = stack.enter_context(Proxy(url)) if name == "optuna-grpc" else None
        address = f"grpc:{proxy.port}" if proxy else url
        _study(address)
        for clients in args.clients:
            count = max(args.count // 20, 2 * clients)  # it is slower
            yield _cell(name, address, clients, count, proxy, postgres)


def _cell(name: str, address: str, clients: int, count: int, proxy: Proxy | None, postgres: Postgres | None) -> Cell:
    processes = min(clients, os.cpu_count() or 1)
    share = [str(clients // processes), str(count // processes)]
    command = [sys.executable, "-m", "benchmarks.load_optuna", address, *share]
    before = (proxy.cpu() if proxy else 0.0, postgres.cpu_seconds() if postgres else 0.0)
    running = [subprocess.Popen(command, stdout=subprocess.PIPE, text=True) for _ in range(processes)]
    found = [json.loads(process.communicate()[0].splitlines()[-1]) for process in running]
    after = (proxy.cpu() if proxy else 0.0, postgres.cpu_seconds() if postgres else 0.0)
    asks, told = ([s for one in found for s in one[kind]] for kind in ("asks", "tells"))
    requests = len(asks) + len(told)
    client = sum(one["cpu"] for one in found)  # which does the storage's work, too
    own = 1000 * (client + after[0] - before[0]) / requests
    load = round(os.getloadavg()[0], 1)
    seconds = max(one["seconds"] for one in found)
    databases = 1000 * (after[1] - before[1]) / requests
    return Cell(name, "turns", clients, requests, seconds, own, databases, spread(asks), spread(told), load)


class Proxy:
    """Optuna's gRPC server before a storage."""

    def __init__(self, url: str) -> None:
        self.port = free_port()
        command = [sys.executable, "-c", PROXY, url, str(self.port)]
        self._process = subprocess.Popen(command, stderr=subprocess.DEVNULL)

    def cpu(self) -> float:
        return cpu_seconds(self._process.pid)

    def __enter__(self) -> Proxy:
        return self

    def __exit__(self, *_: object) -> None:
        self._process.kill()
        self._process.wait()


def _study(address: str) -> Any:
    import optuna

    optuna.logging.set_verbosity(optuna.logging.ERROR)
    warnings.simplefilter("ignore")
    if address.startswith("grpc:"):
        storage: Any = optuna.storages.GrpcStorageProxy(port=int(address.removeprefix("grpc:")))
        storage.wait_server_ready(timeout=60)
    else:
        options = {"connect_args": {"timeout": 100}} if address.startswith("sqlite") else {"pool_size": 32}
        storage = optuna.storages.RDBStorage(address, engine_kwargs=options)
    sampler = optuna.samplers.RandomSampler()
    return optuna.create_study(storage=storage, study_name="load", sampler=sampler, load_if_exists=True)


def main() -> None:
    """Be some of the clients; prints what they measured as JSON."""
    address, clients, count = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
    study = _study(address)
    left = iter(range(count))
    asks: list[float] = []
    told: list[float] = []

    def work(_: int) -> None:
        for _turn in left:
            began = time.perf_counter()
            trial = study.ask()
            value = sum(trial.suggest_float(f"x{i}", 0, 1) for i in range(PARAMETERS))
            asked = time.perf_counter()
            study.tell(trial, value)
            told.append(time.perf_counter() - asked)
            asks.append(asked - began)

    began, cpu = time.perf_counter(), time.process_time()
    with ThreadPoolExecutor(clients) as pool:
        list(pool.map(work, range(clients)))
    seconds, cpu = time.perf_counter() - began, time.process_time() - cpu
    print(json.dumps({"asks": asks, "tells": told, "seconds": seconds, "cpu": cpu}))


if __name__ == "__main__":
    main()
