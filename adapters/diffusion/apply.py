"""Make a diffusers pipeline run a `Schedule`, whatever arguments it takes itself.

The pipeline's scheduler is replaced by one of the stock class whose ``set_timesteps`` always installs the stored times.
What that takes differs by class; where the stock class would run the times with other internals, or where the pipeline
would silently start from the wrong noise, it is refused.
"""

from __future__ import annotations

import functools
import hashlib
import inspect
from collections.abc import Callable
from typing import Any

import numpy as np

from suffice.optimizer import InvalidInput

from .schedule import Schedule

TAKES_TIMESTEPS = (  # in set_timesteps
    "DPMSolverMultistepScheduler",
    "DPMSolverSinglestepScheduler",
    "EulerDiscreteScheduler",
    "HeunDiscreteScheduler",
    "LCMScheduler",
    "TCDScheduler",
    "DDPMScheduler",
)
STEPS_BACK = "DDIMScheduler"  # by T // K from every time, whatever the next one is: see `_Distance`
SET_AFTERWARDS = ("UniPCMultistepScheduler", "DEISMultistepScheduler")  # one noise level per step and a last one
FLOW = ("FlowMatchEulerDiscreteScheduler", "UniPCMultistepScheduler", "DPMSolverMultistepScheduler")
SUPPORTED = (*TAKES_TIMESTEPS, *SET_AFTERWARDS, STEPS_BACK, "FlowMatchEulerDiscreteScheduler")
SCALED = ("EulerDiscreteScheduler", "HeunDiscreteScheduler")  # start from noise of the first level, scale the input
UNGUIDED = 1.0 + 1e-6
SPACINGS = ("use_karras_sigmas", "use_exponential_sigmas", "use_beta_sigmas", "use_lu_lambdas")
REFUSED = {
    "LMSDiscreteScheduler": "its coefficients come from other times than those it is given",
    "KDPM2DiscreteScheduler": "it interpolates noise levels of its own between the times",
    "KDPM2AncestralDiscreteScheduler": "it interpolates noise levels of its own between the times",
    "SASolverScheduler": "its coefficients come from other times than those it is given",
    "PNDMScheduler": "its Runge-Kutta steps lie between times of its own",
    "IPNDMScheduler": "its coefficients come from times of its own",
}


def apply_schedule(pipeline: Any, schedule: Schedule) -> Any:
    """Replace the scheduler of ``pipeline`` by one that runs ``schedule``; returns the pipeline.

    From then on every call runs these times, whatever ``num_inference_steps`` says; ``schedule.arguments`` are to be
    passed with the calls. Saving the pipeline keeps the scheduler's class and settings but no times: save the schedule
    beside it and apply it after loading. Raises InvalidInput for what could not be run as it is meant.
    """
    pipeline.scheduler = scheduled(pipeline, schedule)
    return pipeline


def scheduled(pipeline: Any, schedule: Schedule) -> Any:
    """The scheduler that runs ``schedule`` on ``pipeline``."""
    stock = _stock_class(schedule.scheduler)
    check_start(pipeline, schedule.scheduler)
    if (digest := schedule.provenance.get("betas")) is not None and digest != fingerprint(pipeline.scheduler):
        raise InvalidInput("schedule.provenance.betas", "noise levels that the model was trained on", digest)
    if schedule.guided is not None and "self._guidance_scale" not in _source(pipeline):
        expected = f"none: {type(pipeline).__name__} keeps no guidance scale that could change between its steps"
        raise InvalidInput("schedule.guided", expected, list(schedule.guided))
    if schedule.correction:
        _check_correction(pipeline, schedule)
    if schedule.skipped and schedule.scheduler == "HeunDiscreteScheduler":
        raise InvalidInput("schedule.skipped", "none with a scheduler that calls the network twice", schedule.scheduler)
    kind: Any = type(stock.__name__, (stock,), _methods(stock, schedule, pipeline))
    kind.__module__, kind.__qualname__ = stock.__module__, stock.__qualname__  # what model_index.json will say
    scheduler = kind.from_config(dict(pipeline.scheduler.config), **settings(stock, schedule))
    scheduler._schedule = schedule  # from here on: some classes set their times when they are made
    scheduler._taken = schedule.steps  # no run has begun
    from .skipping import leave_out  # imports diffusers

    leave_out(pipeline, schedule, scheduler)
    return scheduler


