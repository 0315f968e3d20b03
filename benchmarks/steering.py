"""`python -m benchmarks.steering`: what steering at inference time wins, and what it costs in calls of the network.

    python -m benchmarks.steering                 # svdd, noises and flowopt; what `make bench-steering` runs
    python -m benchmarks.steering svdd --seeds 8
    python -m benchmarks.steering report          # tables, plots and an image grid from the results

The models are the small ones of `digit_models.py`. In a seed every method starts from the same noise. A run goes on
where it stopped: lines that the results file already holds are skipped.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from functools import cache, partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from sklearn.svm import SVC
from torch import Tensor

from suffice.adapters.diffusion.denoiser import Denoiser
from suffice.adapters.diffusion.flowopt import FlowOpt, step_bound
from suffice.adapters.diffusion.noise_search import NoiseSearch
from suffice.adapters.diffusion.svdd import SVDD, Reward, Steered
from suffice.adapters.diffusion.worth import Priced, Worth
from suffice.optimizer import Budget, Float, Space, Stop, Study
from suffice.optimizer.beacon import Beacon
from suffice.optimizer.pandora import Pandora

from .digit_models import ddpm_pipeline, digit_classifier, digits, flow_pipeline

ROOT = Path(__file__).resolve().parents[1]
RESULTS = ROOT / "docs" / "benchmarks" / "steering.jsonl"
Line = dict[str, Any]
Job = tuple[Line, Callable[[], Line]]

STEPS = 20
IMAGES = 16  # per seed and method
MOST = 60  # candidates of a step under a rule
BATCH = 3  # tried at once under a rule
FIXED = (1, 4, 8, 14, 20)
AMONG = 8  # draws of which a candidate is the most promising
FIXED_AMONG = (2, 4, 8)
SPREAD = {"class": 2.7, "ink": 0.03, "symmetry": 0.055}  # of the reward over plain samples: the unit of prices
PRICES = {"class": (0.01, 0.003), "ink": (0.02, 0.01, 0.007), "symmetry": (0.02, 0.01, 0.007)}
PRICES_AMONG = {"class": (0.01,), "ink": (0.03, 0.01), "symmetry": (0.02, 0.01)}
DIGITS = (3, 8)  # that the class reward asks for, half of the images each
LEARNED_ON = 1_000_000  # a seed apart
CHOSEN_ON = 0  # the seed on which the settings of the learned rule were chosen: left out of what is reported of SVDD

FLOW_STEPS = 10
ITERATIONS = 30
CONVERGED = 0.05  # root mean square of a pixel in [-1, 1]


# --- rewards ---


@cache
def judge() -> SVC:
    """A classifier of another kind, trained on the images that the rewarding one left out: it was not optimised for."""
    images, labels = digits()
    held_out = torch.arange(len(images)) % 5 == 0
    return SVC(C=10.0, gamma="scale").fit(images[held_out].flatten(1).numpy(), labels[held_out].numpy())


def class_reward(digit: int) -> Reward:
    """log P(this digit), by the classifier."""
    classifier = digit_classifier()

    def reward(images: Tensor) -> Tensor:
        logits: Tensor = classifier(images)
        return logits.log_softmax(1)[:, digit]

    return reward


def ink(images: Tensor) -> Tensor:
    """Mean brightness: stroke mass."""
    return images.flatten(1).mean(1)


def symmetry(images: Tensor) -> Tensor:
    """Minus the mean difference to the mirror image."""
    return -(images - images.flip(-1)).abs().flatten(1).mean(1)


def tasks(reward: str) -> list[tuple[Reward, int]]:
    """The rewards that stand behind a name, and the digit that each asks for, -1: any."""
    if reward == "class":
        return [(class_reward(d), d) for d in DIGITS]
    return [({"ink": ink, "symmetry": symmetry}[reward], -1)]


# --- one method on one seed ---


def run(
    method: SVDD | NoiseSearch, reward: str, seed: int, denoiser: Denoiser, images: int = IMAGES
) -> list[tuple[Steered, int]]:
    """What a method makes, per task of a reward."""
    found: list[tuple[Steered, int]] = []
    for task, (function, digit) in enumerate(tasks(reward)):
        noise = denoiser.noise(images // len(tasks(reward)), torch.Generator().manual_seed(1000 * seed + task))
        generator = torch.Generator().manual_seed(1000 * seed + 500 + task)
        found.append((method.sample(denoiser, function, noise, generator), digit))
    return found


def steer(make: Callable[[], SVDD | NoiseSearch], reward: str, seed: int, denoiser: Denoiser) -> Line:
    """The mean reward and its price."""
    method = make()
    began = time.process_time()
    found = run(method, reward, seed, denoiser)
    line = {
        "value": float(np.concatenate([steered.rewards for steered, _ in found]).mean()),
        "calls": float(np.concatenate([steered.calls for steered, _ in found]).mean()),
        "candidates": np.concatenate([steered.candidates for steered, _ in found]).mean(0).round(1).tolist(),
        "cpu": round(time.process_time() - began, 2),
    }
    if reward == "class":
        right = [judge().predict(s.images.flatten(1).numpy()) == digit for s, digit in found]
        line["judged"] = float(np.concatenate(right).mean())
    return line


@cache
def learned(reward: str, among: int = 1) -> Worth:
    """What gains are worth at each step: 60 images with two candidates, of a seed that is not reported."""
    denoiser = Denoiser.from_pipeline(ddpm_pipeline(), STEPS)
    values = [steered.values for steered, _ in run(SVDD(M=2, among=among), reward, LEARNED_ON, denoiser, images=60)]
    return Worth.of([np.concatenate(step) for step in zip(*values, strict=True)])


# --- parts ---


def svdd(seeds: Sequence[int]) -> Iterator[Job]:
    """Fixed M, and M adapted by BEACON's rule or by what gains are worth; then with candidates that promise most."""
    denoiser = Denoiser.from_pipeline(ddpm_pipeline(), STEPS)
    for seed in seeds:
        for reward, unit in SPREAD.items():
            methods: list[tuple[str, float, Callable[[], SVDD]]] = [("fixed", M, partial(SVDD, M=M)) for M in FIXED]
            rule = Beacon(price=0.05 * unit)
            methods.append(("beacon", 0.05, partial(SVDD, M=MOST, rule=rule, batch=BATCH)))
            methods += [("priced", p, partial(by_worth, reward, p * unit)) for p in PRICES[reward]]
            methods += [("among", M, partial(SVDD, M=M, among=AMONG)) for M in FIXED_AMONG]
            methods += [("priced among", p, partial(by_worth, reward, p * unit, AMONG)) for p in PRICES_AMONG[reward]]
            for name, setting, make in methods:
                key = {"part": "svdd", "reward": reward, "method": name, "setting": setting, "seed": seed}
                yield key, partial(steer, make, reward, seed, denoiser)


