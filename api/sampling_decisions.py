"""What to draw next: the stored state of a sampling in, a plan out. Pure; the library decides.

A prompt is decided on again when something was told since. With a token budget the prompts that have no draw out share
it (optimizer/allocation.py); without one every prompt goes by the same price.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from suffice.optimizer import Draw, Enough, InvalidInput, Sampling
from suffice.optimizer.answers import FLAT, TypePrior
from suffice.optimizer.errors import Problem
from suffice.optimizer.expected import RULES as EXPECTING
from suffice.optimizer.expected import Expected
from suffice.optimizer.sampling import EnoughReason
from suffice.optimizer.stopping import RULES

from .sampling_wire import (
    MOST_PRIORS,
    MOST_WITH_PRIOR,
    AnswerProbability,
    EnoughOut,
    PosteriorOut,
    PriorSpec,
    PromptOut,
    PromptSpec,
    SamplingCreate,
    SamplingDecide,
    SamplingDecideOut,
    SamplingOptions,
)

if TYPE_CHECKING:
    from suffice.optimizer.calibration import Calibration

LEAST_GAIN = 0.001  # as in the library; with a budget, the budget stops
SHARE = 8  # of the prompts that share a budget, one in so many draws at once unless the ask says otherwise
ALL_ENOUGH = "every prompt has enough"
SCORE = "a score: the rule or the calibration uses it"


@dataclass(frozen=True)
class Told:
    """A draw as stored; ``told`` False: it is out, ``lapsed``: for so long that it may be handed out again."""

    number: int
    told: bool
    lapsed: bool = False
    answer: Any = None
    score: float | None = None
    tokens: float | None = None


@dataclass(frozen=True)
class PromptState:
    """A prompt as stored. ``active``: it is to be decided on, and its draws are there."""

    position: int
    prompt: str
    prior: Mapping[str, Any] | None
    told: int
    watched: bool
    stop: Mapping[str, Any] | None
    out: int  # draws that are not told
    active: bool
    draws: Sequence[Told]

    @property
    def issued(self) -> int:
        return max((d.number + 1 for d in self.draws), default=0)

    @property
    def again(self) -> list[int]:
        """Numbers to hand out again: their time is up, or they were skipped."""
        known = {d.number for d in self.draws}
        skipped = [n for n in range(self.issued) if n not in known]
        return sorted([*skipped, *(d.number for d in self.draws if d.lapsed)])


@dataclass(frozen=True)
class State:
    """A sampling as stored, with all its prompts."""

    definition: Mapping[str, Any]
    calibration: Calibration | None
    elapsed: float  # seconds since it was created
    spent: float  # tokens
    stop: Mapping[str, Any] | None  # of the last ask
    prompts: Sequence[PromptState]


@dataclass
class Decided:
    """What was decided on a prompt: the library's step, and the draws to hand out."""

    state: PromptState
    step: Draw | Enough
    numbers: list[int] = field(default_factory=list)
    evidence: float | None = None  # of drift, once the prompt has enough

    @property
    def stop(self) -> dict[str, Any] | None:
        return self.step.to_json() if isinstance(self.step, Enough) else None

    @property
    def new(self) -> int:
        """How many of the numbers were not out before."""
        known = {d.number for d in self.state.draws}
        return sum(n not in known for n in self.numbers)

    def to_json(self) -> dict[str, Any]:
        """For the record."""
        known = {**self.step.to_json()}
        if isinstance(self.step, Draw):
            del known["first"]
            known["draw"] = self.numbers
        return {name: value for name, value in known.items() if value is not None}


@dataclass(frozen=True)
class Plan:
    """What to hand out and to keep; ``open`` and ``out`` are of the whole sampling once that is done."""

    decided: list[Decided]
    open: int
    out: int
    stop: Mapping[str, Any] | None


# --- definitions ------------------------------------------------------------------------------------------------------


def check(options: SamplingOptions, calibration: Calibration | None) -> None:
    """Whether the library takes these options. Raises InvalidInput."""
    if options.rule not in RULES:
        raise InvalidInput("rule", f"one of {', '.join(RULES)}", options.rule)
    for price in ("price", "prior"):
        if price in options.settings:
            raise InvalidInput(
                f"settings.{price}", f"{price} beside the settings, not in them", options.settings[price]
            )
    made(_definition(options), calibration)


Known = Mapping[str, Any] | None
"""Of a prompt beforehand: its features, its prior unless that is flat, and what else is ``told`` (Expected)."""


