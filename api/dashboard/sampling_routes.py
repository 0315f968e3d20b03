"""What the pages about samplings and the gateway ask for: tokens saved, stop reasons, reliability, replays."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import Annotated, Any

import numpy as np
from fastapi import Path, Query, Request
from sqlmodel import col, func, select

from suffice.api import sampling_decisions
from suffice.api.deps import Cursor, Limit, PartsDep, Router, read_cursor, write_cursor
from suffice.api.errors import problems
from suffice.api.sampling_decisions import posterior_out
from suffice.api.samplings import Id
from suffice.api.tables import DrawRow, PromptRow, SamplingRow
from suffice.api.wire import NO_NUL, StopOut
from suffice.optimizer import Draw, Enough, InvalidInput, NotFound, Sampling

from .wire import (
    BelievedAnswer,
    DecisionLine,
    DecisionLines,
    Labels,
    PromptLine,
    ReliabilityBin,
    ReliabilityOut,
    ReplayOut,
    ReplayStep,
    SamplingLine,
    SamplingLines,
    SamplingView,
    SavedOut,
)

router = Router(prefix="/v1/dashboard", tags=["dashboard"])
BINS = 10
SHOWN = 8  # answers of a posterior
Fact = tuple[int, int, float, Mapping[str, Any] | None]  # sampling, answers told, tokens, stop


@router.get("/samplings", responses=problems(422), summary="Samplings at a glance")
def list_samplings(parts: PartsDep, limit: Limit = 100, cursor: Cursor = None) -> SamplingLines:
    """The newest first, with the tokens that they saved against drawing `max_samples` answers for every prompt."""
    before = read_cursor(cursor, int, None)
    query = parts.samplings.own().order_by(col(SamplingRow.id).desc()).limit(limit + 1)
    if before is not None:
        query = query.where(SamplingRow.id < before)
    with parts.store.database.read() as session:
        rows = session.exec(query).all()
        ids = [row.id for row in rows[:limit]]
        facts = select(PromptRow.sampling_id, PromptRow.told, PromptRow.tokens, PromptRow.stop)
        found: dict[int, list[Fact]] = {sampling_id: [] for sampling_id in ids}
        for fact in session.exec(facts.where(col(PromptRow.sampling_id).in_(ids))):
            found[fact[0]].append(fact)
    lines = [_line(row, found[row.id]) for row in rows[:limit]]
    cursor = write_cursor(rows[limit - 1].id) if len(rows) > limit else None
    return SamplingLines(samplings=lines, total=_total(lines), next_cursor=cursor)


def _line(row: SamplingRow, facts: Sequence[Fact]) -> SamplingLine:
    most = row.definition["max_samples"]
    done = [(told, tokens, stop) for _, told, tokens, stop in facts if stop is not None]
    confidences = [stop["confidence"] for _, _, stop in done]
    return SamplingLine(
        id=row.public_id,
        rule=row.definition["rule"],
        max_samples=most,
        open=row.prompts - len(done),
        created_at=row.created_at,
        updated_at=row.updated_at,
        prompts=len(done),
        samples=sum(told for told, _, _ in done),
        tokens=sum(tokens for _, tokens, _ in done),
        fixed_samples=most * len(done),
        fixed_tokens=sum(tokens / told * most for told, tokens, _ in done if told),
        confidence=float(np.mean(confidences)) if confidences else None,
        reasons=Counter(stop["reason"] for _, _, stop in done),
    )


def _total(lines: Sequence[SamplingLine]) -> SavedOut:
    known = [(line.confidence, line.prompts) for line in lines if line.confidence is not None]
    prompts = sum(line.prompts for line in lines)
    return SavedOut(
        prompts=prompts,
        samples=sum(line.samples for line in lines),
        tokens=sum(line.tokens for line in lines),
        fixed_samples=sum(line.fixed_samples for line in lines),
        fixed_tokens=sum(line.fixed_tokens for line in lines),
        confidence=sum(c * n for c, n in known) / prompts if known and prompts else None,
        reasons=sum((Counter(line.reasons) for line in lines), Counter()),
    )


@router.get("/samplings/{id}", responses=problems(404, 422), summary="A sampling, prompt by prompt")
def read_sampling(parts: PartsDep, id: Id) -> SamplingView:
    with parts.store.database.read() as session:
        row = parts.samplings.by_public_id(session, id)
        columns = (PromptRow.prompt, PromptRow.told, PromptRow.tokens, PromptRow.position, col(PromptRow.stop))
        query = select(*columns).where(PromptRow.sampling_id == row.id)  # type: ignore[call-overload]
        found: list[Any] = list(session.exec(query.order_by(col(PromptRow.position))))
        equal = select(DrawRow.position, func.count()).where(DrawRow.sampling_id == row.id)
        equal = equal.where(col(DrawRow.told_at).is_not(None), col(DrawRow.answer).is_not(None))
        most: dict[int, int] = {}
        for position, count in session.exec(equal.group_by(col(DrawRow.position), col(DrawRow.answer))):
            most[position] = max(count, most.get(position, 0))
    prompts = [
        PromptLine(
            prompt=prompt,
            samples=told,
            tokens=tokens,
            agreement=most.get(position, 0) / told if told else None,
            confidence=None if stop is None else stop["confidence"],
            reason=None if stop is None else stop["reason"],
        )
        for prompt, told, tokens, position, stop in found
    ]
    labels = _labels(row.info)
    return SamplingView(
        line=_line(row, [(row.id, told, tokens, stop) for _, told, tokens, _, stop in found]),
        labels=sum(p.prompt in labels for p in prompts),
        metadata=row.info,
        prompts=prompts,
    )


@router.post("/samplings/{id}/reliability", responses=problems(404, 409, 422), summary="Is confidence deserved?")
def reliability(parts: PartsDep, id: Id, wanted: Labels) -> ReliabilityOut:
    """How often picks are right, by the confidence in them, where the right answers are known. Nothing is kept."""
    sampling = parts.samplings.sampling(id)
    labels = _labels(sampling.metadata) if wanted.labels is None else {k: str(v) for k, v in wanted.labels.items()}
    known = [r for r in sampling.results if r.samples and r.prompt in labels]
    if not known:
        raise InvalidInput("labels", "the right answer of a prompt of this sampling that has answers", len(labels))
    right = {r.prompt: str(r.pick) == labels[r.prompt] for r in known}
    return _reliability(np.array([r.confidence for r in known]), right)


def _labels(metadata: dict[str, Any]) -> dict[str, str]:
    labels = metadata.get("labels")
    return {str(k): str(v) for k, v in labels.items()} if isinstance(labels, dict) else {}


def _reliability(confidence: np.ndarray, known: dict[str, bool]) -> ReliabilityOut:
    right = np.array(list(known.values()))
    places = np.minimum((confidence * BINS).astype(int), BINS - 1)
    bins: list[ReliabilityBin] = []
    for k in np.unique(places):
        own = places == k
        low, high = float(k / BINS), float((k + 1) / BINS)
        means = float(confidence[own].mean()), float(right[own].mean())
        bins.append(ReliabilityBin(low=low, high=high, prompts=int(own.sum()), confidence=means[0], accuracy=means[1]))
    error = sum(b.prompts * abs(b.accuracy - b.confidence) for b in bins) / len(right)
    return ReliabilityOut(
        bins=bins,
        prompts=len(right),
        accuracy=float(right.mean()),
        confidence=float(confidence.mean()),
        right=known,
        error=error,
    )


# --- single decisions -------------------------------------------------------------------------------------------------


@router.get("/samplings/{id}/replay", responses=problems(404, 422), summary="One prompt's decision, answer by answer")
def replay_prompt(parts: PartsDep, id: Id, prompt: Annotated[str, Query(max_length=200, pattern=NO_NUL)]) -> ReplayOut:
    """What was believed after each answer, and what the rule would do, in the order in which they were asked for."""
    with parts.store.database.read() as session:
        row = parts.samplings.by_public_id(session, id)
        query = select(PromptRow).where(PromptRow.sampling_id == row.id, PromptRow.prompt == prompt)
        found = session.exec(query).first()
        if found is None:
            raise NotFound(f"the sampling has no prompt {prompt!r}")
        draws = select(DrawRow).where(DrawRow.sampling_id == row.id, DrawRow.position == found.position)
        told = [d for d in session.exec(draws.order_by(col(DrawRow.number))) if d.told_at is not None]
    calibration = None if row.calibration_id is None else parts.calibrations.of(row.calibration_id)
    sampling = sampling_decisions.made(row.definition, calibration, found.prior)
    answers = [(d.answer, d.score, d.tokens) for d in told]
    return ReplayOut(
        title=prompt,
        rule=row.definition["rule"],
        max_samples=row.definition["max_samples"],
        drawn=len(answers),
        steps=_steps(sampling, answers),
    )


@router.get("/decisions", responses=problems(422), summary="The gateway's newest decisions")
def list_decisions(request: Request, parts: PartsDep, limit: Limit = 100) -> DecisionLines:
    """The newest first; none where the service has no gateway. They are kept in memory."""
    gateway = request.app.state.gateway
    records = [] if gateway is None else gateway.decisions.newest(limit, parts.store.project)
    return DecisionLines(decisions=[_decision(record) for record in records], gateway=gateway is not None)


def _decision(record: dict[str, Any]) -> DecisionLine:
    tokens = record.get("tokens") or {}
    used = [tokens[name] for name in ("prompt", "completion") if tokens.get(name) is not None]
    return DecisionLine(
        id=record["decision_id"],
        model=record["model"],
        policy=record["policy"],
        rule=record["rule"],
        samples=record["samples"]["counted"],
        confidence=record["confidence"],
        reason=record["stop_reason"],
        tokens=sum(used) if used else None,
        saved=tokens.get("saved_vs_fixed"),
    )


@router.get("/decisions/{id}/replay", responses=problems(404, 422), summary="A decision of the gateway, step by step")
def replay_decision(
    request: Request, parts: PartsDep, id: Annotated[str, Path(max_length=200, pattern=NO_NUL)]
) -> ReplayOut:
    """As for a sampling's prompt, by the configured policy: what a single request asked for beside it is not kept."""
    from suffice.api.gateway_config import DEFAULTS, Wishes, sampling_of

    gateway = request.app.state.gateway
    if gateway is None:
        raise NotFound("the service has no gateway")
    record = gateway.decisions.get(id, parts.store.project)
    policy = gateway.config.policies.get(record["policy"])
    wishes = Wishes(rule=record["rule"]).over(policy if policy is not None else DEFAULTS).over(DEFAULTS)
    lines = [one for one in record["trace"] if one["counted"] or one["answer"] is not None]
    return ReplayOut(
        title=f"{record['model']}: {record['answer']}",
        rule=record["rule"],
        max_samples=wishes.max_samples or len(lines),
        drawn=len(lines),
        steps=_steps(sampling_of(wishes), [(one["answer"], one["score"], one["tokens"]) for one in lines]),
    )


def _steps(sampling: Sampling, answers: Iterable[tuple[Any, float | None, float | None]]) -> list[ReplayStep]:
    """What a sampling believes and decides before the first answer and after each."""
    steps = [_step(sampling, None, None, None)]
    for number, (answer, score, tokens) in enumerate(answers):
        if number >= sampling.max_samples:
            break
        sampling.tell(answer, score, tokens, number=number)
        steps.append(_step(sampling, answer, score, tokens))
    return steps


def _step(sampling: Sampling, answer: Any, score: float | None, tokens: float | None) -> ReplayStep:
    step: Draw | Enough = sampling.ask()
    known = posterior_out(sampling)
    return ReplayStep(
        answer=None if answer is None else str(answer),
        score=score,
        tokens=tokens,
        posterior=[BelievedAnswer(answer=str(a.answer), probability=a.probability) for a in known.answers[:SHOWN]],
        none=known.none,
        pick=None if sampling.pick is None else str(sampling.pick),
        confidence=step.confidence,
        draw=step.count if isinstance(step, Draw) else None,
        gain=step.gain,
        cost=step.cost,
        stop=StopOut(reason=str(step.reason), message=step.message) if isinstance(step, Enough) else None,
    )
