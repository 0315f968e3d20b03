"""The space: encoding, conditions, constraints and refusals."""

from __future__ import annotations

import json
import math
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from strategies import configurations, spaces

from suffice.optimizer import Bool, Categorical, Constant, Float, Int, InvalidInput, Ordinal, Space

seeds = st.integers(0, 2**31)


def same(a: dict[str, Any], b: dict[str, Any]) -> bool:
    """Equal up to rounding of floats, and exactly in everything else."""
    return list(a) == list(b) and all(
        np.allclose(a[k], b[k], rtol=1e-9, atol=1e-3)
        if isinstance(a[k], float | list)
        else a[k] is b[k] or a[k] == b[k]
        for k in a
    )


@given(spaces(), seeds)
def test_encoding_and_back_is_lossless(space: Space, seed: int) -> None:
    for params in configurations(space, 8, seed):
        assert space.check(params) == params
        X = space.encode([params])
        assert ((X >= 0) & (X <= 1)).all()
        assert same(space.decode(X)[0], params)


def test_discrete_values_and_end_points_come_back_exactly() -> None:
    space = Space(
        lr=Float(1e-5, 1e-1, log=True), n=Int(3, 4097, log=True), s=Float(0.1, 0.9, step=0.1), c=Ordinal(1, 2, 4)
    )
    for lr in (1e-5, 1e-1):
        for n in (3, 4, 5, 17, 1023, 4096, 4097):
            params = {"lr": lr, "n": n, "s": 0.1 + 0.1 * 6, "c": 4}
            assert space.decode(space.encode([params])) == [params]


@given(spaces(), seeds)
def test_snapping_any_point_of_the_cube_gives_a_configuration(space: Space, seed: int) -> None:
    X = np.random.default_rng(seed).random((16, space.dimension))
    snapped = space.snap(X)
    np.testing.assert_allclose(space.encode(space.decode(X)), snapped, atol=1e-9)
    np.testing.assert_allclose(space.snap(snapped), snapped, atol=1e-9)


@given(spaces(), seeds)
def test_moves_stay_inside_the_space(space: Space, seed: int) -> None:
    rng = np.random.default_rng(seed)
    X = space.sample(5, rng)
    for moved in (space.perturb(X, 0.1, rng), space.neighbours(X, rng)):
        np.testing.assert_allclose(space.snap(moved), moved, atol=1e-9)
        for params in space.decode(moved):
            space.check(params)


@given(spaces())
def test_definitions_survive_json(space: Space) -> None:
    again = Space.from_json(**json.loads(json.dumps(space.to_json())))
    assert again == space


def test_inactive_parameters_are_left_out_and_sit_at_the_centre() -> None:
    space = Space(kind=Categorical("a", "b"), x=Float(0, 1, active_if="kind == 'b'"), y=Int(1, 9, active_if="x > 0.5"))
    assert space.check({"kind": "a"}) == {"kind": "a"}
    assert space.check({"kind": "b", "x": 0.2}) == {"kind": "b", "x": 0.2}
    assert space.check({"kind": "b", "x": 0.7, "y": 3}) == {"kind": "b", "x": 0.7, "y": 3}
    assert space.column_names == ["kind=a", "kind=b", "x", "y", "active[kind == 'b']", "active[x > 0.5]"]
    np.testing.assert_array_equal(space.encode([{"kind": "a"}]), [[1, 0, 0.5, 0.5, 0, 0]])
    with pytest.raises(InvalidInput, match=r"parameters\.x: expected no value, because kind == 'b' does not hold"):
        space.check({"kind": "a", "x": 0.5})
    with pytest.raises(InvalidInput, match=r"parameters\.x: expected a value"):
        space.check({"kind": "b"})