def by_worth(reward: str, price: float, among: int = 1) -> SVDD:
    """No probability exceeds 1."""
    rule = Priced(learned(reward, among), price, ceiling=0.0 if reward == "class" else np.inf)
    return SVDD(M=MOST, rule=rule, batch=BATCH, among=among)


def noises(seeds: Sequence[int]) -> Iterator[Job]:
    """Start noises: N, as many as Pandora asks for, or N that were each the best of four after five calls."""
    denoiser = Denoiser.from_pipeline(ddpm_pipeline(), STEPS)
    for seed in seeds:
        for reward in ("class", "ink"):
            methods: list[tuple[str, float, NoiseSearch]] = [("fixed", N, NoiseSearch(N=N)) for N in (1, 4, 16)]
            methods += [("midway", N, NoiseSearch(N=N, peek=5, among=4)) for N in (1, 4, 8)]
            for price in (0.2, 0.05):
                rule = Pandora(price=price * SPREAD[reward])
                methods.append(("pandora", price, NoiseSearch(N=32, rule=rule, batch=BATCH)))
            for name, setting, method in methods:
                key = {"part": "noises", "reward": reward, "method": name, "setting": setting, "seed": seed}
                yield key, partial(steer, partial(replace, method), reward, seed, denoiser)


def flowopt(seeds: Sequence[int]) -> Iterator[Job]:
    """Inversion of real digits: the authors' step sizes, half of the estimated bound, and what a Study finds."""
    denoiser = Denoiser.from_pipeline(flow_pipeline(), FLOW_STEPS)
    for seed in seeds:
        order = torch.randperm(len(digits()[0]), generator=torch.Generator().manual_seed(seed))
        few, others = digits()[0][order[:6]], digits()[0][order[6:30]]
        found: dict[str, Callable[[], tuple[float, int]]] = {
            "FLUX default": lambda: (0.0025, 0),
            "SD3 default": lambda: (0.01, 0),
            "half the bound": partial(half_the_bound, denoiser, seed),
            "study": partial(study, denoiser, few, seed),
        }
        for name, step_size in found.items():
            key = {"part": "flowopt", "method": name, "seed": seed}
            yield key, partial(invert, denoiser, others, seed, step_size)


def invert(denoiser: Denoiser, images: Tensor, seed: int, step_size: Callable[[], tuple[float, int]]) -> Line:
    """Residuals from noise on, and from the images led back."""
    began = time.process_time()
    eta, spent = step_size()
    residuals = from_noise(denoiser, images, eta, seed)
    led_back = FlowOpt(eta=eta, iterations=ITERATIONS).invert(denoiser, images).residuals
    return {
        "eta": eta,
        "spent": spent,  # calls of the network, to find eta
        "residuals": [round(float(r), 5) if r < 1e6 else None for r in residuals.median(1).values],
        "converged": float((residuals[-1] < CONVERGED).double().mean()),
        "led_back": [round(float(r), 5) if r < 1e6 else None for r in led_back.median(1).values],
        "cpu": round(time.process_time() - began, 2),
    }