def stock_scheduler(pipeline: Any, schedule: Schedule) -> Any:
    """The scheduler of the stock class with the settings, but not the times, of ``schedule``."""
    stock = _stock_class(schedule.scheduler)
    check_start(pipeline, schedule.scheduler)
    return stock.from_config(dict(pipeline.scheduler.config), **settings(stock, schedule))


def plain_arguments(pipeline: Any, schedule: Schedule) -> dict[str, Any]:
    """What to call the pipeline with so that its `stock_scheduler` runs ``schedule``: ``timesteps`` or ``sigmas``.

    Raises InvalidInput where the pipeline or the scheduler takes no times of one's own, and for what is decided at
    every step.
    """
    name = "timesteps" if schedule.sigmas is None else "sigmas"
    takes = inspect.signature(type(pipeline).__call__).parameters
    accepts = inspect.signature(_stock_class(schedule.scheduler).set_timesteps).parameters
    if name not in takes or name not in accepts:
        who = type(pipeline).__name__ if name not in takes else schedule.scheduler
        raise InvalidInput("pipeline", f"one that takes {name}= (apply_schedule works with any)", who)
    beyond = {"guided": schedule.guided, "correction": schedule.correction, "skipped": schedule.skipped}
    for what, value in beyond.items():
        if value:
            raise InvalidInput(f"schedule.{what}", "none: no stock scheduler does that (apply_schedule does)", value)
    return {name: list(schedule.times), **schedule.arguments}


def settings(stock: Any, schedule: Schedule) -> dict[str, Any]:
    """The schedule's settings, and those that would change its times turned off."""
    known = inspect.signature(stock.__init__).parameters
    for key in schedule.config:
        if key not in known:
            raise InvalidInput(f"schedule.config.{key}", f"a setting of {stock.__name__}", schedule.config[key])
    off: dict[str, Any] = {key: False for key in SPACINGS if key in known}
    if schedule.sigmas is not None:
        off |= {"use_dynamic_shifting": False, "shift_terminal": None, "invert_sigmas": False}
        off |= {"shift": 1.0, "flow_shift": 1.0, "use_flow_sigmas": True, "prediction_type": "flow_prediction"}
    return {**{key: value for key, value in off.items() if key in known}, **schedule.config}


def check_start(pipeline: Any, scheduler: str) -> None:
    """Refuses schedulers that work on scaled states where the pipeline does not scale them."""
    if scheduler in SCALED:
        source = _source(pipeline)
        if "scale_model_input" not in source or "init_noise_sigma" not in source:
            expected = f"a scheduler other than {scheduler}: {type(pipeline).__name__} does not scale its noise for it"
            raise InvalidInput("schedule.scheduler", expected, scheduler)


def _check_correction(pipeline: Any, schedule: Schedule) -> None:
    """Refuses to correct noise estimates where the network gives none, or several within a step."""
    kind = pipeline.scheduler.config.get("prediction_type", "flow")
    if kind != "epsilon" or schedule.scheduler == "HeunDiscreteScheduler":
        got = schedule.scheduler if kind == "epsilon" else kind
        expected = "0, unless the network predicts the noise, once in a step"
        raise InvalidInput("schedule.correction", expected, f"{schedule.correction} with {got}")


def _source(pipeline: Any) -> str:
    """The source of a pipeline's class and of the diffusers pipelines that it is made of."""
    kinds = type(pipeline).__mro__
    return "".join(
        inspect.getsource(k) for k in kinds if k is kinds[0] or k.__module__.startswith("diffusers.pipelines")
    )


def fingerprint(scheduler: Any) -> str | None:
    """A digest of the noise levels that the model was trained on; None for flow matching, which has none of its own."""
    kept = getattr(scheduler, "alphas_cumprod", None)
    if kept is None:
        return None
    levels = np.asarray(kept.detach().cpu().numpy(), dtype=np.float64)
    return hashlib.sha256(np.round(levels, 6).tobytes()).hexdigest()[:16]


def training_sigmas(scheduler: Any) -> np.ndarray | None:
    """The noise levels sqrt((1 - alpha_bar) / alpha_bar) of the training times 0, 1, ...; None for flow matching."""
    kept = getattr(scheduler, "alphas_cumprod", None)
    if kept is None:
        return None
    alpha_bar = np.asarray(kept.detach().cpu().numpy(), dtype=np.float64)
    return np.sqrt((1.0 - alpha_bar) / np.maximum(alpha_bar, 1e-12))


