"""Search the time steps and the solver of a diffusers pipeline.

found = search_schedule(pipeline, steps=4, quality=Frechet(Reference.of(photographs, features)))
found.schedule.save("schedule.json")
apply_schedule(pipeline, found.schedule)
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float64

from suffice.optimizer import Budget, Fidelity, InvalidInput, NotFound, Ordinal, Space, Study
from suffice.optimizer import known_schedules as known_times
from suffice.optimizer.stopping import whole as at_least_one

from .apply import fingerprint, training_sigmas
from .evaluation import Evaluation, Judged
from .quality import Quality, Score
from .schedule import Schedule
from .solvers import DIFFUSION, FLOW, Choices
from .source import Source, source_of

METHODS = ("bayes", "random", "autodiffusion", "usf")
SECOND = ("calls", "latency")
FIRST = ("quadratic", "exponential_inner", "leading", "karras_inner", "align_sdxl", "trailing", "flow_1", "flow_3")
KNOWN = (  # the schedules in common use, of discrete times and of flow matching
    *("trailing", "leading", "linspace", "quadratic", "align_sd", "align_sdxl", "beta"),
    *("karras", "exponential", "karras_inner", "exponential_inner", "flow_1", "flow_3", "flow_5", "flow_7"),
)
APART = 0.05  # of their range: how far the times of half of those that are confirmed lie from all better ones
OTHER_NOISE = 1  # added to the noise seed for the confirmation


@dataclass(frozen=True)
class Tried:
    """A configuration that was evaluated, the schedule it means, and what came out."""

    params: Mapping[str, Any]
    schedule: Schedule
    judged: Judged


@dataclass(frozen=True)
class Confirmed:
    """A schedule's quality on the noise it was found with and on other noise, of ``images`` and ``other_images``."""

    schedule: Schedule
    value: float
    images: int
    other_value: float
    other_images: int


@dataclass(frozen=True)
class Found:
    """The outcome of a search.

    ``best`` is the schedule that did best on other noise, among those that did best in the search; ``front``, with two
    objectives, the schedules that no other beats in both, from few to many calls. ``confirmed`` holds all that were
    compared on other noise, ``known`` the schedules in common use among them, by name, and ``tried`` everything.
    """

    best: Confirmed
    confirmed: tuple[Confirmed, ...]
    known: Mapping[str, Confirmed]
    tried: tuple[Tried, ...]
    front: tuple[Confirmed, ...] = ()

    @property
    def schedule(self) -> Schedule:
        return self.best.schedule

    @property
    def images(self) -> int:
        """How many images the search made, without the confirmation."""
        return sum(t.judged.images for t in self.tried)

    def __str__(self) -> str:
        b = self.best
        return (
            f"{b.schedule}: {b.value:.4g} on {b.images} images of the search's noise, "
            f"{b.other_value:.4g} on {b.other_images} of other noise"
        )


