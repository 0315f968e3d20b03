"""What is searched beside the times: which solver runs them, and its settings. Configurations become schedules here."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from suffice.optimizer import Bool, Categorical, Constant, Float, Int, InvalidInput, Space, TimeSteps
from suffice.optimizer.parameters import Parameter
from suffice.optimizer.timesteps import resample

from .schedule import Schedule

CORRECTED = 6  # steps, up to which UniPC's corrector is decided for each of them
FEW_POINTS = 4  # of the curve of times, where the number of steps is searched too
FIRST_ORDER = ("ddim", "euler", "flow_euler")
CLOSEST = (
    12  # times the number of steps: no step is shorter than that part of the range where solvers of a higher order
)
# are searched, which extrapolate wildly from shorter ones


@dataclass(frozen=True)
class Solver:
    """A diffusers class with ``fixed`` settings, and which of the parameters below set others."""

    scheduler: str
    sets: tuple[str, ...] = ()
    fixed: Mapping[str, Any] = field(default_factory=dict)
    flow: bool = False  # can run flow matching, too
    diffusion: bool = True


SOLVERS = {
    "ddim": Solver(
        "DPMSolverMultistepScheduler",
        fixed={"solver_order": 1, "algorithm_type": "dpmsolver++", "final_sigmas_type": "zero"},
    ),
    "dpm_multistep": Solver(
        "DPMSolverMultistepScheduler",
        ("order", "algorithm", "rule", "lower_order_final", "final"),
        flow=True,
    ),
    "dpm_singlestep": Solver(
        "DPMSolverSinglestepScheduler", ("order", "algorithm", "rule"), {"lower_order_final": True}
    ),
    "unipc": Solver(  # of a higher order in the last step to no noise it diverges
        "UniPCMultistepScheduler", ("order", "variant", "final", "corrector"), {"lower_order_final": True}, flow=True
    ),
    "deis": Solver("DEISMultistepScheduler", ("order", "lower_order_final")),
    "euler": Solver("EulerDiscreteScheduler", ("final",)),
    "heun": Solver("HeunDiscreteScheduler"),
    "flow_euler": Solver("FlowMatchEulerDiscreteScheduler", flow=True, diffusion=False),
}
DIFFUSION = ("ddim", "dpm_multistep", "dpm_singlestep", "unipc", "deis")
FLOW = ("flow_euler", "unipc")
_SETTINGS: dict[str, tuple[str, tuple[Any, ...]]] = {  # by parameter: the setting of the class, and its choices
    "order": ("solver_order", (2, 3)),
    "algorithm": ("algorithm_type", ("dpmsolver++", "sde-dpmsolver++")),
    "rule": ("solver_type", ("midpoint", "heun")),
    "variant": ("solver_type", ("bh2", "bh1")),
    "lower_order_final": ("lower_order_final", (True, False)),
    "final": ("final_sigmas_type", ("zero", "sigma_min")),
}
_ONLY = {"variant": "final == 'sigma_min'"}  # UniPC's bh1 diverges in a step to no noise


@dataclass(frozen=True)
class Choices:
    """The space of a search, and what its configurations mean.

    ``steps`` is a number, or a range (fewest, most) that is searched along with a curve of times. ``flow``: times are
    the noise levels of flow matching. ``solvers`` are names of `SOLVERS`. ``stochastic`` allows solvers that draw noise
    at every step. ``guidance`` is a range of the pipeline's argument guidance_scale; ``interval`` also searches from
    which step to which it holds. ``eta`` is a range of the noise that DDIM adds at every step (0: none, 1: as DDPM).
    ``correction`` is a range of `Schedule.correction`. ``skip`` names blocks of the network that may be left out, the
    least missed first: how many of them are is searched for the first and the last step, and in between on a line.
    """

    steps: int | tuple[int, int]
    solvers: tuple[str, ...]
    total: int = 1000  # training steps
    flow: bool = False
    stochastic: bool = False
    guidance: tuple[float, float] | None = None
    interval: bool = False
    eta: tuple[float, float] | None = None
    correction: tuple[float, float] | None = None
    skip: tuple[str, ...] = ()
    low: float = 0.0  # the least and the greatest time, as parts of the training times
    high: float = 1.0

    def __post_init__(self) -> None:
        known = [name for name, s in SOLVERS.items() if (s.flow if self.flow else s.diffusion)]
        if not self.solvers:
            raise InvalidInput("solvers", f"at least one of {', '.join(known)}", list(self.solvers))
        for name in self.solvers:
            if name not in known:
                raise InvalidInput("solvers", f"names among {', '.join(known)}", name)
        if not _number(self.steps) and not _range(self.steps):
            raise InvalidInput("steps", "a number, or the fewest (at least 2) and the most", self.steps)
        if self.interval and (self.guidance is None or not isinstance(self.steps, int) or self.steps < 2):
            raise InvalidInput("interval", "false, without guidance and a number of at least 2 steps", self.interval)
        if self.eta is not None and "ddim" not in self.solvers:
            raise InvalidInput("eta", "none, without the solver ddim", list(self.eta))
        if self.correction is not None and (self.flow or "heun" in self.solvers):
            expected = "none, unless the network predicts the noise, once in a step (not heun, no flow matching)"
            raise InvalidInput("correction", expected, list(self.correction))
        if self.skip and "heun" in self.solvers:
            raise InvalidInput("skip", "none, with a solver that calls the network twice (heun)", list(self.skip))
        if not 0.0 <= self.low < self.high <= 1.0:
            raise InvalidInput("low", "0 <= low < high <= 1, parts of the training times", [self.low, self.high])

    @property
    def times(self) -> TimeSteps:
        """The parameter of the times: the steps themselves, or a curve that any number of steps is read from."""
        k = self.steps if isinstance(self.steps, int) else min(FEW_POINTS, self.steps[1])
        higher = any(name not in FIRST_ORDER for name in self.solvers)
        if self.flow:
            low = max(self.low, 1e-3)
            gap = (self.high - low) / (CLOSEST * k) if higher else None
            return TimeSteps(k, low, self.high, integer=False, gap=gap)
        low, high = round(self.low * (self.total - 1)), round(self.high * (self.total - 1))
        apart = max((high - low) // (CLOSEST * k), 1) if higher else 1
        gap = apart if isinstance(self.steps, int) else max(apart, self.steps[1])  # room for the steps in between
        return TimeSteps(k, low, high, gap=gap)

    @property
    def space(self) -> Space:
        """Times, the solver, and the settings of each solver where it is chosen."""
        found: dict[str, Parameter] = {"times": self.times}
        if not isinstance(self.steps, int):
            found["steps"] = Int(*self.steps)
        several = len(self.solvers) > 1
        found["solver"] = Categorical(*self.solvers) if several else Constant(next(iter(self.solvers)))
        for name, (_, choices) in _SETTINGS.items():
            allowed = choices if name != "algorithm" or self.stochastic else choices[:1]
            if len(allowed) > 1 and (condition := self._where(name)) is not None:
                active_if = condition or None
                given = allowed == (True, False)
                found[name] = Bool(active_if=active_if) if given else Categorical(*allowed, active_if=active_if)
        if (condition := self._where("corrector")) is not None and isinstance(self.steps, int):
            each = range(1, self.steps) if self.steps <= CORRECTED else ()
            found |= {f"corrector_{i}": Bool(active_if=condition or None) for i in each}
        if self.guidance is not None:
            found["guidance"] = Float(*self.guidance)
        if self.interval and isinstance(self.steps, int):
            found |= {"guided_from": Int(0, self.steps - 1), "guided_until": Int(1, self.steps)}
        if self.eta is not None:
            found["eta"] = Float(*self.eta, active_if="solver == 'ddim'" if len(self.solvers) > 1 else None)
        if self.correction is not None:
            found["correction"] = Float(*self.correction)
        if self.skip:
            found |= {"skipped_first": Int(0, len(self.skip)), "skipped_last": Int(0, len(self.skip))}
        return Space(found, constraints=["guided_from < guided_until"] if "guided_from" in found else [])

    def _where(self, setting: str) -> str | None:
        """The condition under which a setting is one; empty: always; None: never."""
        those = [name for name in self.solvers if setting in SOLVERS[name].sets]
        if not those:
            return None
        chosen = " or ".join(f"solver == {name!r}" for name in those) if len(those) < len(self.solvers) else ""
        return " and ".join(f"({part})" for part in (chosen, _ONLY.get(setting)) if part)

    def schedule(self, params: Mapping[str, Any], provenance: Mapping[str, Any] | None = None) -> Schedule:
        """The schedule of a configuration."""
        solver = SOLVERS[params["solver"]]
        if "eta" in params:  # of which DDIM's own class knows alone
            solver = Solver("DDIMScheduler")
        config = dict(solver.fixed)
        for name in solver.sets:
            if name in _SETTINGS:
                key, choices = _SETTINGS[name]
                config[key] = params.get(name, choices[0])
        if "corrector" in solver.sets:
            off = [
                int(n.removeprefix("corrector_")) - 1
                for n, on in params.items()
                if n.startswith("corrector_") and not on
            ]
            config["disable_corrector"] = sorted(off)
        arguments = {
            key: params[name] for name, key in (("guidance", "guidance_scale"), ("eta", "eta")) if name in params
        }
        times = self.read(params)
        kind: dict[str, Any] = {"sigmas": tuple(times)} if self.flow else {"timesteps": tuple(int(t) for t in times)}
        if "guided_from" in params:
            kind["guided"] = params["guided_from"], params["guided_until"]
        if "correction" in params:
            kind["correction"] = params["correction"]
        if "skipped_first" in params:
            counts = np.linspace(params["skipped_first"], params["skipped_last"], len(times)).round()
            left_out = {name: tuple(np.flatnonzero(counts > i).tolist()) for i, name in enumerate(self.skip)}
            kind["skipped"] = {name: at for name, at in left_out.items() if at}
        return Schedule(solver.scheduler, **kind, config=config, arguments=arguments, provenance=dict(provenance or {}))

    def read(self, params: Mapping[str, Any]) -> list[float]:
        """The times of a configuration: its own, or so many steps of its curve."""
        times: list[float] = list(params["times"])
        if "steps" not in params:
            return times
        p = self.times
        every = TimeSteps(params["steps"], p.low, p.high, integer=p.integer, points=params["steps"])
        return every.nearest(resample(times, params["steps"]))

    def params(self, times: Sequence[float], **given: Any) -> dict[str, Any]:
        """A configuration at these times: ``given`` settings, and else the first choice of everything."""
        space = self.space
        params: dict[str, Any] = {"times": self.times.nearest(times)}
        given = {"guided_until": self.steps, **given}  # guided throughout
        if self.correction is not None:
            given = {"correction": min(max(0.0, self.correction[0]), self.correction[1]), **given}
        for name, p in space.parameters.items():
            if name != "times":
                params[name] = given.get(name, _first(p))
        conditions = space.conditions
        kept = {n: v for n, v in params.items() if n not in conditions or conditions[n].holds(params)}
        return space.check(kept)


def _number(steps: Any) -> bool:
    return isinstance(steps, int) and not isinstance(steps, bool) and steps > 0


def _range(steps: Any) -> bool:
    both = isinstance(steps, tuple | list) and len(steps) == 2 and all(_number(k) for k in steps)
    return both and 1 < steps[0] < steps[1]


def _first(p: Parameter) -> Any:
    match p:
        case Categorical():
            return p.choices[0]
        case Constant():
            return p.value
        case Bool():
            return True
        case Int():
            return p.low
        case _:
            return p.low if isinstance(p, Float) else None
