"""Slices and contours are what the model predicts, along one parameter and over two."""

import math

import numpy as np
import pytest
from scipy.stats import norm

from suffice.optimizer import Categorical, Float, Int, InvalidInput, NotFound, Objective, Space, Study
from suffice.optimizer.slices import contour, contour_json, grid, slice_json, slices

SPACE = Space(
    lr=Float(1e-4, 1e-1, log=True),
    layers=Int(1, 5),
    optimizer=Categorical("adam", "sgd"),
    momentum=Float(0, 1, active_if="optimizer == 'sgd'"),
    constraints=["layers + 10 * lr <= 5.5"],
)


def value(params):
    bowl = (math.log10(params["lr"]) + 2.5) ** 2 + 0.1 * abs(params["layers"] - 3)
    return bowl + (0.2 + 0.1 * params["momentum"] if params["optimizer"] == "sgd" else 0.0)


def told(study, count, result=value):
    rng = np.random.default_rng(1)
    for params in study.space.decode(study.space.sample(count, rng)):
        study.add(params, result(params))
    return study


@pytest.fixture(scope="module")
def study():
    return told(Study(SPACE, noise="none", cost=0.01, seed=0), 12)


def test_a_slice_is_the_prediction_along_its_parameter(study):
    adam = next(t for t in study.trials if t.params["optimizer"] == "adam")
    found = {one.parameter: one for one in slices(study, through=adam.number)}
    assert set(found) == {"lr", "layers", "optimizer"}  # momentum is not active there
    for name, one in found.items():
        ok = [v for v, allowed in zip(one.values, one.belief.allowed, strict=True) if allowed]
        if name == "optimizer":
            ok = ["adam"]
        predicted = study.predict([{**adam.params, name: v} for v in ok])
        at = [one.values.index(v) for v in ok]
        np.testing.assert_allclose(one.belief.median[at], predicted.mean, rtol=1e-9)
        np.testing.assert_allclose(one.belief.sd[at], predicted.sd, rtol=1e-6)


def test_bands_are_quantiles_and_lie_inside_each_other(study):
    (one,) = slices(study, ["lr"])
    low, high = one.belief.bands[0.95]
    np.testing.assert_allclose(high, one.belief.median + norm.ppf(0.975) * one.belief.sd, rtol=1e-9)
    inner_low, inner_high = one.belief.bands[0.5]
    assert ((low < inner_low) & (inner_low < one.belief.median)).all()
    assert ((one.belief.median < inner_high) & (inner_high < high)).all()


def test_on_a_logarithmic_scale_bands_keep_their_order():
    study = told(Study(Space(x=Float(-3, 3), y=Float(-3, 3)), noise="none", seed=0), 25, result=steep)
    for one in slices(study):
        (low, high), (inner_low, inner_high) = one.belief.bands[0.95], one.belief.bands[0.5]
        assert (low <= inner_low).all()
        assert (inner_low <= one.belief.median).all()
        assert (one.belief.median <= inner_high).all()
        assert (inner_high <= high).all()


def steep(params):
    return math.exp(params["x"] ** 2 + params["y"] ** 2 / 3)


def test_what_breaks_a_parameter_constraint_is_marked(study):
    (one,) = slices(study, ["lr"], through=max(study.trials, key=lambda t: t.params["layers"]).number)
    layers = one.through["layers"]
    assert [10 * lr + layers <= 5.5 for lr in one.values] == one.belief.allowed.tolist()


def test_data_say_how_near_they_are(study):
    trial = study.trials[3]
    (one,) = slices(study, ["lr"], through=trial.number)
    own = next(point for point in one.data if point[0] == trial.number)
    assert own[1:3] == (trial.params["lr"], trial.value)
    assert own[3] == pytest.approx(1.0)
    assert all(0 <= nearness <= 1 for *_, nearness in one.data)
    assert min(nearness for *_, nearness in one.data) < 0.99
    assert len(one.data) == len(study.trials)


def test_a_contour_is_the_prediction_over_both(study):
    sgd = next(t for t in study.trials if t.params["optimizer"] == "sgd")
    found = contour(study, "layers", "momentum", through=sgd.number)
    k = 2 * len(found.x) + 1
    at = {"layers": found.x[1], "momentum": found.y[2]}
    predicted = study.predict({**sgd.params, **at})
    assert found.belief.median[k] == pytest.approx(predicted.mean[0])
    assert found.belief.sd[k] == pytest.approx(predicted.sd[0])
    assert {n for n, *_ in found.data} == {t.number for t in study.trials if "momentum" in t.params}


def test_with_outcome_constraints_there_is_a_chance_that_they_hold():
    objectives = [Objective("loss"), Objective("size")]
    study = Study(Space(x=Float(0, 1)), objectives, outcome_constraints=["heat <= 0.5"], seed=0)
    for x in np.linspace(0, 1, 9):
        study.add({"x": float(x)}, {"loss": (x - 0.3) ** 2, "size": x, "heat": x})
    (one,) = slices(study, metric="size")
    assert one.belief.feasible is not None
    assert one.belief.feasible[0] > 0.99
    assert one.belief.feasible[-1] < 0.01
    np.testing.assert_allclose(one.belief.median, one.values, atol=0.05)


def test_at_a_target_the_slice_is_of_values_there():
    space = Space(lr=Float(0, 1), epochs=Int(1, 9))
    study = Study(space, fidelity={"target": {"epochs": 9}, "cost": "epochs / 9"}, seed=0)
    told(study, 14, lambda p: (p["lr"] - 0.4) ** 2 + 1 / p["epochs"])
    along = {one.parameter: one for one in slices(study, through=0)}
    at_target = study.predict([{"lr": lr, "epochs": 9} for lr in along["lr"].values])
    np.testing.assert_allclose(along["lr"].belief.sd, at_target.sd, rtol=1e-6)  # the scale may be logarithmic
    own = study.predict([{**study.trials[0].params, "epochs": n} for n in along["epochs"].values])
    np.testing.assert_allclose(along["epochs"].belief.sd, own.sd, rtol=1e-6)
    assert np.ptp(own.sd) > 1e-6


def test_what_is_asked_for_is_checked(study):
    with pytest.raises(NotFound, match="trial 99"):
        slices(study, through=99)
    with pytest.raises(InvalidInput, match="metric"):
        slices(study, metric="speed")
    with pytest.raises(InvalidInput, match="parameters"):
        slices(study, ["nothing"])
    with pytest.raises(InvalidInput, match="another parameter"):
        contour(study, "lr", "lr")
    with pytest.raises(NotFound, match="no model"):
        slices(Study(SPACE, seed=0))


def test_the_wire_holds_numbers_and_nulls(study):
    found = contour_json(contour(study, "lr", "layers"))
    assert len(found["median"]) == len(found["x"]) * len(found["y"]) == len(found["allowed"])
    (one,) = slices(study, ["layers"])
    one.belief.median[0] = math.inf
    assert slice_json(one)["median"][0] is None
    assert slice_json(one)["values"] == [1, 2, 3, 4, 5]
    assert grid(SPACE.parameters["optimizer"], 2) == ["adam", "sgd"]