def search_schedule(
    pipeline: Any,
    steps: int | tuple[int, int] = 4,
    *,
    quality: Quality,
    solvers: Sequence[str] | None = None,
    trials: int = 60,
    images: int = 256,
    levels: Sequence[int] | None = None,
    against: str | None = None,
    method: str = "bayes",
    first: Sequence[str] = FIRST,
    confirm: int = 8,
    confirm_images: int | None = None,
    anchor: int | None = None,
    anchor_images: int = 2048,
    each: Mapping[str, Sequence[Any]] | None = None,
    arguments: Mapping[str, Any] | None = None,
    batch: int = 256,
    stochastic: bool = False,
    guidance: tuple[float, float] | None = None,
    interval: bool = False,
    eta: tuple[float, float] | None = None,
    correction: tuple[float, float] | None = None,
    skip: Sequence[str] = (),
    low: float = 0.0,
    high: float = 1.0,
    seed: int = 0,
    noise_seed: int = 0,
    checkpoint: str | Path | None = None,
    service: Any = None,
    name: str = "schedule",
    progress: bool = True,
) -> Found:
    """The best schedule of a pipeline for few steps: times, solver and settings, searched together.

    Every candidate makes the same ``images`` images, from the same noise and the same ``each`` (prompts, labels); the
    best ``confirm`` of ``trials`` then make ``confirm_images`` (default: twice as many) from other noise, and the best
    of those is returned. With ``levels``, such as (32, 64, 128, 256), most candidates make fewer images; ``trials``
    then counts evaluations of ``images`` images in all. ``steps`` as a range with ``against`` "calls" or "latency"
    searches the Pareto front of quality and the number of network calls, or seconds per image.

    ``anchor`` is a number of steps, many enough for good images, ten for example: once, these many steps make the
    images of the search and ``anchor_images`` of the other noise, and a Fréchet distance then knows by how much its few
    images are special, and corrects for it (see `Anchor`).

    ``solvers`` are names of `SOLVERS` (default: those that fit the model); ``stochastic`` also tries solvers that add
    noise; ``guidance`` and ``eta`` are ranges of the pipeline's arguments, and ``interval`` also searches between which
    steps guidance holds; ``correction`` is a range of `Schedule.correction`; ``skip`` names blocks of the network that
    may be left out, the least missed first (see `skipping`), which saves no calls but time. Times lie between ``low``
    and ``high``, as parts of the training times: keep ``high`` at 1 and the first time near it for models of zero
    terminal SNR by raising ``low`` only with care. ``first`` names the schedules in common use that are tried first.

    ``checkpoint`` is a file that every result is written to, and that an interrupted search goes on from. With
    ``service``, a client of a running service, its study ``name`` decides what is tried, and remembers; the first
    images of every trial are attached to it, for the dashboard.

    Raises InvalidInput for what does not fit the pipeline.
    """
    others = 2 * images if confirm_images is None else confirm_images
    for field, given in (("images", images), ("confirm", confirm), ("confirm_images", others)):
        at_least_one(field, given)
    if not isinstance(quality, Quality):
        raise InvalidInput("quality", "a Quality, such as Frechet(Reference.of(photographs, features))", quality)
    flow = getattr(pipeline.scheduler, "alphas_cumprod", None) is None
    choices = Choices(
        steps,
        tuple(solvers) if solvers is not None else FLOW if flow else DIFFUSION,
        total=int(pipeline.scheduler.config.num_train_timesteps),
        flow=flow,
        stochastic=stochastic,
        guidance=guidance,
        interval=interval,
        eta=eta,
        correction=correction,
        skip=tuple(skip),
        low=low,
        high=high,
    )
    evaluation = Evaluation(pipeline, quality, each or {}, arguments or {}, batch)
    if anchor is not None:
        at_least_one("anchor", anchor)
        at_least_one("anchor_images", anchor_images)
        both = {noise_seed: images, noise_seed + OTHER_NOISE: max(anchor_images, others)}
        evaluation = anchored(evaluation, anchor, both)
    search = Search(
        choices,
        evaluation,
        trials,
        images,
        tuple(levels or ()),
        against,
        method,
        tuple(first),
        seed,
        noise_seed,
    )
    tried = tuple(search.run(source_of(search, checkpoint, service, name), progress))
    return search.conclude(tried, confirm, others)


def anchored(evaluation: Evaluation, steps: int, images: Mapping[int, int]) -> Evaluation:
    """The evaluation with an `Anchor` of so many ``images`` per noise seed, by even steps of second order."""
    scheduler = evaluation.pipeline.scheduler
    flow = getattr(scheduler, "alphas_cumprod", None) is None
    solver = "unipc" if flow else "dpm_multistep"
    choices = Choices(steps, (solver,), total=int(scheduler.config.num_train_timesteps), flow=flow)
    times = known_times(choices.times, training_sigmas(scheduler))["flow_1" if flow else "trailing"]
    return evaluation.anchored(choices.schedule(choices.params(times, solver=solver)), images)


