"""`make demo`: the service tunes a real model, with four workers at once, and is compared with random search.

Starts `suffice serve` on a temporary SQLite database and a free loopback port, tunes gradient-boosted trees on
scikit-learn's digits (digits.py) through the Python client, evaluates as many random configurations, prints and plots
both beside the default configuration. In a terminal the service then stays, to be looked at in a browser, until Ctrl-C;
with `--no-stay` it stops. Nothing is left running, also after Ctrl-C.
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
from benchmarks.digits import IMAGES, SPACE, error

STUDY = "digits"
PATIENCE = 60.0  # seconds for the service to start, and to stop
SPLITS = (1, 2)  # into folds that no search has seen
LEAVES = 3200  # the parameter constraint

Configuration = dict[str, Any] | None  # None: scikit-learn's defaults


@dataclass
class Search:
    """What one way of searching found: configurations and their errors, in the order they were finished."""

    name: str
    configurations: list[Configuration]
    errors: list[float]
    seconds: float
    fresh: float = float("nan")  # the error of the best one on other folds

    @property
    def best(self) -> float:
        return min(self.errors)

    @property
    def best_configuration(self) -> Configuration:
        return self.configurations[self.errors.index(self.best)]


def main(argv: Sequence[str] | None = None) -> int:
    args = arguments(argv)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # so that the clean-up below runs then, too
    done = False
    try:
        with service() as url:
            report(args, *run(args, url))
            done = True
            if args.stay:
                print(f"\nThe study can still be looked at: {url}/studies/{STUDY}\nCtrl-C ends it.", flush=True)
                signal.pause()
    except KeyboardInterrupt:
        print("\nthe service is stopped" if done else "\ninterrupted; the service is stopped")
    return 0 if done else 130


def arguments(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--trials", type=int, default=40, help="for each of the two searches (40)")
    parser.add_argument("--workers", type=int, default=4, help="evaluations at once, each in a process of its own (4)")
    parser.add_argument("--seed", type=int, default=0, help="of both searches (0)")
    parser.add_argument("--images", type=int, default=IMAGES, help=f"use only so many images ({IMAGES})")
    parser.add_argument(
        "--stay",
        action=argparse.BooleanOptionalAction,
        default=sys.stdin.isatty() and sys.stdout.isatty(),
        help="keep the service for the dashboard until Ctrl-C (in a terminal: yes)",
    )
    parser.add_argument("--out", type=Path, default=Path("demo"), help="folder for the plot and the results (demo)")
    return parser.parse_args(argv)


def run(args: argparse.Namespace, url: str) -> tuple[Search, Search, Search]:
    """The default configuration, random search and the service at ``url``."""
    evaluate = partial(error, images=args.images)
    print(f"Tuning gradient-boosted trees on {args.images} digits: {args.trials} trials, {args.workers} at once.")
    print(f"Watch it in a browser: {url}/studies/{STUDY}", flush=True)
    with Client(url) as client:
        tuned = tune(client, evaluate, args)
    with workers(args.workers) as pool:
        random = random_search(pool, evaluate, args)
        print("The three of them on other folds ...", flush=True)
        default = Search("scikit-learn's defaults", [None], [evaluate(None)], 0.0)
        searches = (default, random, tuned)
        chosen = [search.best_configuration for search in searches]
        fresh = [pool.submit(evaluate, params, split=split) for params in chosen for split in SPLITS]
        errors = np.reshape([future.result() for future in fresh], (len(chosen), len(SPLITS)))
    for search, found in zip(searches, errors, strict=True):
        search.fresh = float(found.mean())
    return searches


@contextmanager
def workers(count: int) -> Generator[ProcessPoolExecutor, None, None]:
    """Processes to evaluate in; what is still to do when an exception passes is dropped."""
    with ProcessPoolExecutor(count, multiprocessing.get_context("spawn"), _ignore_interrupts) as pool:
        try:
            yield pool
        finally:
            pool.shutdown(cancel_futures=True)


def _ignore_interrupts() -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)


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
    study = client.create_study(STUDY, SPACE, {"error": "minimize"}, budget=args.trials, seed=args.seed)
    start = time.monotonic()
    summary = study.optimize(evaluate, workers=args.workers, executor="process")
    seconds = time.monotonic() - start
    return Search("Suffice", [t.params for t in summary.trials], [t.values["error"] for t in summary.trials], seconds)


def random_search(pool: ProcessPoolExecutor, evaluate: Any, args: argparse.Namespace) -> Search:
    """Search at random, uniformly over the scales of the parameters: the same budget, workers and seed."""
    configurations = SPACE.decode(SPACE.sample(args.trials, np.random.default_rng(args.seed)))
    search = Search("random search", [], [], 0.0)
    start = time.monotonic()
    with display(True, "random") as show:
        futures = {pool.submit(evaluate, configuration): configuration for configuration in configurations}
        for future in as_completed(futures):
            search.configurations.append(futures[future])
            search.errors.append(future.result())
            best = search.errors.index(search.best)
            show(Progress(len(search.errors), args.trials, search.best, best, 0, 0))
    search.seconds = time.monotonic() - start
    return search


# --- the report -------------------------------------------------------------------------------------------------------


def report(args: argparse.Namespace, default: Search, random: Search, tuned: Search) -> None:
    """Print and plot what came out, and keep it as JSON."""
    args.out.mkdir(parents=True, exist_ok=True)
    print(f"\n{'':28}{'error':>8}{'wrong':>8}{'other folds':>13}{'time':>8}")
    for s in (default, random, tuned):
        name = f"{s.name}, {len(s.errors)} trials" if s is not default else s.name
        seconds = f"{s.seconds:.0f} s" if s is not default else ""
        print(f"{name:28}{s.best:8.2%}{round(s.best * args.images):8d}{s.fresh:13.2%}{seconds:>8}")
    print("\n" + verdict(default, random, tuned, args.images))
    print("\nBest configuration:")
    for name, value in (tuned.best_configuration or {}).items():
        print(f"  {name:20}{value:.4g}" if isinstance(value, float) else f"  {name:20}{value}")
    record = {"seed": args.seed, "images": args.images, "searches": [asdict(s) for s in (default, random, tuned)]}
    (args.out / "demo.json").write_text(json.dumps(record, indent=1) + "\n")
    plot(args.out / "demo.png", default, random, tuned)
    print(f"\nPlot: {args.out / 'demo.png'}")


def verdict(default: Search, random: Search, tuned: Search, images: int) -> str:
    """In words, whoever won."""
    lead = round((random.best - tuned.best) * images)
    if lead < 0:
        compared = f"On this seed random search won: its best gets {-lead} images more right than Suffice's."
    else:
        least = int(np.argmax(np.minimum.accumulate(tuned.errors) <= random.best)) + 1
        gets = f"gets {lead} images more right than random search's" if lead else "is as good as random search's"
        compared = f"Suffice's best {gets}, and was no worse than it from trial {least} on."
    better = round((default.best - tuned.best) * images)
    than = f"{abs(better)} {'more' if better >= 0 else 'fewer'} right than the default configuration"
    return (
        f"{compared}\nIt gets {than}.\n"
        "The best of many errors is partly luck with the folds; the column for other folds is without it.\n"
        "One seed shows little: try --seed 1, 2, 3."
    )


def plot(path: Path, default: Search, random: Search, tuned: Search) -> None:
    """Left: the best so far, trial by trial. Right: where in the space the service looked."""
    import matplotlib as mpl

    mpl.use("Agg")
    import matplotlib.pyplot as plt

    figure, (left, right) = plt.subplots(1, 2, figsize=(11, 4.4), layout="constrained", width_ratios=(1.2, 1))
    for search, colour in ((random, "tab:gray"), (tuned, "tab:blue")):
        number = np.arange(1, len(search.errors) + 1)
        left.plot(number, 100 * np.array(search.errors), "o", color=colour, alpha=0.35, markersize=4)
        best = 100 * np.minimum.accumulate(search.errors)
        label = f"{search.name}: {best[-1]:.2f} % (other folds {100 * search.fresh:.2f} %)"
        left.step(number, best, where="post", color=colour, linewidth=2, label=label)
    label = f"{default.name}: {100 * default.best:.2f} % (other folds {100 * default.fresh:.2f} %)"
    left.axhline(100 * default.best, color="tab:red", linestyle="--", label=label)
    left.set_yscale("log")
    left.set_yticks([2, 3, 5, 10, 20, 50, 100], ["2", "3", "5", "10", "20", "50", "100"])
    left.minorticks_off()
    left.set_ylim(85 * min(tuned.best, random.best, default.best), 400 * max(tuned.errors + random.errors))
    left.set(xlabel="trials finished", ylabel="5-fold error (%)", title="Each trial (dots) and the best so far (lines)")
    left.legend(loc="upper right", framealpha=0.95)
    rates = [c["learning_rate"] for c in tuned.configurations if c]
    leaves = [c["max_iter"] * c["max_leaf_nodes"] for c in tuned.configurations if c]
    star = tuned.errors.index(tuned.best)
    dots = right.scatter(rates, leaves, c=range(1, len(rates) + 1), cmap="viridis", s=30)
    right.plot(rates[star], leaves[star], "o", color="tab:red", markersize=13, fillstyle="none", label="best")
    right.axhline(LEAVES, color="black", linewidth=1, linestyle=":", label="parameter constraint")
    right.set(xscale="log", yscale="log", xlabel="learning_rate", ylabel="max_iter x max_leaf_nodes (leaves)")
    right.set_ylim(top=3 * LEAVES)
    right.set_title("Where Suffice looked")
    right.legend(loc="upper left", ncols=2, framealpha=0.95)
    figure.colorbar(dots, ax=right, label="trial")
    figure.savefig(path, dpi=150)
    plt.close(figure)


if __name__ == "__main__":
    sys.exit(main())