def check_create(wanted: SamplingCreate, calibration: Calibration | None) -> list[tuple[str, Known]]:
    """The prompts of a new sampling and what is known of them, once all of it is checked. Raises InvalidInput."""
    check(wanted, calibration)
    prompts = [PromptSpec(id=p) if isinstance(p, str) else p for p in wanted.prompts]
    seen: set[str] = set()
    for i, prompt in enumerate(prompts):
        if prompt.id in seen:
            raise InvalidInput(f"prompts.{i}.id", "ids that differ", prompt.id)
        seen.add(prompt.id)
    found = [(p.id, known(wanted, p.prior, p.features, calibration, f"prompts.{i}.")) for i, p in enumerate(prompts)]
    priors = len({_prior(one) for _, one in found})
    if priors > MOST_PRIORS:
        raise InvalidInput("prompts", f"at most {MOST_PRIORS} different priors", priors)
    _check_heard(wanted, calibration, [one for _, one in found])
    if wanted.budget is not None:
        if wanted.rule != "suffice":
            raise InvalidInput("rule", "suffice, because with a budget an answer's worth counts", wanted.rule)
        if wanted.expected_tokens is None and not all("tokens" in expected(one).told for _, one in found):
            needed = "the tokens of an answer, because there is a budget of them and features do not tell"
            raise InvalidInput("expected_tokens", needed, None)
    if wanted.deadline is not None and wanted.deadline <= 0:
        raise InvalidInput("deadline", "a positive number", wanted.deadline)
    return found


def _check_heard(options: SamplingOptions, calibration: Calibration | None, prompts: Sequence[Known]) -> None:
    """Raises InvalidInput for a calibration that would not be heard: optscale_t asks it what features tell."""
    if (
        options.rule == "optscale_t"
        and calibration is not None
        and not any(one and "features" in one for one in prompts)
    ):
        raise InvalidInput("calibration", "none, with optscale_t and no features of prompts", options.calibration)


def known(
    options: SamplingOptions,
    prior: PriorSpec | None,
    features: Sequence[float] | None,
    calibration: Calibration | None,
    where: str,
) -> Known:
    """What is known of a prompt beforehand; its prior is given, or the calibration makes it of its features.

    Features that the calibration cannot use yet are kept, to learn from. Raises InvalidInput.
    """
    if prior is None and features is None:
        return None
    if prior is not None and features is not None:
        raise InvalidInput(f"{where}prior", "either a prior or features", "both")
    if prior is not None and options.rule != "suffice":
        raise InvalidInput(f"{where}prior", "none, with any rule but suffice", options.rule)
    if features is not None and options.rule not in EXPECTING:
        raise InvalidInput(f"{where}features", f"none, with any rule but {' and '.join(EXPECTING)}", options.rule)
    if features is not None and calibration is None:
        raise InvalidInput(f"{where}features", "none, without a calibration that learns from them", features)
    made: dict[str, Any] = {} if prior is None else prior.model_dump()
    try:
        if features is not None:
            made |= {"features": list(features), **_told(features, calibration, options.rule)}
        _prior(made)
    except InvalidInput as error:
        problem = error.problems[0]
        raise InvalidInput(f"{where}{problem.field}", problem.expected, problem.got) from None
    if "theta" in made and options.max_samples > MOST_WITH_PRIOR:
        raise InvalidInput("max_samples", f"at most {MOST_WITH_PRIOR} with priors", options.max_samples)
    return made


def _told(features: Sequence[float], calibration: Calibration | None, rule: str) -> dict[str, Any]:
    """What a calibration makes of features, as far as it has learned from any."""
    if calibration is None or not calibration.featured:
        return {}
    found = calibration.expected(features)
    made: dict[str, Any] = {"told": dict(found.told)} if found.told else {}
    if rule == "suffice" and found.prior != FLAT:
        made |= {"theta": found.prior.theta, "alpha": found.prior.alpha}
    return made


def wrong_score(sampling: Sampling, answer: Any, score: float | None, where: str) -> list[Problem]:
    """What is wrong with an answer's score: nothing, or one problem."""
    if answer is None:
        return []
    if score is None:
        return [Problem(where, SCORE, None)] if sampling.scored else []
    try:
        sampling.rule.check(score)
    except InvalidInput as error:
        return [Problem(where, error.problems[0].expected, score)]
    return []


def _definition(options: SamplingOptions) -> dict[str, Any]:
    return options.model_dump(mode="json")