@dataclass(frozen=True)
class Search:
    """What is searched, by which evaluations, and how: the settings of `search_schedule`."""

    choices: Choices
    evaluation: Evaluation
    trials: int = 60
    images: int = 256
    levels: tuple[int, ...] = ()
    against: str | None = None
    method: str = "bayes"
    first: tuple[str, ...] = FIRST
    seed: int = 0
    noise_seed: int = 0

    def __post_init__(self) -> None:
        for name in self.first:
            if name not in KNOWN:
                raise InvalidInput("first", f"names among {', '.join(KNOWN)}", name)
        if not isinstance(self.choices.steps, int) and self.against is None:
            raise InvalidInput("steps", 'a number, without against="calls" or "latency"', self.choices.steps)
        if self.method not in METHODS:
            raise InvalidInput("method", f"one of {', '.join(METHODS)}", self.method)
        if self.against is not None and self.against not in SECOND:
            raise InvalidInput("against", f"one of {', '.join(SECOND)}", self.against)
        if self.levels and (self.levels[-1] != self.images or sorted(set(self.levels)) != list(self.levels)):
            raise InvalidInput("levels", f"rising numbers of images that end at {self.images}", list(self.levels))
        if self.levels and (self.against or self.method != "bayes"):
            raise InvalidInput("levels", 'none, with several objectives or a method other than "bayes"', self.levels)
        if self.against and self.method != "bayes":
            raise InvalidInput("against", 'none, with a method other than "bayes"', self.against)

    @property
    def metric(self) -> str:
        return self.evaluation.quality.name

    @property
    def space(self) -> Space:
        """What a trial decides: the choices, and with levels the number of images."""
        space = self.choices.space
        return Space({**space.parameters, "images": Ordinal(*self.levels)}) if len(self.levels) > 1 else space

    def study(self) -> Study:
        """The study that decides what is tried, with the schedules in common use in its queue."""
        study = Study(
            self.space,
            self.objectives,
            budget=Budget(cost=self.trials) if self.fidelity else Budget(trials=self.trials),
            fidelity=self.fidelity,
            seed=self.seed,
        )
        for params in self.beginnings():
            study.enqueue(params)
        return study

    @property
    def objectives(self) -> dict[str, str]:
        second = {self.against: "minimize"} if self.against else {}
        return {self.metric: self.evaluation.quality.direction, **second}

    @property
    def fidelity(self) -> Fidelity | None:
        if len(self.levels) < 2:
            return None
        return Fidelity({"images": self.images}, f"images / {self.images}")

    def beginnings(self) -> list[dict[str, Any]]:
        """The configurations that are tried first: known schedules, the solvers in turn."""
        known = self.known_times()
        times = [known[name] for name in self.first if name in known]
        solvers = self.choices.solvers
        found = [self.choices.params(t, solver=solvers[i % len(solvers)]) for i, t in enumerate(times)]
        return [{**params, "images": self.levels[0]} if self.levels else params for params in found]

    def known_times(self) -> dict[str, list[float]]:
        """The times of the schedules in common use."""
        return known_times(self.choices.times, training_sigmas(self.evaluation.pipeline.scheduler))

    def known(self) -> dict[str, dict[str, Any]]:
        """Configurations of all schedules in common use, each with every solver's first settings, by name."""
        return {
            f"{name} {solver}": self.choices.params(times, solver=solver)
            for name, times in self.known_times().items()
            for solver in self.choices.solvers
        }

    # --- trying -------------------------------------------------------------------------------------------------------

    def run(self, source: Source, progress: bool = False) -> Iterator[Tried]:
        """Everything that the source wants tried, and what it went on from."""
        best = math.inf
        sign = 1.0 if self.evaluation.quality.direction == "minimize" else -1.0
        with _bar(self.trials, progress) as show:
            for params, values in source.past():
                yield self.recalled(params, values)
            while (asked := source.ask()) is not None:
                handle, params = asked
                try:
                    tried = self.attempt(params)
                except FloatingPointError as error:
                    source.refuse(handle, str(error))
                    show(1, str(error))
                    continue
                source.tell(handle, self.values(tried.judged), tried.judged.shown)
                best = min(best, sign * tried.judged.score.value)
                show(tried.judged.images / self.images if self.fidelity else 1, f"{self.metric} {sign * best:.4g}")
                yield tried

    def attempt(self, params: Mapping[str, Any]) -> Tried:
        """Run one configuration."""
        schedule = self.choices.schedule(params)
        judged = self.evaluation.judge(schedule, int(params.get("images", self.images)), self.noise_seed)
        return Tried(dict(params), schedule, judged)

    def values(self, judged: Judged) -> dict[str, float]:
        """What a study is told."""
        found = {self.metric: judged.score.value, "calls": float(judged.calls), "latency": judged.seconds}
        return {name: found[name] for name in self.objectives}

    def recalled(self, params: Mapping[str, Any], values: Mapping[str, float]) -> Tried:
        """An attempt of an earlier run."""
        schedule, n = self.choices.schedule(params), int(params.get("images", self.images))
        calls = 2 * schedule.steps - 1 if schedule.scheduler == "HeunDiscreteScheduler" else schedule.steps
        return Tried(
            dict(params),
            schedule,
            Judged(Score(values[self.metric]), n, int(values.get("calls", calls)), values.get("latency", math.nan)),
        )

    def basis(self) -> dict[str, Any]:
        """What values have to have in common to be compared, beside the study's own settings."""
        shared = ("quality", "betas", "anchor_images")
        told = {name: value for name, value in self.provenance().items() if name in shared}
        return {**told, "images": self.images, "noise_seed": self.noise_seed}

    # --- concluding ---------------------------------------------------------------------------------------------------

    def conclude(self, tried: Sequence[Tried], confirm: int, images: int) -> Found:
        """The best of what was tried, by ``images`` images of other noise."""
        if not tried:
            raise InvalidInput("trials", "at least one", 0)
        chosen = self._front(tried) if self.against else self._leaders(tried, confirm)
        confirmed = tuple(self._confirm(t, images, len(tried)) for t in chosen)
        sign = 1.0 if self.evaluation.quality.direction == "minimize" else -1.0
        best = min(confirmed, key=lambda c: sign * c.other_value)
        known = {n: t for n, p in self.known().items() if (t := _where(tried, p)) is not None}
        return Found(
            best,
            tuple(sorted(confirmed, key=lambda c: sign * c.other_value)),
            {n: self._confirm(t, images, len(tried)) for n, t in known.items()},
            tuple(tried),
            confirmed if self.against else (),
        )

    def _leaders(self, tried: Sequence[Tried], count: int) -> list[Tried]:
        """The best schedules: half simply the best, half far from these.

        What is nearly the same is fitted to the noise of the search in the same way, and would confirm itself.
        """
        order = np.argsort(self._losses(tried), kind="stable")
        ranked = [tried[i] for i in order]
        different: dict[str, Tried] = {}
        for t in ranked:
            different.setdefault(str(t.schedule), t)
        ranked = list(different.values())
        space = self.choices.space
        X = space.encode([{n: v for n, v in t.params.items() if n in space.parameters} for t in ranked])
        X = X[:, space.columns(["times"])]
        chosen = list(range(min((count + 1) // 2, len(ranked))))
        for i in range(len(chosen), len(ranked)):
            if len(chosen) < count and ((X[chosen] - X[i]) ** 2).mean(1).min() >= APART**2:
                chosen.append(i)
        rest = (i for i in range(len(ranked)) if i not in chosen)
        chosen += [i for i, _ in zip(rest, range(count - len(chosen)), strict=False)]
        return [ranked[i] for i in sorted(chosen)]

    def _losses(self, tried: Sequence[Tried]) -> Float64[np.ndarray, " n"]:
        """What is ranked by, less is better: values, or with levels what a model of all of them expects at the last."""
        sign = 1.0 if self.evaluation.quality.direction == "minimize" else -1.0
        if self.fidelity is None:
            return sign * np.array([t.judged.score.value for t in tried])
        study = Study(self.space, self.objectives, fidelity=self.fidelity, seed=self.seed)
        for t in tried:
            study.add(t.params, t.judged.score.value)
        try:
            expected = study.predict([{**t.params, "images": self.images} for t in tried]).mean
        except NotFound:  # too few for a model: those of the most images come first
            expected = np.array([t.judged.score.value - sign * 1e9 * t.judged.images for t in tried])
        return sign * expected

    def _front(self, tried: Sequence[Tried]) -> list[Tried]:
        """What no other beats in both objectives, from few calls to many."""
        sign = 1.0 if self.evaluation.quality.direction == "minimize" else -1.0

        def costs(t: Tried) -> float:
            return t.judged.calls if self.against == "calls" else t.judged.seconds

        front: list[Tried] = []
        for t in sorted(tried, key=lambda t: (costs(t), sign * t.judged.score.value)):
            if not front or sign * t.judged.score.value < sign * front[-1].judged.score.value:
                front.append(t)
        return front

    def _confirm(self, t: Tried, images: int, trials: int) -> Confirmed:
        other = self.evaluation.judge(t.schedule, images, self.noise_seed + OTHER_NOISE)
        value = t.judged.score.value
        provenance = {
            **self.provenance(),
            "trials": trials,
            "value": value,
            "images": t.judged.images,
            "noise_seed": self.noise_seed,
            "other_value": other.score.value,
            "other_images": images,
            "other_noise_seed": self.noise_seed + OTHER_NOISE,
        }
        schedule = replace(t.schedule, provenance=provenance)
        return Confirmed(schedule, value, t.judged.images, other.score.value, images)

    def provenance(self) -> dict[str, Any]:
        """Where a schedule comes from, in words that JSON has."""
        import diffusers

        pipeline, anchor = self.evaluation.pipeline, getattr(self.evaluation.quality, "anchor", None)
        model = getattr(pipeline.config, "_name_or_path", None) or None
        return {
            "pipeline": type(pipeline).__name__,
            "model": model if model is None else Path(str(model)).name,
            "betas": fingerprint(pipeline.scheduler),
            "quality": self.metric,
            "method": self.method,
            "seed": self.seed,
            **({} if anchor is None else {"anchor_images": len(anchor.features)}),
            "diffusers": diffusers.__version__,
        }


def _where(tried: Sequence[Tried], params: Mapping[str, Any]) -> Tried | None:
    for t in tried:
        if {k: v for k, v in t.params.items() if k != "images"} == params:
            return t
    return None


class _bar:
    """A progress bar in units of full evaluations."""

    def __init__(self, total: float, on: bool) -> None:
        self._total, self._on = total, on

    def __enter__(self) -> Callable[[float, str], None]:
        if not self._on:
            return lambda part, text: None
        from tqdm.auto import tqdm

        self._tqdm = tqdm(total=self._total, unit="evaluation", leave=False)

        def show(part: float, text: str) -> None:
            self._tqdm.update(part)
            self._tqdm.set_postfix_str(text)

        return show

    def __exit__(self, *_: object) -> None:
        if self._on:
            self._tqdm.close()