@pytest.mark.parametrize(
    ("space", "holds"),
    [
        (Space(x=Float(0, 10), y=Float(0, 10), constraints=["x + y <= 8"]), lambda p: p["x"] + p["y"] <= 8),
        (
            Space(a=Float(1e-3, 1e3, log=True), b=Int(1, 1000, log=True), constraints=["a * b <= 100"]),
            lambda p: p["a"] * p["b"] <= 100,
        ),
        (
            Space(
                {f"x{i}": Float(0, 1) for i in range(8)}, constraints=["+".join(f"x{i}" for i in range(8)) + " <= 1"]
            ),
            lambda p: sum(p.values()) <= 1,
        ),
        (
            Space(
                solver=Categorical("l", "s"),
                penalty=Categorical("l1", "l2"),
                constraints=["not (solver == 'l' and penalty == 'l1')"],
            ),
            lambda p: (p["solver"], p["penalty"]) != ("l", "l1"),
        ),
        (
            Space(x=Float(0, 1), y=Float(0, 1), constraints=["0.499 <= x <= 0.5", "abs(x - y) <= 1e-4"]),
            lambda p: abs(p["x"] - p["y"]) <= 1e-4,
        ),
    ],
)
def test_samples_satisfy_parameter_constraints(space: Space, holds: Any) -> None:
    configurations_ = configurations(space, 64, 0)
    assert len(configurations_) == 64
    assert all(holds(p) for p in configurations_)
    assert all(space.check(p) == p for p in configurations_)


def test_walking_samples_are_uniform_over_a_simplex() -> None:
    d = 10  # rejection finds nothing here: the simplex is 1/10! of the cube
    space = Space({f"x{i}": Float(0, 1) for i in range(d)}, constraints=["+".join(f"x{i}" for i in range(d)) + " <= 1"])
    X = space.sample(2000, np.random.default_rng(0))
    assert X.sum(1).max() <= 1
    np.testing.assert_allclose(X.mean(0), 1 / (d + 1), atol=0.012)  # the mean of a uniform draw from the simplex


def test_inactive_logarithmic_parameters_are_encoded_quietly() -> None:
    space = Space(on=Bool(), rate=Float(1e-3, 1, log=True, active_if="on"), n=Int(1, 100, log=True, active_if="on"))
    np.testing.assert_array_equal(space.encode([{"on": False}]), [[0, 0.5, 0.5, 0]])


def test_constraints_do_not_apply_to_inactive_parameters() -> None:
    space = Space(on=Bool(), x=Float(0, 1, active_if="on"), y=Float(0, 1), constraints=["x + y <= 0.5"])
    assert space.check({"on": False, "y": 0.9}) == {"on": False, "y": 0.9}
    with pytest.raises(InvalidInput, match=r"values that satisfy x \+ y <= 0.5"):
        space.check({"on": True, "x": 0.1, "y": 0.9})


def test_enumeration_counts_each_configuration_once() -> None:
    space = Space(on=Bool(), n=Int(1, 4, active_if="on"), c=Categorical("a", "b", "c"), constraints=["n <= 3"])
    found = list(space.enumerate())
    assert len(found) == 3 + 3 * 3
    assert len({json.dumps(p) for p in found}) == len(found)


def test_uniform_draws_give_every_whole_number_the_same_share() -> None:
    X = Space(n=Int(0, 4)).sample(5000, np.random.default_rng(0))
    counts = np.unique(X, return_counts=True)[1]
    assert len(counts) == 5
    assert counts.min() > 850


REFUSED: list[tuple[Any, str]] = [
    (lambda: Float(1, 0), "low: expected a number below high"),
    (lambda: Float(0, math.inf), "high: expected a finite number"),
    (lambda: Float(0, 1, log=True), "low: expected a positive number"),
    (lambda: Float("0", 1), "low: expected a finite number"),  # type: ignore[arg-type]
    (lambda: Float(0, 1, step=2), "step: expected a positive number"),
    (lambda: Int(0, 2.5), "high: expected a whole number"),  # type: ignore[arg-type]
    (lambda: Int(0, 10, step=0), "step: expected a whole number from 1"),
    (lambda: Categorical("a"), "choices: expected at least two"),
    (lambda: Categorical("a", "a"), "choices.1: expected a choice that differs"),
    (lambda: Categorical(1, True), "choices.1: expected a choice that differs from the others, got True"),
    (lambda: Ordinal([1, None]), "choices.1: expected a string, number or boolean"),
    (lambda: Constant(math.nan), "value: expected a string, finite number"),
    (lambda: Space(), "parameters: expected from 1 to"),
    (lambda: Space(c=Constant(1)), "parameters: expected at least one parameter that is not constant"),
    (lambda: Space({"a b": Float(0, 1)}), "parameters.a b.name: expected a name"),
    (lambda: Space({"lambda": Float(0, 1)}), "no reserved word"),
    (lambda: Space(x=(0, 1)), "parameters.x: expected Float, Int"),  # type: ignore[arg-type]
    (lambda: Space(x=Float(0, 1), constraints=["x + z <= 1"]), r"parameter_constraints.0: expected names among"),
    (lambda: Space(x=Float(0, 1), y=Float(0, 1), constraints=["x == y"]), "expected no == on x"),
    (lambda: Space(x=Float(0, 1), constraints=["x <="]), "syntax error"),
    (lambda: Space(x=Float(0, 1), constraints=["x + 1"]), "expected a comparison"),
    (lambda: Space(x=Float(0, 1), constraints="x <= 1"), "expected a list of conditions"),
    (lambda: Space(c=Categorical("a", "b"), constraints=["c + 1 <= 2"]), "arithmetic and order only on numbers"),
    (lambda: Space(c=Categorical("a", "b"), x=Float(0, 1, active_if="c == 'z'")), "a choice of c"),
    (lambda: Space(x=Float(0, 1, active_if="y > 0"), y=Float(0, 1, active_if="x > 0")), "conditions without a cycle"),
    (lambda: Space(x=Float(0, 1), constraints=["x >= 2"]).sample(1, np.random.default_rng(0)), "none was found"),
]