def _prior(known: Known) -> TypePrior:
    return FLAT if known is None or "theta" not in known else TypePrior(tuple(known["theta"]), tuple(known["alpha"]))


def expected(known: Known) -> Expected:
    """What a prompt's answers are expected to look like."""
    return Expected(_prior(known), {} if known is None else known.get("told", {}))


OPTIONS = ("max_samples", "target", "price", "token_price", "latency", "batch", "scores")


def made(
    definition: Mapping[str, Any],
    calibration: Calibration | None,
    known: Known = None,
    draws: Sequence[Told] = (),
    elapsed: float = 0.0,
    issued: int = 0,
) -> Sampling:
    """The library's sampling of a prompt. Raises InvalidInput for options that make no sense."""
    least, rule = definition["least_gain"], definition["rule"]
    if least is None:
        least = LEAST_GAIN if definition.get("budget") is None else 0.0
    if rule == "optscale_t":  # what it is expected to look like is all that the calibration tells of a prompt
        calibration = None
    document = {
        **{name: definition[name] for name in OPTIONS},
        **expected(known).options(rule, definition["settings"], definition["expected_tokens"]),
        "rule": rule,
        "deadline": definition.get("deadline"),
        "least_gain": least,
        "prior": None if (found := _prior(known)) == FLAT else {"theta": found.theta, "alpha": found.alpha},
        "calibration": None if calibration is None else calibration.name,
        "elapsed": elapsed,
        "issued": issued,
        "answers": [
            {"number": d.number, "answer": d.answer, "score": d.score, "tokens": d.tokens} for d in draws if d.told
        ],
    }
    return Sampling.from_json(document, calibration, clock=lambda: 0.0)


# --- deciding ---------------------------------------------------------------------------------------------------------


def plan(state: State, count: int | None) -> Plan:
    """What to draw next, for at most ``count`` prompts."""
    return _totals(state, _shared(state, count) if state.definition["budget"] else _priced(state, count))


def standing(state: State) -> Plan:
    """How it stands, with nothing decided anew."""
    return _totals(state, [])


def _totals(state: State, decided: list[Decided]) -> Plan:
    found = {one.state.position: one for one in decided}
    open_ = out = 0
    for prompt in state.prompts:
        one = found.get(prompt.position)
        if (prompt.stop if one is None else one.stop) is None:
            open_ += 1
            out += prompt.out + (0 if one is None else one.new)
    return Plan(decided, open_, out, None if open_ else _stop(state, decided))


def _priced(state: State, count: int | None) -> list[Decided]:
    """Every prompt by itself, in the order in which they were given."""
    found: list[Decided] = []
    given = 0
    for one, _ in _decided(state):
        if isinstance(one.step, Draw):
            one.numbers = [*one.state.again, *one.step.numbers]
        found.append(one)
        given += bool(one.numbers)
        if given == count:
            break
    return found