def from_noise(denoiser: Denoiser, images: Tensor, eta: float, seed: int) -> Tensor:
    """Residuals (iterations + 1, n)."""
    target, noise = denoiser.encode(images), denoiser.noise(len(images), torch.Generator().manual_seed(seed))
    return FlowOpt(eta=eta, iterations=ITERATIONS).optimize(denoiser, noise, lambda x0: x0 - target).residuals


def half_the_bound(denoiser: Denoiser, seed: int) -> tuple[float, int]:
    """Of eight pairs of near-by starts, the least; and the calls that this took."""
    generator = torch.Generator().manual_seed(seed)
    z = denoiser.noise(8, generator)
    bound = float(step_bound(denoiser, z, z + 0.1 * denoiser.noise(8, generator)).min())
    return max(bound / 2, 1e-3), 2 * len(z) * FLOW_STEPS


def study(denoiser: Denoiser, images: Tensor, seed: int, trials: int = 10) -> tuple[float, int]:
    """The step size with the least residual, in decades, after all iterations on a few images; and the calls."""
    search = Study(
        Space(eta=Float(1e-3, 10.0, log=True)), objective="minimize", budget=Budget(trials=trials), seed=seed
    )
    while not isinstance(step := search.ask(), Stop):
        last = from_noise(denoiser, images, step.params["eta"], seed + 1000)[-1]
        search.tell(step, float(last.clamp(1e-6, 1e2).log10().mean()))
    best = search.best
    assert best is not None
    return float(best.params["eta"]), trials * len(images) * (ITERATIONS + 1) * FLOW_STEPS


PARTS = {"svdd": svdd, "noises": noises, "flowopt": flowopt}


# --- images ---


def draw(path: Path, columns: int = 12) -> None:
    """Images of the same noise: plain, and steered to threes and to ink in three ways each."""
    from matplotlib import pyplot as plt

    denoiser = Denoiser.from_pipeline(ddpm_pipeline(), STEPS)
    rows: list[tuple[str, Tensor]] = []
    for reward, function, price in (("class", class_reward(3), 0.003), ("ink", ink, 0.01)):
        title = "threes" if reward == "class" else "ink"
        methods = {"M = 20": SVDD(M=20), "learned worth": by_worth(reward, price * SPREAD[reward])}
        if not rows:
            methods = {"plain": SVDD(M=1), **methods}
        for name, method in methods.items():
            noise = denoiser.noise(columns, torch.Generator().manual_seed(7))
            steered = method.sample(denoiser, function, noise, torch.Generator().manual_seed(8))
            label = name if name == "plain" else f"{title}, {name}"
            rows.append((f"{label}\n{steered.calls.mean():.0f} calls", steered.images))
    figure, axes = plt.subplots(len(rows), columns, figsize=(0.75 * columns + 1.6, 0.85 * len(rows)))
    for (label, images), line in zip(rows, axes, strict=True):
        for image, axis in zip(images, line, strict=True):
            axis.imshow(image[0], cmap="gray", vmin=0, vmax=1)
            axis.set_xticks([])
            axis.set_yticks([])
        line[0].set_ylabel(label, rotation=0, ha="right", va="center", fontsize=8)
    figure.tight_layout(pad=0.4)
    figure.savefig(path, dpi=110)
    plt.close(figure)


# --- running ---


def key_of(line: Line) -> str:
    return json.dumps([line.get(name) for name in ("part", "reward", "method", "setting", "seed")])


def read(path: Path) -> list[Line]:
    return [json.loads(text) for text in path.read_text().splitlines()] if path.exists() else []


def run_all(jobs: Iterator[Job], path: Path) -> None:
    done = {key_of(line) for line in read(path)}
    for key, work in jobs:
        if key_of(key) in done:
            continue
        line = {**key, **work()}
        with path.open("a") as file:
            file.write(json.dumps(line) + "\n")
        shown = {name: line[name] for name in ("value", "calls", "eta", "converged") if name in line}
        print(*key.values(), shown, flush=True)


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser("python -m benchmarks.steering", description=(__doc__ or "").splitlines()[0])
    parser.add_argument("parts", nargs="*", choices=(*PARTS, "report", []), help="all, and the report, unless given")
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--out", type=Path, default=RESULTS)
    args = parser.parse_args(argv)
    torch.set_num_threads(1)
    for part in args.parts or PARTS:
        if part != "report":
            begin = CHOSEN_ON + 1 if part == "svdd" else 0
            run_all(PARTS[part](range(begin, begin + args.seeds)), args.out)
    if not args.parts or "report" in args.parts:
        from .steering_report import write

        write(read(args.out), ROOT / "docs")
        draw(ROOT / "docs" / "images" / "steering_images.png")


if __name__ == "__main__":
    main()
