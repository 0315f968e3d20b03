"""Decision records: why so many answers were drawn, which was given, and what another rule would have made of them."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Mapping, Sequence
from itertools import islice
from typing import TYPE_CHECKING, Any

from suffice.optimizer import Draw, Enough, InvalidInput, NotFound, Sampling

from .access import DEFAULT_PROJECT
from .drawing import Answer, Drawn
from .gateway_config import Wishes, sampling_of, wishes_of

if TYPE_CHECKING:
    from suffice.optimizer.calibration import Calibration

MOST_POOLED = 200_000  # answers in a replay
POOL_RULES = {"rule", "settings", "price"}  # what a replay of a pool takes into account
DECISION_RULES = {*POOL_RULES, "max_samples", "target", "token_price", "expected_tokens", "calibration"}


class Decisions:
    """The newest records, each of one project."""

    def __init__(self, size: int) -> None:
        self._size = size
        self._kept: OrderedDict[str, tuple[int, dict[str, Any]]] = OrderedDict()

    def keep(self, record: dict[str, Any], project: int = DEFAULT_PROJECT) -> None:
        self._kept[record["decision_id"]] = project, record
        while len(self._kept) > self._size:
            self._kept.popitem(last=False)

    def get(self, decision_id: str, project: int = DEFAULT_PROJECT) -> dict[str, Any]:
        """Raises NotFound."""
        owner, record = self._kept.get(decision_id, (None, None))
        if record is None or owner != project:
            raise NotFound(f"no decision {decision_id!r} is kept (the newest {self._size} are)")
        return record

    def newest(self, count: int, project: int = DEFAULT_PROJECT) -> list[dict[str, Any]]:
        """The newest of them first."""
        own = (record for owner, record in reversed(self._kept.values()) if owner == project)
        return list(islice(own, count))

    def __len__(self) -> int:
        return len(self._kept)


def trace(drawn: Drawn, given: Answer | None) -> list[dict[str, Any]]:
    """One line per answer that came, in the order asked for."""
    counted = {id(one) for one in drawn.counted}
    lines = [
        {
            "number": one.number,
            "answer": one.answer,
            "score": one.score,
            "tokens": one.tokens,
            "seconds": round(one.seconds, 4),
            "rejected": one.rejected,
            "counted": id(one) in counted,
            "given": one is given,
        }
        for one in [*drawn.counted, *drawn.unused]
    ]
    return sorted(lines, key=lambda line: line["number"])


def posterior(sampling: Sampling) -> dict[str, Any]:
    """P(right) of each answer, and of none of them, the likeliest first."""
    found = sampling.posterior
    ranked = sorted(found.answers.items(), key=lambda item: -item[1])
    return {
        "answers": [{"answer": str(a), "probability": round(p, 6)} for a, p in ranked],
        "none": round(found.none, 6),
    }


def decide_again(record: Mapping[str, Any], wishes: Wishes, calibration: Calibration | None) -> dict[str, Any]:
    """What complete ``wishes`` would have made of a record's answers: where they stop, and which answer they give.

    ``stop`` is None where they would have drawn more than were drawn.
    """
    counted = [line for line in record["trace"] if line["counted"] or line["answer"] is not None]
    sampling = sampling_of(wishes, calibration=calibration)
    step = sampling.ask()
    for i, line in enumerate(counted):
        if isinstance(step, Enough):
            break
        sampling.tell(line["answer"], line["score"], line["tokens"], number=i)
        step = sampling.ask()
    return {
        "decision_id": record["decision_id"],
        "samples": step.samples,
        "answer": sampling.pick,
        "confidence": step.confidence,
        "stop": None if isinstance(step, Draw) else step.to_json(),
    }


def replayed(document: Any, pool: bool) -> Wishes:
    """One of a replay's rules. Raises InvalidInput for what a replay cannot take into account."""
    wishes = wishes_of(document)
    for name in wishes.model_fields_set - (POOL_RULES if pool else DECISION_RULES):
        known = ", ".join(sorted(POOL_RULES if pool else DECISION_RULES))
        raise InvalidInput(name, f"what answers can be replayed under: {known}", getattr(wishes, name))
    return wishes


def replay_pool(document: Any, rules: Sequence[Wishes], max_samples: int, orders: int) -> list[dict[str, Any]]:
    """What rules do on recorded, labelled answers (optimizer/pool.py): accuracy, samples and tokens of each."""
    from suffice.optimizer.pool import Pool
    from suffice.optimizer.replay import replay

    pool = Pool.of(document)
    total = sum(prompt.n for prompt in pool.prompts) * orders
    if total > MOST_POOLED * 50:
        raise InvalidInput("orders", f"at most {MOST_POOLED * 50} answers times orders", total)
    made = [sampling_of(wishes).rule for wishes in rules]
    ids = [prompt.id for prompt in pool.prompts]
    return [outcome.row(ids) for outcome in replay(pool, made, max_samples, orders)]