def _shared(state: State, count: int | None) -> list[Decided]:
    """Those prompts that have no draw out, and whose next answers are worth most per token, draw one each."""
    from suffice.optimizer.allocation import Batch

    most = count or max(1, len(state.prompts) // SHARE)
    found: list[Decided] = []
    free: list[tuple[Decided, Sampling]] = []
    for one, sampling in _decided(state):
        found.append(one)
        if isinstance(one.step, Draw):
            again = one.state.again
            if again and most:
                one.numbers = again
                most -= 1
            elif not again and not one.state.out:
                free.append((one, sampling))
    said = state.definition["expected_tokens"]
    tokens = {p.position: said or expected(p.prior).told["tokens"] for p in state.prompts}
    out = sum(tokens[p.position] * p.out for p in state.prompts)
    out += sum(tokens[one.state.position] * one.new for one in found)
    own = sum(sampling.tokens for _, sampling in free)
    left = state.definition["budget"]["tokens"] - state.spent - out
    chosen: list[int] = []
    if free and most and left > 0:
        usual = sum(tokens.values()) / len(tokens)
        chosen = Batch([sampling for _, sampling in free], own + left, usual).ask(most)
    for i in chosen:
        free[i][0].numbers = [free[i][0].state.issued]
    if most and not chosen and not out:  # nothing is to come that could change it
        for one, _ in free:
            one.step = _spent(one.step)
    return found


def _spent(step: Draw | Enough) -> Enough:
    message = "what is left of the tokens does not buy an answer more"
    return Enough(EnoughReason.BUDGET, message, step.gain, step.cost, samples=step.samples, confidence=step.confidence)


def _decided(state: State) -> Iterator[tuple[Decided, Sampling]]:
    """The library's step for each active prompt."""
    for p in state.prompts:
        if p.active:
            sampling = made(state.definition, state.calibration, p.prior, p.draws, state.elapsed, p.issued)
            one = Decided(p, sampling.ask())
            one.evidence = _evidence(state, one)
            yield one, sampling


def _evidence(state: State, one: Decided) -> float | None:
    """What the drift alarm makes of a prompt that has enough; it looks at each once."""
    if state.calibration is None or one.stop is None or one.state.watched or state.definition["rule"] != "suffice":
        return None
    told = {d.number: d for d in one.state.draws}
    counted = [told[n] for n in range(one.step.samples)]
    answers, scores = [d.answer for d in counted], [d.score for d in counted]
    return state.calibration.drift_evidence(answers, scores, by_score=state.definition["scores"])


def _stop(state: State, decided: Sequence[Decided]) -> Mapping[str, Any] | None:
    """Why nothing more is drawn: a single prompt's reason is the sampling's."""
    if not decided:
        return state.stop
    if len(state.prompts) == 1:
        known = decided[0].step.to_json()
        return {name: known[name] for name in ("reason", "message", "gain", "cost")}
    if state.definition["budget"] and any(one.step == _spent(one.step) for one in decided):
        return {"reason": str(EnoughReason.BUDGET), "message": f"{state.spent:g} tokens are spent"}
    return {"reason": ALL_ENOUGH, "message": f"{len(state.prompts)} prompts"}


# --- what is known ----------------------------------------------------------------------------------------------------


def result(
    definition: Mapping[str, Any], calibration: Calibration | None, prompt: PromptState, decisions: list[dict[str, Any]]
) -> PromptOut:
    """What is known of a prompt."""
    sampling = made(definition, calibration, prompt.prior, prompt.draws)
    posterior = posterior_out(sampling)
    return PromptOut(
        prompt=prompt.prompt,
        samples=sampling.samples,
        tokens=sampling.tokens,
        confidence=_confidence(sampling),
        pick=sampling.pick,  # type: ignore[arg-type]
        pick_number=sampling.pick_number,
        posterior=posterior,
        expected=expected(prompt.prior).to_json() or None,
        stop=None if prompt.stop is None else EnoughOut(**prompt.stop),
        decisions=decisions,
    )


def trusts(wanted: SamplingOptions, alarm: bool | None) -> bool:
    """Whether scores are looked at, with the calibration's drift alarm on or off."""
    return wanted.scores and not (alarm and wanted.on_drift == "votes")


def decide(wanted: SamplingDecide, calibration: Calibration | None, alarm: bool | None) -> SamplingDecideOut:
    """The decision after the answers so far, and the pick."""
    check(wanted, calibration)
    before = known(wanted, wanted.prior, wanted.features, calibration, "")
    _check_heard(wanted, calibration, [before])
    definition: dict[str, Any] = {**_definition(wanted), "scores": trusts(wanted, alarm)}
    bare = made(definition, calibration)
    wrong = [
        p for i, a in enumerate(wanted.answers) for p in wrong_score(bare, a.answer, a.score, f"answers.{i}.score")
    ]
    if wrong:
        raise InvalidInput.of(wrong)
    draws = [Told(i, True, False, a.answer, a.score, a.tokens) for i, a in enumerate(wanted.answers)]
    sampling = made(definition, calibration, before, draws)
    step = sampling.ask()
    return SamplingDecideOut(
        draw=step.count if isinstance(step, Draw) else None,
        stop=EnoughOut(**step.to_json()) if isinstance(step, Enough) else None,
        samples=step.samples,
        confidence=step.confidence,
        gain=step.gain,
        cost=step.cost,
        pick=sampling.pick,  # type: ignore[arg-type]
        pick_number=sampling.pick_number,
        posterior=posterior_out(sampling),
        expected=expected(before).to_json() or None,
        drift=alarm,
    )


def posterior_out(sampling: Sampling) -> PosteriorOut:
    """The posterior, the likeliest answer first."""
    known = sampling.posterior
    ranked: list[tuple[Any, float]] = sorted(known.answers.items(), key=lambda item: -item[1])
    return PosteriorOut(answers=[AnswerProbability(answer=a, probability=p) for a, p in ranked], none=known.none)


def _confidence(sampling: Sampling) -> float:
    return sampling.posterior.answers.get(sampling.pick, 0.0)
