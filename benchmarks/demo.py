"""`make demo`: the service tunes a real model, with four workers at once, and is compared with random search.

Starts `suffice serve` on a temporary SQLite database and a free loopback port, tunes gradient-boosted trees on
scikit-learn's digits (digits.py) through the Python client, evaluates as many random configurations, prints and plots
both beside the default configuration, and stops the service. Nothing is left running, also after Ctrl-C.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Generator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from suffice.api.client import Client, Progress
from suffice.api.progress import display

sys.path.insert(0, str(Path(__file__).parents[1]))  # run as a script, this folder's parent is not on the path
from benchmarks.digits import IMAGES, SPACE, default_error, error

PATIENCE = 60.0  # seconds for the service to start, and to stop


@dataclass(frozen=True)
class Search:
    """What one way of searching found: configurations and their errors, in the order they were finished."""

    name: str
    configurations: list[dict[str, Any]]
    errors: list[float]
    seconds: float

    @property
    def best(self) -> float:
        return min(self.errors)

    @property
    def best_configuration(self) -> dict[str, Any]:
        return self.configurations[self.errors.index(self.best)]


def main(argv: Sequence[str] | None = None) -> int:
    args = arguments(argv)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # so that the clean-up below runs then, too
    try:
        results = run(args)
    except KeyboardInterrupt:
        print("\ninterrupted; the service is stopped")
        return 130
    report(args, *results)
    return 0


def arguments(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--trials", type=int, default=40, help="for each of the two searches (40)")
    parser.add_argument("--workers", type=int, default=4, help="evaluations at once, each in a process of its own (4)")
    parser.add_argument("--seed", type=int, default=0, help="of both searches (0)")
    parser.add_argument("--images", type=int, default=IMAGES, help=f"use only so many images ({IMAGES})")
    parser.add_argument("--out", type=Path, default=Path("demo"), help="folder for the plot and the results (demo)")
    return parser.parse_args(argv)


def run(args: argparse.Namespace) -> tuple[float, Search, Search]:
    """The error of the default configuration, and both searches."""
    evaluate = partial(error, images=args.images)
    print(f"Tuning gradient-boosted trees on {args.images} digits: {args.trials} trials, {args.workers} at once.")
    default = default_error(args.images)
    with service() as url, Client(url) as client:
        print(f"The service runs at {url}")
        tuned = tune(client, evaluate, args)
    return default, tuned, random_search(evaluate, args)


# --- the service ------------------------------------------------------------------------------------------------------


@contextmanager
def service() -> Generator[str, None, None]:
    """A service on a temporary database and a free port, as its address; stopped at the end."""
    with tempfile.TemporaryDirectory(prefix="suffice-") as folder:
        command = [sys.executable, "-m", "suffice.api.cli", "serve", "--port", "0", "--log-level", "warning"]
        command += ["--database", f"sqlite:///{folder}/demo.db"]
        # A process group of its own: Ctrl-C is for this process, which then stops the service.
        process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, process_group=0)
        try:
            yield address(process)
        finally:
            process.terminate()
            try:
                process.wait(PATIENCE)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
            if process.stdout:
                process.stdout.close()


def address(process: subprocess.Popen[str]) -> str:
    """The address that the service prints, once it also printed that it is ready."""
    assert process.stdout is not None
    url = ""
    for line in process.stdout:
        if line.startswith("http"):
            url = line.strip()
        if line.strip() == "ready":
            return url
    raise SystemExit(f"the service did not start (exit code {process.wait()})")


# --- the two searches -------------------------------------------------------------------------------------------------


def tune(client: Client, evaluate: Any, args: argparse.Namespace) -> Search:
    """Search with the service."""
    study = client.create_study("digits", SPACE, {"error": "minimize"}, budget=args.trials, seed=args.seed)
    start = time.monotonic()
    summary = study.optimize(evaluate, workers=args.workers, executor="process")
    seconds = time.monotonic() - start
    return Search("Suffice", [t.params for t in summary.trials], [t.values["error"] for t in summary.trials], seconds)


def random_search(evaluate: Any, args: argparse.Namespace) -> Search:
    """Search at random, uniformly over the scales of the parameters: the same budget, workers and seed."""
    configurations = SPACE.decode(SPACE.sample(args.trials, np.random.default_rng(args.seed)))
    done: list[dict[str, Any]] = []
    errors: list[float] = []
    start = time.monotonic()
    spawn = multiprocessing.get_context("spawn")
    with display(True, "random") as show, ProcessPoolExecutor(args.workers, spawn, _ignore_interrupts) as pool:
        futures = {pool.submit(evaluate, configuration): configuration for configuration in configurations}
        try:
            for future in as_completed(futures):
                done.append(futures[future])
                errors.append(future.result())
                best = min(errors)
                show(Progress(len(done), args.trials, best, errors.index(best), 0, 0))
        finally:
            pool.shutdown(cancel_futures=True)
    return Search("random search", done, errors, time.monotonic() - start)


def _ignore_interrupts() -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)


# --- the report -------------------------------------------------------------------------------------------------------


def report(args: argparse.Namespace, default: float, tuned: Search, random: Search) -> None:
    """Print and plot what came out, and keep it as JSON."""
    args.out.mkdir(parents=True, exist_ok=True)
    rows = [("scikit-learn's defaults", default, "")]
    rows += [(f"{s.name}, {len(s.errors)} trials", s.best, f"{s.seconds:.0f} s") for s in (random, tuned)]
    print(f"\n{'':28}{'error':>8}{'wrong':>8}{'time':>8}")
    for name, value, seconds in rows:
        print(f"{name:28}{value:8.2%}{round(value * args.images):8d}{seconds:>8}")
    print("\n" + verdict(default, tuned, random, args.images))
    print("\nBest configuration:")
    for name, value in tuned.best_configuration.items():
        print(f"  {name:20}{value:.4g}" if isinstance(value, float) else f"  {name:20}{value}")
    record = {"default": default, "seed": args.seed, "images": args.images, "searches": [asdict(tuned), asdict(random)]}
    (args.out / "demo.json").write_text(json.dumps(record, indent=1) + "\n")
    plot(args.out / "demo.png", default, tuned, random)
    print(f"\nPlot: {args.out / 'demo.png'}")


def verdict(default: float, tuned: Search, random: Search, images: int) -> str:
    """In words, whoever won."""
    lead = round((random.best - tuned.best) * images)
    compared = (
        f"Suffice's best gets {lead} images more right than random search's"
        if lead > 0
        else f"Random search's best gets {-lead} images more right than Suffice's on this seed"
        if lead < 0
        else "Suffice and random search come out level on this seed"
    )
    least = int(np.argmax(np.minimum.accumulate(tuned.errors) <= random.best)) + 1
    caught_up = f", which Suffice had reached after {least} trials" if lead >= 0 else ""
    better = round((default - tuned.best) * images)
    versus = f"Suffice's gets {abs(better)} {'more' if better >= 0 else 'fewer'} right than the default configuration"
    return f"{compared}{caught_up}.\n{versus}.\nOne seed shows little: try --seed 1, 2, 3."


def plot(path: Path, default: float, tuned: Search, random: Search) -> None:
    """Left: the best so far, trial by trial. Right: where in the space the service looked."""
    import matplotlib as mpl

    mpl.use("Agg")
    import matplotlib.pyplot as plt

    figure, (left, right) = plt.subplots(1, 2, figsize=(11, 4.4), layout="constrained", width_ratios=(1.25, 1))
    for search, colour in ((random, "tab:gray"), (tuned, "tab:blue")):
        number = np.arange(1, len(search.errors) + 1)
        left.plot(number, 100 * np.array(search.errors), "o", color=colour, alpha=0.35, markersize=4)
        best = 100 * np.minimum.accumulate(search.errors)
        left.step(number, best, where="post", color=colour, linewidth=2, label=f"{search.name}: {best[-1]:.2f} %")
    left.axhline(
        100 * default, color="tab:red", linestyle="--", label=f"scikit-learn's defaults: {100 * default:.2f} %"
    )
    lowest, highest = 100 * min(tuned.best, random.best, default), 3 * 100 * default
    left.set_ylim(lowest - 0.15 * (highest - lowest), highest)
    left.set(
        xlabel="trials finished", ylabel="5-fold error (%)", title="Error of each trial (dots) and best so far (lines)"
    )
    left.legend(loc="upper right")
    rates = [c["learning_rate"] for c in tuned.configurations]
    leaves = [c["max_iter"] * c["max_leaf_nodes"] for c in tuned.configurations]
    dots = right.scatter(rates, leaves, c=range(1, len(rates) + 1), cmap="viridis", s=30)
    chosen = tuned.best_configuration
    place = chosen["learning_rate"], chosen["max_iter"] * chosen["max_leaf_nodes"]
    right.plot(*place, "*", color="tab:red", markersize=15, markerfacecolor="none", markeredgewidth=1.5, label="best")
    right.axhline(3200, color="black", linewidth=1, linestyle=":", label="parameter constraint")
    right.set(xscale="log", yscale="log", xlabel="learning_rate", ylabel="max_iter x max_leaf_nodes (leaves)")
    right.set_title("Where Suffice looked")
    right.legend(loc="lower right")
    figure.colorbar(dots, ax=right, label="trial")
    figure.savefig(path, dpi=150)
    plt.close(figure)


if __name__ == "__main__":
    sys.exit(main())
