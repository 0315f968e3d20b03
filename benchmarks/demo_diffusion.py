"""`make demo-diffusion`: four steps that look like fifty, found in sixty evaluations, on a diffusion model of digits.

Searches the times and the solver of the DDPM in tests/models (see `train_diffusion.py`), prints the default, the best
of the schedules in common use and what was found, and draws the images that each makes of the same noise. Writes
demo/diffusion.png, demo/schedule.json and demo/diffusion.json.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from suffice.adapters.diffusion.evaluation import Evaluation
from suffice.adapters.diffusion.quality import Frechet, Reference
from suffice.adapters.diffusion.schedule import Schedule
from suffice.adapters.diffusion.search import Search, search_schedule
from suffice.adapters.diffusion.solvers import Choices

from .digit_models import ddpm_pipeline, digit_classifier, digits

SOLVERS = ("dpm_multistep", "unipc")
UNSEEN = 2_000_000  # the noise that what is printed stands on
MANY = 50  # steps of the reference
SHOWN = 20  # images per schedule


@dataclass(frozen=True)
class Row:
    """A schedule, what it is worth on unseen noise, and some of its images."""

    name: str
    schedule: Schedule
    distance: float
    images: Tensor


def even(steps: int) -> Schedule:
    """DPM-Solver++ 2M at the times that diffusers chooses for so many steps."""
    times = np.linspace(0, 999, steps + 1).round()[::-1][:-1]
    return Schedule("DPMSolverMultistepScheduler", tuple(int(t) for t in times), config={"solver_order": 2})


def best_known(evaluation: Evaluation, steps: int, images: int) -> tuple[str, Schedule]:
    """The best of the schedules in common use with each solver, by the images of the search."""
    search = Search(Choices(steps, SOLVERS), evaluation, images=images)
    known = {name: search.choices.schedule(params) for name, params in search.known().items()}
    best = min(known, key=lambda name: evaluation.judge(known[name], images).score.value)
    return best, known[best]


def compare(evaluation: Evaluation, schedules: Sequence[tuple[str, Schedule]], images: int) -> list[Row]:
    """Each schedule on the same unseen noise."""
    rows = []
    for name, schedule in schedules:
        made = evaluation.make(schedule, images, UNSEEN)
        rows.append(Row(name, schedule, evaluation.quality(made.images, made.noise).value, made.images[:SHOWN]))
    return rows


def draw(rows: Sequence[Row], path: Path) -> None:
    """One line of images per schedule, of the same noise in every column."""
    import matplotlib as mpl

    mpl.use("Agg")
    import matplotlib.pyplot as plt

    fig, axes = plt.subplots(len(rows), 1, figsize=(11, 0.85 * len(rows)), layout="constrained")
    for axis, row in zip(axes, rows, strict=True):
        padded = torch.nn.functional.pad(row.images[:, 0], (1, 1, 1, 1), value=1.0)
        axis.imshow(torch.cat(list(padded), dim=1).numpy(), cmap="gray", vmin=0, vmax=1, interpolation="nearest")
        axis.set_axis_off()
        axis.set_title(f"{row.name}: Fréchet distance {row.distance:.2f}", fontsize=9, loc="left", pad=3)
    fig.savefig(path, dpi=130)
    plt.close(fig)


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="make demo-diffusion", description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--out", type=Path, default=Path("demo"), help="folder for what is written (demo)")
    parser.add_argument("--steps", type=int, default=4)
    parser.add_argument("--trials", type=int, default=60)
    parser.add_argument("--images", type=int, default=256, help="per trial")
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args(argv)
    args.out.mkdir(parents=True, exist_ok=True)
    torch.set_num_threads(1)
    begun = time.process_time()

    images, _ = digits()
    evaluation = Evaluation(ddpm_pipeline(), Frechet(Reference.of(images, digit_classifier().features)))
    print(f"Searching {args.steps} steps of a DDPM of digits: {args.trials} trials of {args.images} images.")
    found = search_schedule(
        evaluation.pipeline,
        args.steps,
        quality=evaluation.quality,
        solvers=SOLVERS,
        trials=args.trials,
        images=args.images,
        seed=args.seed,
    )
    name, known = best_known(evaluation, args.steps, args.images)
    rows = compare(
        evaluation,
        [
            (f"default, {args.steps} steps", even(args.steps)),
            (f"best known schedule ({name}), {args.steps} steps", known),
            (f"found, {args.steps} steps", found.schedule),
            (f"default, {MANY} steps", even(MANY)),
        ],
        4 * args.images,
    )
    print(f"\nFréchet distance on {4 * args.images} images of unseen noise (less is better):")
    for row in rows:
        print(f"  {row.distance:7.2f}  {row.name}")
    print(f"\n{found.schedule}")
    draw(rows, args.out / "diffusion.png")
    found.schedule.save(args.out / "schedule.json")
    record = {"seed": args.seed, "distances": {row.name: row.distance for row in rows}, "images": found.images}
    (args.out / "diffusion.json").write_text(json.dumps(record, indent=1) + "\n")
    print(f"Images: {args.out / 'diffusion.png'}. Schedule: {args.out / 'schedule.json'}.")
    print(f"{time.process_time() - begun:.0f} CPU seconds")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
