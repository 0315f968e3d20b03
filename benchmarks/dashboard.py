"""How long the dashboard takes to show a large study: `python -m benchmarks.dashboard`.

Starts a service on a database of its own, adds finished trials, and opens the study's page in a fresh Chromium several
times. Prints JSON: milliseconds from the beginning of the navigation to the first contentful paint, to the drawn
progress picture and to the first page of the table; what the service took for each answer; and their sizes.
"""

from __future__ import annotations

import argparse
import json
import math
import random
import shutil
import statistics
import tempfile
import time
from pathlib import Path
from typing import Any

import httpx
from benchmarks.service import Served
from playwright.sync_api import Browser, sync_playwright

STUDY = {
    "name": "large",
    "parameters": [
        {"name": "lr", "type": "float", "low": 1e-5, "high": 1e-1, "log": True},
        {"name": "layers", "type": "int", "low": 1, "high": 12},
        {"name": "dropout", "type": "float", "low": 0, "high": 0.5},
        {"name": "optimizer", "type": "categorical", "choices": ["adam", "sgd", "lion"]},
    ],
    "objectives": [{"metric": "loss"}],
    "seed": 0,
}
DRAWN = {
    "progress drawn": "document.querySelector('figure svg circle.dot')",
    "table filled": "document.querySelector('table.trials tbody tr')",
}
PAINT = "performance.getEntriesByName('first-contentful-paint')[0]?.startTime"


def fill(http: httpx.Client, count: int) -> float:
    """Add so many finished trials; the seconds that took."""
    rng = random.Random(0)
    began = time.perf_counter()
    http.post("/v1/studies", json=STUDY).raise_for_status()
    trials = []
    for _ in range(count):
        p: dict[str, Any] = {
            "lr": 10 ** rng.uniform(-5, -1),
            "layers": rng.randint(1, 12),
            "dropout": rng.uniform(0, 0.5),
        }
        loss = 2 + 0.3 * (math.log10(p["lr"]) + 3) ** 2 + 0.05 * abs(p["layers"] - 6) + rng.gauss(0, 0.05)
        p |= {"dropout": rng.uniform(0, 0.5), "optimizer": rng.choice(["adam", "sgd", "lion"])}
        trials.append({"parameters": p, "measurements": [{"metric": "loss", "value": loss}]})
    for i in range(0, count, 5000):
        http.post("/v1/studies/large/trials", json={"trials": trials[i : i + 5000]}).raise_for_status()
    return time.perf_counter() - began


def answers(http: httpx.Client) -> dict[str, Any]:
    """Milliseconds and kilobytes of what the page asks for: the first time, and the median of later ones."""
    found: dict[str, Any] = {}
    for path in ("/v1/dashboard/studies/large", "/v1/dashboard/studies/large/trials", "/v1/dashboard/studies"):
        took = []
        for _ in range(6):
            began = time.perf_counter()
            answer = http.get(path)
            took.append(1e3 * (time.perf_counter() - began))
        again = statistics.median(took[1:])
        found[path] = {"first ms": round(took[0]), "again ms": round(again), "kB": round(len(answer.content) / 1e3)}
    return found


def opened(browser: Browser, url: str) -> dict[str, float]:
    """Milliseconds to the first paint, and to what is seen then, with nothing cached."""
    context = browser.new_context(
        viewport={"width": 1280, "height": 900}, bypass_csp=True
    )  # or nothing could be waited for
    page = context.new_page()
    page.goto(f"{url}/studies/large", wait_until="commit")
    found: dict[str, float] = {"first contentful paint": page.wait_for_function(PAINT).json_value()}
    for name, there in DRAWN.items():
        found[name] = page.wait_for_function(f"{there} && performance.now()").json_value()
    context.close()
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--trials", type=int, default=10_000)
    parser.add_argument("--visits", type=int, default=9)
    parser.add_argument("--workers", default="0", help="engine processes; with one, it fits its model meanwhile")
    wanted = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        service = Served(Path(folder), "--workers", wanted.workers)
        service.start()
        try:
            with httpx.Client(base_url=service.url, timeout=120) as http, sync_playwright() as playwright:
                seconds = fill(http, wanted.trials)
                browser = playwright.chromium.launch(executable_path=shutil.which("chromium"), args=["--no-sandbox"])
                first = opened(browser, service.url)
                visits = [opened(browser, service.url) for _ in range(wanted.visits)]
                medians = {name: round(statistics.median(v[name] for v in visits)) for name in first}
                report = {
                    "trials": wanted.trials,
                    "visits": wanted.visits,
                    "workers": int(wanted.workers),
                    "seconds to add them": round(seconds, 1),
                    "ms, the first visit after the start": {name: round(value) for name, value in first.items()},
                    "ms, median of later visits": medians,
                    "ms, worst of later visits": {name: round(max(v[name] for v in visits)) for name in first},
                    "answers": answers(http),
                }
                browser.close()
                print(json.dumps(report, indent=2))
        finally:
            service.kill()


if __name__ == "__main__":
    main()
