"""Stopping at the first good score: the cell that pays best, found one by one; and what a sampling makes of it."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest
from scored_answers import document

from suffice.optimizer import Draw, Sampling
from suffice.optimizer.answers import Answers
from suffice.optimizer.calibration import CROSSING, PRICES, Calibration, Crossing
from suffice.optimizer.crossing import Cell, cells
from suffice.optimizer.pool import Pool, Traces, traces
from suffice.optimizer.replay import replay
from suffice.optimizer.stopping import rule

CAP = 6


@pytest.fixture(scope="module")
def calibration() -> Calibration:
    """One that goes nothing but such a way."""
    found = Calibration.fit(Pool.of(document(40, 0)), CAP, orders=2)
    parts = traces(Pool.of(document(40, 1)), CAP, 2, 0)
    table = next(iter(found.gains.values()))
    crossing = {way: cells(parts, pick, PRICES) for way, pick in CROSSING.items()}
    return replace(found, ways=("first good",), cells=crossing, gains={"best": table}, trust={})


def outcome(part: Traces, cell: Cell) -> tuple[float, float]:
    """Accuracy and mean answers of one cell, row by row."""
    right, drawn = 0.0, 0
    for scores, truth in zip(part.answers.known_scores, part.truth, strict=True):
        n = next((i + 1 for i, s in enumerate(scores) if s >= cell.threshold or i + 1 == cell.samples), len(scores))
        right += truth[int(np.argmax(scores[:n]))]
        drawn += n
    return right / len(part.truth), drawn / len(part.truth)


def test_each_price_has_the_cell_that_pays_best():
    pool = Pool.of(document(30, 3, samples=8))
    (part,) = traces(pool, CAP, 2, 0)
    prices = (0.3, 0.03, 0.001)
    found = cells([part], "best", prices)
    every = {cell for more in np.geomspace(0.3, 1e-4, 60) for cell in cells([part], "best", [float(more)])}
    thresholds = np.quantile(part.answers.scores, np.linspace(0.05, 0.99, 15))
    rivals = every | {Cell(float(t), c) for t in thresholds for c in (1, 3, CAP)}
    for price, cell in zip(prices, found, strict=True):
        accuracy, samples = outcome(part, cell)
        own = accuracy - price * samples
        others = max(a - price * s for a, s in (outcome(part, one) for one in every))
        assert own >= others - 1e-12
        beyond = max(a - price * s for a, s in (outcome(part, one) for one in rivals))
        assert own > beyond - 0.02, "thresholds between those that are tried add little"
    assert [cell.samples for cell in found] == sorted(cell.samples for cell in found), "more where answers are cheap"


def test_it_stops_where_a_threshold_does(calibration: Calibration):
    unseen = Pool.of(document(20, 2))
    for price in (0.1, 0.01, 1e-4):
        ours = calibration.rule(price)
        assert isinstance(ours, Crossing)
        threshold = rule("threshold", threshold=ours.cell.threshold)
        mine, theirs = replay(unseen, [ours, threshold], ours.cell.samples, 4, 0)
        assert mine.samples.tolist() == theirs.samples.tolist()
        assert mine.accuracy.tolist() == theirs.accuracy.tolist()


@pytest.mark.parametrize("price", [0.1, 0.01, 1e-4])
def test_a_sampling_draws_until_a_score_is_good_enough(calibration: Calibration, price: float):
    ours = calibration.rule(price)
    assert isinstance(ours, Crossing)
    low = ours.cell.threshold - 0.1
    for good in range(CAP):
        sampling = Sampling(price=price, max_samples=CAP, calibration=calibration)
        scores = [low + 0.01 * i for i in range(good)] + [ours.cell.threshold] * CAP
        n = 0
        while isinstance(step := sampling.ask(), Draw):
            assert step.gain is None or n == 0 or step.gain > price
            sampling.tell("ab"[n % 2], scores[n], 10)
            n += 1
        assert n == min(good + 1, ours.cell.samples)
        assert sampling.pick == "ab"[(n - 1) % 2], "the best score is the last one"


def test_json_holds_the_cells(calibration: Calibration):
    copy = Calibration.from_json(json.loads(json.dumps(calibration.to_json())))
    assert copy.cells == calibration.cells
    answers = Answers.of(["a", "b"], [0.3, 0.4])
    for price in PRICES[::8]:
        for one in (copy.rule(price), calibration.rule(price)):
            assert isinstance(one, Crossing)
            assert one.outlook(answers, CAP) == calibration.by("first good", price).outlook(answers, CAP)  # type: ignore[attr-defined]