@pytest.mark.parametrize(("build", "message"), REFUSED)
def test_bad_definitions_are_refused_by_name(build: Any, message: str) -> None:
    with pytest.raises(InvalidInput, match=message):
        build()


@pytest.mark.parametrize(
    ("definition", "field"),
    [
        ([{"name": "x", "type": "float", "low": 0}], "parameters.x.high"),
        ([{"name": "x", "type": "real", "low": 0, "high": 1}], "parameters.x.type"),
        ([{"name": "x", "type": "float", "low": 0, "high": 1, "choices": [1]}], "parameters.x.choices"),
        ([{"name": "x", "type": "float", "low": 0, "high": "1"}], "parameters.x.high"),
        ([{"type": "bool"}], "parameters.0.name"),
        ([{"name": "b", "type": "bool"}, {"name": "b", "type": "bool"}], "parameters.1.name"),
        ([{"name": "c", "type": "categorical", "choices": "ab"}], "parameters.c.choices"),
    ],
)
def test_bad_json_definitions_name_the_field(definition: list[dict[str, Any]], field: str) -> None:
    with pytest.raises(InvalidInput) as error:
        Space.from_json(definition)
    assert error.value.problems[0].field == field


def test_every_wrong_parameter_is_listed_at_once() -> None:
    wrong: list[dict[str, Any]] = [
        {"name": "x", "type": "float", "low": 1, "high": 0},
        {"type": "bool"},
        {"name": "n", "type": "int", "low": 0},
    ]
    with pytest.raises(InvalidInput) as error:
        Space.from_json(wrong)
    assert [p.field for p in error.value.problems] == ["parameters.x.low", "parameters.1.name", "parameters.n.high"]


def test_every_wrong_value_is_listed_at_once() -> None:
    space = Space(x=Float(0, 1), n=Int(1, 5), c=Categorical("a", "b"), b=Bool())
    with pytest.raises(InvalidInput) as error:
        space.check({"x": math.nan, "n": 2.5, "c": "z", "b": 1, "extra": 0})
    assert [p.field for p in error.value.problems] == [f"parameters.{n}" for n in ("extra", "x", "n", "c", "b")]


@given(spaces(), seeds)
def test_a_part_of_the_space_keeps_its_columns_and_fixed_values(space: Space, seed: int) -> None:
    rng = np.random.default_rng(seed)
    (params,) = configurations(space, 1, seed)
    fixed = {name: params[name] for name in list(params)[: 1 + seed % len(params)]}
    part = space.at(fixed)
    X = part.sample(6, rng)
    for rows in (X, part.snap(space.sample(6, rng)), part.perturb(X, 0.3, rng), part.neighbours(X, rng)):
        for found in (*part.decode(rows), *space.decode(rows)):
            assert all(same({n: found[n]}, {n: v}) for n, v in fixed.items() if n in found)
    moved = part.free(X, relaxed=True)
    assert not moved[:, [i for i, n in enumerate(space.column_names) if n.split("=")[0] in fixed]].any()
    assert part.at({}).fixed == part.fixed


def test_a_part_of_a_finite_space_is_enumerated() -> None:
    space = Space(n=Int(1, 3), c=Categorical("a", "b"))
    assert space.at({"c": "b"}).cardinality == 3
    assert list(space.at({"c": "b"}).enumerate()) == [{"n": n, "c": "b"} for n in (1, 2, 3)]
    with pytest.raises(InvalidInput, match="c"):
        space.at({"c": "z"})
