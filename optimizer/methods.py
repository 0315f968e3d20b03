"""The acquisitions by name: their options, and where they are built. Light: builders are imported when used."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from importlib import import_module
from itertools import pairwise
from typing import TYPE_CHECKING, Any

from .errors import InvalidInput

if TYPE_CHECKING:
    from .acquisition import Acquisition, Situation


@dataclass(frozen=True)
class Option:
    """A number that tunes an acquisition: its default and the range it may have, both ends included."""

    default: float
    low: float
    high: float
    whole: bool = False

    def check(self, value: Any, field: str) -> float:
        number = isinstance(value, int | float) and not isinstance(value, bool)
        if not number or not self.low <= value <= self.high or (self.whole and value != int(value)):
            kind = "a whole number" if self.whole else "a number"
            raise InvalidInput(field, f"{kind} from {self.low:g} to {self.high:g}", value)
        return int(value) if self.whole else float(value)


@dataclass(frozen=True)
class Method:
    """An acquisition: what it maximises, its builder, whether its exp is a gain in standardised units, its options."""

    summary: str
    builder: str  # module:function of (Situation, **options) -> Acquisition
    gain: bool
    options: Mapping[str, Option] = field(default_factory=dict)
    needs_cost: bool = False
    per_cost: bool = False  # the gain is one per unit of cost
    needs_risk: bool = False  # for risk measures that are not linear, and only for them
    knows_target: bool = False  # can value configurations elsewhere than at themselves (`target.py`)
    ascending: tuple[str, ...] = ()  # options whose values must not fall in this order
    knows_feasibility: bool = False  # otherwise it is multiplied by the probability of feasibility

    def build(self, situation: Situation, options: Mapping[str, float]) -> Acquisition:
        module, function = self.builder.split(":")
        builder = getattr(import_module(f".{module}", __package__), function)
        acquisition: Acquisition = builder(situation, **self.filled(options))
        return acquisition

    def check_order(self, options: Mapping[str, float]) -> None:
        """Raises InvalidInput where options that have to ascend do not."""
        values = self.filled(options)
        for low, high in pairwise(self.ascending):
            if values[low] > values[high]:
                expected = f"a number of at most {high}, which is {values[high]:g}"
                raise InvalidInput(f"acquisition.{low}", expected, values[low])

    def filled(self, options: Mapping[str, float]) -> dict[str, Any]:
        """Every option with its value: given, or the default."""
        return {name: options.get(name, option.default) for name, option in self.options.items()}


METHODS: dict[str, Method] = {
    "expected_improvement": Method(
        "the expected rise above the best value, in closed form; beside pending trials averaged over their results",
        "acquisition:expected_improvement",
        gain=True,
    ),
    "noisy_expected_improvement": Method(
        "the same above the best of the noiseless values, averaged over what those and the pending ones may be",
        "acquisition:noisy_expected_improvement",
        gain=True,
    ),
    "expected_improvement_per_cost": Method(
        "the (noisy) expected improvement divided by the expected cost",
        "cost:expected_improvement_per_cost",
        gain=False,
        needs_cost=True,
    ),
    "gittins": Method(
        "the value at which improving on it is worth exactly the cost (the Gittins index of Pandora's box)",
        "cost:gittins",
        gain=False,
        needs_cost=True,
        knows_feasibility=True,
    ),
    "probability_of_improvement": Method(
        "the probability of a rise of more than a margin above the best value, averaged over noise and pending results",
        "bounds:probability_of_improvement",
        gain=False,
        options={"margin": Option(0.01, 0.0, 10.0)},
    ),
    "upper_confidence_bound": Method(
        "the mean plus sqrt(beta) standard deviations; pending trials count as measured there",
        "bounds:upper_confidence_bound",
        gain=False,
        options={"beta": Option(4.0, 0.0, 1e4)},
    ),
    "trust_region": Method(
        "the (noisy) expected improvement inside a box around the best, which grows with success and shrinks without",
        "trust_region:trust_region",
        gain=True,
        options={
            "length": Option(0.8, 1e-3, 2.0),
            "shortest": Option(2.0**-7, 1e-9, 1.0),
            "longest": Option(1.6, 1e-3, 2.0),
            "successes": Option(3, 1, 10_000, whole=True),
            "failures": Option(20, 1, 10_000, whole=True),
        },
        ascending=("shortest", "length", "longest"),
    ),
    "thompson": Method(
        "a function drawn from the posterior, a new one for every suggestion",
        "thompson:thompson",
        gain=False,
        options={"features": Option(1024, 16, 16384, whole=True)},
    ),
    "entropy_search": Method(
        "the information about the maximum's value (max-value entropy search), in nats",
        "entropy_search:entropy_search",
        gain=False,
        options={"samples": Option(16, 1, 256, whole=True)},
    ),
    "joint_entropy_search": Method(
        "the information about the maximum's place and value together, in nats",
        "entropy_search:joint_entropy_search",
        gain=False,
        options={"samples": Option(16, 1, 256, whole=True)},
    ),
    "predictive_entropy_search": Method(
        "the information about the maximum's place, in nats, by expectation propagation; slow",
        "entropy_search:predictive_entropy_search",
        gain=False,
        options={"samples": Option(16, 1, 256, whole=True)},
    ),
    "knowledge_gradient": Method(
        "the expected rise of the best posterior mean anywhere in the space, after one more trial at x",
        "knowledge_gradient:knowledge_gradient",
        gain=True,
        knows_target=True,
        options={"discretisation": Option(64, 4, 1024, whole=True), "fantasies": Option(16, 1, 256, whole=True)},
    ),
    "derivative_knowledge_gradient": Method(
        "the knowledge gradient when the next trial brings derivatives, too, averaged over what they may be; slow",
        "derivative_knowledge_gradient:derivative_knowledge_gradient",
        gain=True,
        options={
            "discretisation": Option(32, 4, 1024, whole=True),
            "fantasies": Option(4, 1, 256, whole=True),
            "draws": Option(8, 2, 1024, whole=True),
        },
    ),
    "knowledge_gradient_per_cost": Method(
        "the knowledge gradient divided by the expected cost; with fidelities the rise is that at the target",
        "knowledge_gradient:knowledge_gradient_per_cost",
        gain=True,
        needs_cost=True,
        per_cost=True,
        knows_target=True,
        options={"discretisation": Option(64, 4, 1024, whole=True), "fantasies": Option(16, 1, 256, whole=True)},
    ),
    "risk_knowledge_gradient": Method(
        "the expected rise of the best posterior mean of a risk measure over an environment (var or cvar)",
        "risk:risk_knowledge_gradient",
        gain=True,
        knows_target=True,
        needs_risk=True,
        options={"discretisation": Option(64, 4, 1024, whole=True), "fantasies": Option(16, 1, 256, whole=True)},
    ),
    "posterior_mean_improvement": Method(
        "the expected rise of the best posterior mean over the visited configurations and x",
        "knowledge_gradient:posterior_mean_improvement",
        gain=True,
        knows_target=True,
        options={"fantasies": Option(16, 1, 256, whole=True)},
    ),
    "posterior_mean_improvement_per_cost": Method(
        "the same divided by the expected cost; with fidelities the rise is that at the target",
        "knowledge_gradient:posterior_mean_improvement_per_cost",
        gain=True,
        needs_cost=True,
        per_cost=True,
        knows_target=True,
        options={"fantasies": Option(16, 1, 256, whole=True)},
    ),
    "one_shot_knowledge_gradient": Method(
        "the knowledge gradient, improving x and the points that may be best after it in turn",
        "knowledge_gradient:one_shot_knowledge_gradient",
        gain=True,
        knows_target=True,
        options={
            "solutions": Option(8, 1, 128, whole=True),
            "rounds": Option(2, 1, 16, whole=True),
            "fantasies": Option(16, 1, 256, whole=True),
        },
    ),
}


@dataclass(frozen=True)
class AcquisitionChoice:
    """The acquisition a study asks for: "auto" or a method's name, and its options."""

    name: str = "auto"
    options: Mapping[str, float] = field(default_factory=dict)

    @classmethod
    def of(cls, definition: str | Mapping[str, Any]) -> AcquisitionChoice:
        """From a name, or ``{"name": ..., option: value}``; raises InvalidInput for unknown names and options."""
        if isinstance(definition, str):
            definition = {"name": definition}
        if not isinstance(definition, Mapping) or not isinstance(definition.get("name"), str):
            raise InvalidInput("acquisition", 'a name, or {"name": ..., option: value}', definition)
        options = {k: v for k, v in definition.items() if k != "name"}
        name = definition["name"]
        if name != "auto" and name not in METHODS:
            raise InvalidInput("acquisition", f"one of {['auto', *METHODS]}", name)
        known = {} if name == "auto" else METHODS[name].options
        for key, value in options.items():
            if key not in known:
                raise InvalidInput(f"acquisition.{key}", f"an option of {name}: {list(known)}", value)
        choice = cls(name, {k: known[k].check(v, f"acquisition.{k}") for k, v in options.items()})
        if name != "auto":
            METHODS[name].check_order(choice.options)
        return choice

    @property
    def needs_cost(self) -> bool:
        return self.name != "auto" and METHODS[self.name].needs_cost

    @property
    def needs_risk(self) -> bool:
        return self.name != "auto" and METHODS[self.name].needs_risk

    def to_json(self) -> str | dict[str, Any]:
        return {"name": self.name, **self.options} if self.options else self.name
