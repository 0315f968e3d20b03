"""Judge a schedule: the same noise and prompts for every candidate, and more images of them for a closer look.

Image i starts from the noise of the generator that is seeded by (noise seed, i), however many images are made and in
whatever batches. So 32 images are the first 32 of 128, and what two schedules differ by is not the luck of the draw.
"""

from __future__ import annotations

import inspect
import time
from collections.abc import Callable, Generator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from functools import lru_cache
from typing import Any

import numpy as np
import torch
from torch import Tensor

from suffice.optimizer import InvalidInput
from suffice.optimizer.stopping import whole

from .apply import scheduled
from .grid import SHOWN
from .quality import Anchor, Frechet, Quality, Score
from .schedule import Schedule


@dataclass(frozen=True)
class Images:
    """What a schedule made: ``images`` (n, c, h, w) in [0, 1], the ``noise`` each began with, and what it took.

    ``calls`` counts the runs of the denoising network per image (with guidance each is one of twice the size),
    ``seconds`` is the time per image.
    """

    images: Tensor
    noise: Tensor
    calls: int
    seconds: float


@dataclass(frozen=True)
class Judged:
    """A schedule's score, of how many images, and what they took; ``shown``: the first of them, to look at."""

    score: Score
    images: int
    calls: int
    seconds: float
    shown: Tensor | None = field(default=None, repr=False, compare=False)


@dataclass(frozen=True)
class Evaluation:
    """Runs schedules on a pipeline and judges what comes out.

    ``each`` holds arguments of the pipeline per image, such as ``{"prompt": [...]}``: image i gets entry i, from the
    front again where there are fewer. ``arguments`` are those of every call. The pipeline's own scheduler is put back
    after every run.
    """

    pipeline: Any
    quality: Quality
    each: Mapping[str, Sequence[Any]] = field(default_factory=dict)
    arguments: Mapping[str, Any] = field(default_factory=dict)
    batch: int = 256

    def __post_init__(self) -> None:
        whole("batch", self.batch)
        for name, values in self.each.items():
            if isinstance(values, str) or not len(values):
                raise InvalidInput(f"each.{name}", "a list of values, one per image", values)

    def judge(self, schedule: Schedule, images: int, seed: int = 0) -> Judged:
        """The quality of the first ``images`` images of a noise seed. Raises FloatingPointError where they diverge."""
        made = self.make(schedule, images, seed)
        if not bool(torch.isfinite(made.images).all()):
            raise FloatingPointError(f"some of the images are not finite: {schedule}")
        score = self.quality(made.images, made.noise)
        return Judged(score, images, made.calls, made.seconds, made.images[:SHOWN].clone())

    def anchored(self, schedule: Schedule, images: Mapping[int, int]) -> Evaluation:
        """With a Fréchet distance that knows how special the noises are: by what ``schedule`` makes of them (`Anchor`).

        ``images`` says how many of each noise seed; only these can be judged then. The schedule has to draw no noise at
        its steps, and should have many. Raises InvalidInput for another quality.
        """
        if not isinstance(self.quality, Frechet):
            raise InvalidInput("anchor", "none, with a quality other than the Fréchet distance", self.quality.name)
        made = [self.make(schedule, count, seed) for seed, count in images.items()]
        noise = torch.cat([m.noise for m in made])
        anchor = Anchor.of(torch.cat([m.images for m in made]), noise, self.quality.reference.space)
        return replace(self, quality=replace(self.quality, anchor=anchor))

    def make(self, schedule: Schedule | None, images: int, seed: int = 0, **arguments: Any) -> Images:
        """The first ``images`` images of a noise seed; None: with the pipeline's own scheduler."""
        own = self.pipeline.scheduler
        scheduler = own if schedule is None else scheduled(self.pipeline, schedule)
        call = {**self.arguments, **(schedule.arguments if schedule is not None else {}), **arguments}
        try:
            self.pipeline.scheduler = scheduler
            parts = [
                self._batch(range(i, min(i + self.batch, images)), seed, schedule, call)
                for i in range(0, images, self.batch)
            ]
        finally:
            self.pipeline.scheduler = own
        seconds = sum(part.seconds * len(part.images) for part in parts) / images
        return Images(
            torch.cat([p.images for p in parts]), torch.cat([p.noise for p in parts]), parts[0].calls, seconds
        )

    def _batch(self, numbers: range, seed: int, schedule: Schedule | None, call: Mapping[str, Any]) -> Images:
        takes = inspect.signature(type(self.pipeline).__call__).parameters
        generators = [torch.Generator().manual_seed(image_seed(seed, i)) for i in numbers]
        each = {name: [values[i % len(values)] for i in numbers] for name, values in self.each.items()}
        given: dict[str, Any] = {"generator": generators, **each, **call}
        if "batch_size" in takes:
            given["batch_size"] = len(numbers)
        if schedule is not None and "num_inference_steps" in takes:
            given["num_inference_steps"] = schedule.steps
        for name in given:
            if name not in takes:
                raise InvalidInput("arguments", f"arguments of {type(self.pipeline).__name__}", name)
        with _watched(self.pipeline.scheduler) as seen:
            begun = time.perf_counter()
            out = _call(self.pipeline, takes, given)
            seconds = (time.perf_counter() - begun) / len(numbers)
        if len(out) != len(numbers):
            raise InvalidInput("arguments", f"arguments that make {len(numbers)} images", len(out))
        return Images(out, seen.noise[: len(numbers)], seen.calls, seconds)


def _call(pipeline: Any, takes: Mapping[str, Any], given: Mapping[str, Any]) -> Tensor:
    """Images as a tensor, in whichever form the pipeline gives them."""
    quiet = getattr(pipeline, "set_progress_bar_config", None)
    if quiet is not None:
        quiet(disable=True)
    with torch.no_grad():
        found = pipeline(**given, output_type="pt") if "output_type" in takes else pipeline(**given)
    images = found.images if hasattr(found, "images") else found[0]
    return as_tensor(images)


def as_tensor(images: Any) -> Tensor:
    """(n, c, h, w) in [0, 1] of a tensor, an array (n, h, w, c), or a list of PIL images."""
    if isinstance(images, Tensor):
        return images.detach().to("cpu", torch.float32)
    if isinstance(images, np.ndarray):
        return torch.from_numpy(np.ascontiguousarray(images.transpose(0, 3, 1, 2))).float()
    arrays = [np.atleast_3d(np.asarray(image, dtype=np.float32) / 255.0) for image in images]
    return torch.from_numpy(np.stack(arrays).transpose(0, 3, 1, 2).copy())


@lru_cache(maxsize=1 << 16)
def image_seed(seed: int, i: int) -> int:
    """The seed of image i's generator."""
    return int(np.random.SeedSequence([seed, i]).generate_state(1, np.uint64)[0] >> np.uint64(1))


@dataclass
class _Seen:
    calls: int = 0
    noise: Tensor = field(default_factory=lambda: torch.empty(0))


@contextmanager
def _watched(scheduler: Any) -> Generator[_Seen]:
    """Counts the steps of a scheduler, each after one call of the network, and keeps what the first begins at."""
    seen = _Seen()
    step: Callable[..., Any] = scheduler.step

    def watching(*args: Any, **kwargs: Any) -> Any:
        if not seen.calls:
            sample = kwargs["sample"] if "sample" in kwargs else args[2]
            seen.noise = sample.detach().clone()
        seen.calls += 1
        return step(*args, **kwargs)

    watching.__signature__ = inspect.signature(step)  # type: ignore[attr-defined]  # pipelines look at it
    scheduler.step = watching
    try:
        yield seen
    finally:
        del scheduler.step