def _stock_class(name: str) -> Any:
    import diffusers

    if name not in SUPPORTED:
        why = f" ({name}: {REFUSED[name]})" if name in REFUSED else ""
        raise InvalidInput("schedule.scheduler", f"one of {', '.join(SUPPORTED)}{why}", name)
    return getattr(diffusers, name)


def _methods(stock: Any, schedule: Schedule, pipeline: Any) -> dict[str, Callable[..., Any]]:
    """set_timesteps and step with the signatures of the stock class, which pipelines look at."""

    @functools.wraps(stock.set_timesteps)
    def set_timesteps(self: Any, num_inference_steps: Any = None, device: Any = None, *_: Any, **kwargs: Any) -> None:
        if getattr(self, "_schedule", None) is None:
            stock.set_timesteps(self, num_inference_steps, device)
        else:
            _install(stock, self, schedule, device)
            self._taken, self._estimate = 0, None
            if schedule.guided is not None:
                self._guidance = pipeline._guidance_scale
                _guide(pipeline, schedule.guided, self)

    accepted = inspect.signature(stock.step).parameters

    @functools.wraps(stock.step)
    def step(self: Any, *args: Any, **kwargs: Any) -> Any:
        if schedule.correction:
            noise = kwargs.pop("model_output") if "model_output" in kwargs else args[0]
            args = (_corrected(noise, self._estimate, schedule.correction), *args[1:])
            self._estimate = noise
        if stock.__name__ == STEPS_BACK:
            at = int(kwargs["timestep"] if "timestep" in kwargs else args[1])
            self.num_inference_steps = _Distance(at - schedule.after(at))
        # Pipelines that are made for one scheduler pass its arguments to any.
        found = stock.step(self, *args, **{key: value for key, value in kwargs.items() if key in accepted})
        self._taken += 1
        if schedule.guided is not None:
            _guide(pipeline, schedule.guided, self)
        return found

    return {"set_timesteps": set_timesteps, "step": step}


def _corrected(noise: Any, before: Any, c: float) -> Any:
    """The noise estimate moved on from the one before it: after DualFast (Yu et al. 2025, arXiv 2506.13058)."""
    return noise if before is None else (1.0 + c) * noise - c * before


def _guide(pipeline: Any, guided: tuple[int, int], scheduler: Any) -> None:
    """Sets the guidance scale of the coming step: as given, or all but 1, since at 1 pipelines expect other inputs."""
    on = guided[0] <= scheduler._taken < guided[1]
    pipeline._guidance_scale = scheduler._guidance if on else min(scheduler._guidance, UNGUIDED)


class _Distance(int):
    """A number of steps K such that T // K is the distance to the next time, for a class that computes it so."""

    def __rfloordiv__(self, total: int) -> int:
        return int(self)


def _install(stock: Any, scheduler: Any, schedule: Schedule, device: Any) -> None:
    import torch

    name, times = stock.__name__, list(schedule.times)
    if name == "FlowMatchEulerDiscreteScheduler":
        stock.set_timesteps(scheduler, sigmas=times, device=device)
        return
    if name in TAKES_TIMESTEPS and schedule.sigmas is None:
        stock.set_timesteps(scheduler, device=device, timesteps=times)
        return
    if name == STEPS_BACK:
        stock.set_timesteps(scheduler, len(times), device=device)
        scheduler.timesteps = torch.tensor(times, dtype=torch.int64).to(device)
        return
    stock.set_timesteps(scheduler, len(times), device=device)  # the layout, the counters and the last noise level
    if schedule.sigmas is None:
        levels = training_sigmas(scheduler)
        assert levels is not None
        sigmas, at = np.interp(times, np.arange(len(levels)), levels), torch.tensor(times, dtype=torch.int64)
    else:
        total = scheduler.config.num_train_timesteps
        sigmas = np.minimum(times, 1.0 - 1e-6)  # at 1 the signal's share has no logarithm
        at = torch.tensor(sigmas * total).to(torch.int64)
    scheduler.sigmas[: len(times)] = torch.tensor(sigmas, dtype=torch.float32)
    scheduler.timesteps = at.to(device)
