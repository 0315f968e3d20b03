"""Rules by name: hand-worked and enumerated cases, each against its source's definition."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.integrate import quad
from scipy.stats import norm, truncnorm
from scipy.stats import t as student_t

from suffice.optimizer import InvalidInput, Sampling
from suffice.optimizer.answers import Answers
from suffice.optimizer.beacon import FIRST, Beacon, indices, one_step
from suffice.optimizer.best_of_n import scores_of
from suffice.optimizer.optscale import OptScale0, OptScaleT, needed
from suffice.optimizer.pandora import Pandora
from suffice.optimizer.picks import PICKS
from suffice.optimizer.stopping import RULES, AdaptiveConsistency, EarlyStopping, Rule, Suffice, Threshold, finite, rule
from suffice.optimizer.truncated_normal import fit, log_cdf


def stops(made: Rule, answers: str | Sequence[str | None], scores: list[float] | None = None, cap: int = 16) -> int:
    """The number of answers at which a rule stops; ``cap`` if it does not before."""
    for n in range(1, min(len(answers), cap - 1) + 1):
        prefix = Answers.of(list(answers[:n]), None if scores is None else scores[:n])
        if made.enough(made.evidence(prefix, cap), n)[0]:
            return n
    return cap


# --- by name ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", RULES)
def test_every_rule_is_made_by_name_and_has_a_known_pick(name: str):
    made = rule(name)
    assert made.name == name
    assert made.pick in PICKS
    swept = made.sweep(8)
    assert len({one.watches() for one in swept}) in (1, len(swept))
    assert 1 <= made.soonest(0, 16) <= 16


def test_unknown_names_and_settings_are_told():
    with pytest.raises(InvalidInput, match="rule: expected one of fixed"):
        rule("magic")
    with pytest.raises(InvalidInput, match="windows: expected a setting of early_stopping: window"):
        rule("early_stopping", windows=3)
    with pytest.raises(InvalidInput, match="threshold: expected a probability"):
        rule("adaptive_consistency", threshold=1.0)
    with pytest.raises(InvalidInput, match="samples: expected a whole number"):
        rule("fixed", samples=0)
    with pytest.raises(InvalidInput, match="price: expected a finite number"):
        rule("suffice", price=float("nan"))


# --- votes ------------------------------------------------------------------------------------------------------------


def test_adaptive_consistency_by_quadrature():
    for v1, v2 in ((1, 0), (4, 0), (3, 2), (7, 1)):
        answers = Answers.of(["a"] * v1 + ["b"] * v2)
        above = quad(lambda x, a=v1, b=v2: x**a * (1 - x) ** b, 0.5, 1)[0]
        everywhere = quad(lambda x, a=v1, b=v2: x**a * (1 - x) ** b, 0, 1)[0]
        assert AdaptiveConsistency().evidence(answers, 16)[0] == pytest.approx(above / everywhere, rel=1e-9)


def test_adaptive_consistency_at_its_published_threshold_needs_four_equal_answers():
    assert stops(AdaptiveConsistency(), "aaaaaaaa") == 4  # 1 - 1/2^5 = .969; after three it is .9375
    assert stops(AdaptiveConsistency(threshold=0.9), "aaaaaaaa") == 3


def test_the_dirichlet_form_by_simulation():
    rng = np.random.default_rng(0)
    for votes in ([3, 1, 1], [2, 2, 1], [5, 2, 1, 1]):
        answers = Answers.of([c for c, v in zip("abcd", votes, strict=False) for _ in range(v)])
        found = AdaptiveConsistency(form="dirichlet").evidence(answers, 16)[0]
        drawn = rng.dirichlet(np.array(votes) + 1.0, size=200_000)
        assert found == pytest.approx((drawn.argmax(1) == 0).mean(), abs=0.004)


def test_with_two_clusters_the_dirichlet_form_is_the_beta_form():
    answers = Answers.of(list("aab"))
    beta = AdaptiveConsistency().evidence(answers, 16)
    np.testing.assert_allclose(AdaptiveConsistency(form="dirichlet").evidence(answers, 16), beta)


def test_the_weighted_form_counts_scores():
    even = [1.0] * 5
    assert stops(AdaptiveConsistency(form="weighted"), "aaaaa", even) == stops(AdaptiveConsistency(), "aaaaa")
    assert stops(AdaptiveConsistency(form="weighted"), "aaaaa", [0.5] * 5) > 4
    assert AdaptiveConsistency(form="weighted").pick == "weighted"


def test_early_stopping_wants_a_unanimous_window_and_windows_do_not_overlap():
    assert stops(EarlyStopping(window=3), "abbbbb") == 6  # the first window is abb
    assert stops(EarlyStopping(window=3), "bbbaaa") == 3
    assert stops(EarlyStopping(window=3), "abaaba") == 16
    assert stops(EarlyStopping(window=2), [None, None, "a", "a"]) == 4  # failures agree on nothing
    assert EarlyStopping(window=5).soonest(7, 16) == 10


@given(st.text("abc", min_size=1, max_size=8), st.floats(1e-4, 0.2), st.floats(1.0, 5.0))
@settings(deadline=None)
def test_a_higher_price_never_draws_more(answers: str, price: float, dearer: float):
    assert stops(Suffice(price=price * dearer), answers, cap=9) <= stops(Suffice(price=price), answers, cap=9)


def test_a_first_answer_that_failed_is_drawn_again():
    assert stops(Suffice(price=0.2), [None, "a", "a"]) == 2
    assert stops(Suffice(price=0.1), [None] * 15) < 15


def test_suffice_stops_on_agreement_and_gives_up_on_chaos():
    made = Suffice(price=0.01)
    assert stops(made, "aaaaaaaa") == 2
    assert stops(made, "ab") == 16
    assert stops(Suffice(price=0.05), "abcdefghijklmno") < 15


# --- scores -----------------------------------------------------------------------------------------------------------


def test_threshold_stops_at_the_first_good_score():
    assert stops(Threshold(threshold=0.8), "abcd", [0.1, 0.5, 0.8, 0.9]) == 3


def test_the_truncated_normals_distribution_function():
    for mu, sigma in ((0.5, 0.2), (1.4, 0.1), (-3.0, 0.5), (0.9, 0.02)):
        low, high = -mu / sigma, (1 - mu) / sigma
        found = log_cdf(0.7, np.array([mu]), np.array([sigma]))[0]
        assert found == pytest.approx(truncnorm.logcdf(0.7, low, high, mu, sigma), rel=1e-6, abs=1e-12)


@pytest.mark.parametrize(("mu", "sigma", "n"), [(0.5, 0.2, 8), (0.8, 0.1, 20), (0.95, 0.1, 10), (0.3, 0.3, 30)])
def test_fits_maximise_the_likelihood(mu: float, sigma: float, n: int):
    low, high = -mu / sigma, (1 - mu) / sigma
    scores = truncnorm.rvs(low, high, mu, sigma, size=n, random_state=1)

    def likelihood(m: float, s: float) -> float:
        return float(truncnorm.logpdf(scores, -m / s, (1 - m) / s, m, s).sum())

    (m,), (s,) = fit(scores[None])
    best = likelihood(m, s)
    assert best >= likelihood(mu, sigma)
    for dm, ds in ((0.01, 0), (-0.01, 0), (0, 0.01), (0, -0.01)):
        assert best >= likelihood(m + dm, s + ds) - 1e-4


def test_the_fit_is_safe_at_the_ceiling():
    scores = np.array([[0.999, 0.9995, 1.0, 0.998], [1.0, 1.0, 1.0, 1.0]])
    mu, sigma = fit(scores)
    assert np.isfinite(mu).all()
    assert np.isfinite(sigma).all()
    assert (needed(mu, sigma, 0.95, 0.95) == 1).all()


def test_a_prior_pulls_the_fit():
    scores = np.array([[0.9, 0.92]])
    mu, _ = fit(scores, (0.3, 0.1, 0.2, 0.1))
    free, _ = fit(scores)
    assert 0.3 < mu[0] < free[0]
    tight, tight_sigma = fit(scores, (0.3, 1e-3, 0.2, 1e-3))
    assert tight[0] == pytest.approx(0.3, abs=0.01)
    assert tight_sigma[0] == pytest.approx(0.2, abs=0.01)


def test_the_bound_by_hand():
    # far from the edges the truncation does not matter: F(s) is normal
    f = norm.cdf((0.6 - 0.5) / 0.05)
    assert needed(0.5, 0.05, 0.6, 0.95)[0] == np.ceil(np.log(0.05) / np.log(f))
    assert 1 - f ** needed(0.5, 0.05, 0.6, 0.95)[0] >= 0.95 > 1 - f ** (needed(0.5, 0.05, 0.6, 0.95)[0] - 1)
    assert needed(0.1, 0.01, 0.9, 0.95)[0] == np.inf


def test_optscale_refits_and_its_authors_code_peeks():
    scores = [0.2, 0.3, 0.25, 0.97, 0.3, 0.2]
    peeked = OptScale0(target=0.9, alpha=0.95, peek=3)
    mu, sigma = fit(np.array([scores[:3]]))
    assert needed(mu, sigma, 0.9, 0.95)[0] == np.inf
    assert stops(peeked, "abcdef", scores) == 16  # decided after three answers
    assert np.isnan(peeked.evidence(Answers.of(list("ab"), scores[:2]), 16)).all()
    assert stops(OptScale0(target=0.9, alpha=0.95), "ab", [0.95, 0.96]) == 1
    assert peeked.soonest(0, 16) == 3


def test_optscale_t_is_optscale0_under_a_flat_prior():
    answers = Answers.of(list("abcde"), [0.2, 0.5, 0.45, 0.7, 0.3])
    flat = OptScaleT(prior_sd=1e6).evidence(answers, 16)
    np.testing.assert_allclose(flat, OptScale0().evidence(answers, 16), atol=1e-3)


def test_optscale_wants_scores_from_0_to_1():
    with pytest.raises(InvalidInput, match="score"):
        OptScale0().evidence(Answers.of(["a"], [1.5]), 16)
    with pytest.raises(InvalidInput, match="score"):
        OptScale0().evidence(Answers.of(["a"]), 16)


@pytest.mark.parametrize("nu", [2.0, 5.0, 30.0])
@pytest.mark.parametrize("z", [-0.5, 0.0, 1.0, 3.0])
def test_the_expected_excess_of_students_t(nu: float, z: float):
    expected = quad(lambda x: (x - z) * student_t.pdf(x, nu), z, np.inf)[0]
    assert one_step(np.array([z]), nu)[0] == pytest.approx(expected, rel=1e-6)


def test_beacons_index_in_the_last_step_is_the_expected_excess():
    cap = 10
    h = indices(cap)
    z = np.linspace(0.0, 3.0, 7)
    from suffice.optimizer.beacon import Z

    np.testing.assert_allclose(np.interp(z, Z, h[cap - 1]), one_step(z, cap - 2), rtol=0.03)
    inside = h[FIRST:cap, 10:40]
    assert (np.diff(inside, axis=1) <= 1e-9).all()  # a larger lead is worth less more
    assert (np.diff(indices(20)[FIRST:10, 10:40] - h[FIRST:10, 10:40], axis=0) > -1).all()
    assert (indices(20)[FIRST:10, 10:40] >= h[FIRST:10, 10:40] - 1e-6).all()  # more to come is worth more


def test_beacon_is_invariant_to_shift_and_scale():
    scores = [0.1, 0.5, 0.4, 0.3]
    one = Beacon().evidence(Answers.of(list("abcd"), scores), 16)
    other = Beacon().evidence(Answers.of(list("abcd"), [3.0 + 7.0 * s for s in scores]), 16)
    assert other[0] == pytest.approx(7.0 * one[0])
    assert stops(Beacon(price=1e-3), "abcdef", [0.5] * 6) == FIRST  # nothing varies: nothing to gain


def test_pandora_stops_at_the_fair_cap():
    scores = [0.1, 0.2, 0.3, 0.6, 0.2]
    answers = Answers.of(list("abcde"), scores)
    price = Pandora(width=0.0).evidence(answers, 16)[0]
    m, mean = 0.2, (0.1 + 0.4) / 2
    tau = m + mean * np.log(mean / (2 * price))  # lambda = 1 / mean
    assert tau == pytest.approx(0.6)
    assert Pandora(width=1.0).evidence(answers, 16)[0] > price


def test_best_of_n_looks_at_failures_as_the_lowest_score():
    answers = Answers.of(["a", None, "b"], [0.4, None, 0.7])
    np.testing.assert_array_equal(scores_of(answers), [[0.4, 0.4, 0.7]])
    np.testing.assert_array_equal(scores_of(Answers.of([None, None])), [[0.0, 0.0]])


@pytest.mark.parametrize("value", [10**400, -(10**400), float("nan"), float("inf"), True, "1", None])
def test_a_number_is_finite(value: Any):
    with pytest.raises(InvalidInput) as error:
        finite("price", value)
    assert error.value.problems[0].field == "price"


@pytest.mark.parametrize(
    ("name", "chosen", "scored"),
    [
        ("suffice", {}, False),
        ("fixed", {}, False),
        ("fixed", {"picked": "best"}, True),
        ("adaptive_consistency", {}, False),
        ("adaptive_consistency", {"form": "weighted"}, True),
        ("early_stopping", {"picked": "weighted"}, True),
        ("threshold", {"picked": "majority"}, True),
        ("optscale0", {}, True),
        ("optscale_t", {}, True),
        ("beacon", {}, True),
        ("pandora", {"picked": "majority"}, True),
    ],
)
def test_which_rules_need_scores(name: str, chosen: dict[str, Any], scored: bool):
    assert rule(name, **chosen).scored is scored
    sampling = Sampling(name, settings=chosen)
    sampling.tell(None)
    if scored:
        with pytest.raises(InvalidInput) as error:
            sampling.tell("a")
        assert error.value.problems[0].field == "score"
    else:
        sampling.tell("a")
