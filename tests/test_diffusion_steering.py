"""The samplers do what their papers' formulas say, on models whose answers are known and on the digits."""

from typing import Any

import numpy as np
import pytest
import torch
from benchmarks.digit_models import ddpm_pipeline, digit_classifier, digits, flow_pipeline
from diffusers import DDIMScheduler, DPMSolverMultistepScheduler, EulerDiscreteScheduler, PNDMScheduler
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.integrate import quad
from scipy.stats import t as student_t
from torch import Tensor

from suffice.adapters.diffusion.candidates import Candidates
from suffice.adapters.diffusion.denoiser import Denoiser
from suffice.adapters.diffusion.flowopt import FlowOpt, lead_back, step_bound
from suffice.adapters.diffusion.noise_search import NoiseSearch
from suffice.adapters.diffusion.svdd import SVDD
from suffice.adapters.diffusion.worth import STRENGTH, Priced, Scatter, Worth
from suffice.optimizer.beacon import Beacon
from suffice.optimizer.errors import InvalidInput
from suffice.optimizer.pandora import Pandora
from suffice.optimizer.stopping import AdaptiveConsistency, Fixed

SHAPE = (1, 1, 2)
MEAN, SD = 0.3, 0.4  # of the data that `normal_model` has learned, in the model's units


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def path(steps: int, kind: str) -> tuple[Tensor, Tensor]:
    b = torch.linspace(1.0, 0.0, steps + 1, dtype=torch.float64) * (1.0 if kind == "flow" else 0.999)
    a = 1 - b if kind == "flow" else (1 - b.square()).sqrt()
    return a, b


def normal_model(steps: int, kind: str = "flow", prediction: str = "flow", sd: float = SD) -> Denoiser:
    """The best denoiser of independent normal pixels: every expectation is known in closed form."""
    a, b = path(steps, kind)

    def predict(x: Tensor, time: Tensor) -> Tensor:
        at, bt = float(a[int(time)]), float(b[int(time)])
        x0 = MEAN + at * sd**2 / (at**2 * sd**2 + bt**2) * (x - at * MEAN)
        noise = (x - at * x0) / bt
        return {"flow": noise - x0, "epsilon": noise, "sample": x0, "v_prediction": at * noise - bt * x0}[prediction]

    return Denoiser(
        predict,
        prediction,
        torch.arange(steps).float(),
        a,
        b,
        SHAPE,
        decode=lambda x0: x0,
        encode=lambda images: images,
    )


def mass(images: Tensor) -> Tensor:
    return images.flatten(1).mean(1)


# --- the denoiser ---


@pytest.mark.parametrize("eta", [0.0, 0.5, 1.0])
def test_a_diffusion_model_takes_ddims_steps(eta: float):
    pipeline, steps = ddpm_pipeline(), 7
    scheduler = DDIMScheduler.from_config(pipeline.scheduler.config, timestep_spacing="leading")
    scheduler.set_timesteps(steps)
    pipeline.scheduler = scheduler
    denoiser = Denoiser.from_pipeline(pipeline, steps)
    x = theirs = denoiser.noise(3, seeded()) / float(denoiser.b[0])
    ours, here, there = x, seeded(1), seeded(1)
    for step, t in enumerate(scheduler.timesteps):
        ours = denoiser.advance(denoiser.estimate(ours, step), step, eta, here)
        with torch.no_grad():
            theirs = scheduler.step(pipeline.unet(theirs, t).sample, t, theirs, eta=eta, generator=there).prev_sample
        torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-4)


def test_a_flow_takes_eulers_steps_as_the_pipeline_does():
    pipeline = flow_pipeline()
    denoiser = Denoiser.from_pipeline(pipeline, 6)
    images = pipeline(batch_size=4, generator=seeded(), num_inference_steps=6, output_type="pt").images
    noise = torch.randn(4, 1, 8, 8, generator=seeded())
    torch.testing.assert_close(denoiser.decode(denoiser.run(noise)), images, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("prediction", ["epsilon", "v_prediction"])
def test_what_the_network_predicts_does_not_matter(prediction: str):
    model = normal_model(5, "diffusion", prediction)
    expected = normal_model(5, "diffusion", "sample").run(torch.ones(2, *SHAPE).double())
    torch.testing.assert_close(model.run(torch.ones(2, *SHAPE).double()), expected)


@pytest.mark.parametrize("kind", ["flow", "diffusion"])
@pytest.mark.parametrize("eta", [0.0, 1.0])
def test_normal_data_come_out_with_their_mean_and_spread(kind: str, eta: float):
    model = normal_model(300, kind, "sample")
    out = model.run(model.noise(4000, seeded()).double(), eta=eta, generator=seeded(1))
    assert float(out.mean()) == pytest.approx(MEAN, abs=0.02)
    assert float(out.std()) == pytest.approx(SD, rel=0.04)


@pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")  # diffusers on this NumPy
def test_schedulers_whose_states_are_scaled_otherwise_are_refused():
    pipeline = ddpm_pipeline()
    config = pipeline.scheduler.config
    for kind in (EulerDiscreteScheduler, PNDMScheduler):
        pipeline.scheduler = kind.from_config(config)
        with pytest.raises(InvalidInput):
            Denoiser.from_pipeline(pipeline, 5)
    pipeline.scheduler = DPMSolverMultistepScheduler.from_config(config)
    assert Denoiser.from_pipeline(pipeline, 5).steps == 5


# --- candidates ---


def test_images_stop_when_their_own_rule_says_so():
    candidates = Candidates(2, 20, Beacon(price=0.05))
    assert candidates.count == 3
    candidates.tell(np.array([[0.0, 0.001, 0.002], [0.0, 5.0, -3.0]]))
    assert candidates.active.tolist() == [1]  # the first one's values scatter less than a candidate costs
    assert candidates.count == 1
    candidates.tell(np.array([[1.0]]))
    assert candidates.counts.tolist() == [3, 4]


@given(st.integers(1, 12), st.integers(1, 5), st.sampled_from([None, Fixed(samples=4), Beacon(0.1), Pandora(0.1)]))
def test_no_image_gets_more_than_the_most(most: int, batch: int, rule):
    rng = np.random.default_rng(0)
    candidates = Candidates(5, most, rule, batch)
    while count := candidates.count:
        candidates.tell(rng.normal(size=(len(candidates.active), count)))
    expected = {None: most, Fixed(samples=4): min(4, most)}.get(rule)
    assert candidates.counts.max() <= most
    assert candidates.counts.min() >= 1
    if expected is not None:
        assert (candidates.counts == expected).all()


def test_rules_that_count_equal_answers_are_refused():
    with pytest.raises(InvalidInput, match="rule"):
        SVDD(rule=AdaptiveConsistency())


# --- SVDD ---


def test_a_single_candidate_is_the_plain_sampler():
    model = normal_model(6, "diffusion", "sample")
    noise = model.noise(5, seeded())
    steered = SVDD(M=1).sample(model, mass, noise, seeded(1))
    torch.testing.assert_close(steered.images, model.run(noise, eta=1.0, generator=seeded(1)))
    assert steered.calls.tolist() == [6] * 5


def test_the_last_choice_is_the_best_of_m_in_closed_form():
    # One step that chooses, of normal candidates with known mean and spread: E[max of M] is tabulated.
    model = normal_model(2, "flow", "sample")
    noise = model.noise(4000, seeded())
    steered = SVDD(M=5).sample(model, lambda images: images[:, 0, 0, 0], noise, seeded(1))
    mean, sd = model.transition(model.estimate(noise, 0), 0, 1.0)
    a, b = float(model.a[1]), float(model.b[1])
    gain = a * SD**2 / (a**2 * SD**2 + b**2)
    expected = MEAN + gain * (mean[:, 0, 0, 0] - a * MEAN).mean() + gain * sd * 1.16296
    assert steered.rewards.mean() == pytest.approx(float(expected), abs=4 * steered.rewards.std() / 4000**0.5)
    assert (steered.candidates == 5).all()
    assert (steered.calls == 6).all()


def test_a_linear_model_foresees_which_draw_is_best():
    # Linear in a linear model, what the old noise estimate promises ranks draws as the network does: 5 of 4 are 20.
    model = normal_model(2, "flow", "sample")
    noise = torch.zeros(4000, *SHAPE)
    steered = SVDD(M=5, among=4).sample(model, lambda images: images[:, 0, 0, 0], noise, seeded(1))
    mean, sd = model.transition(model.estimate(noise, 0), 0, 1.0)
    a, b = float(model.a[1]), float(model.b[1])
    gain = a * SD**2 / (a**2 * SD**2 + b**2)
    expected = MEAN + gain * (float(mean[0, 0, 0, 0]) - a * MEAN) + gain * sd * 1.86748
    assert steered.rewards.mean() == pytest.approx(expected, abs=4 * steered.rewards.std() / 4000**0.5)
    assert (steered.calls == 6).all()


def test_what_is_foreseen_at_a_state_is_its_image_if_the_noise_is_right():
    model = normal_model(6, "diffusion", "sample")
    x0, noise = torch.full((3, *SHAPE), 0.2), model.noise(3, seeded()) / float(model.b[0])
    x = float(model.a[2]) * x0 + float(model.b[2]) * noise
    torch.testing.assert_close(model.foresee(x, 2, noise), x0)


def test_the_temperature_weighs_candidates_as_it_says():
    # Many candidates of one step follow p(x) exp(r / alpha): of a normal law, the mean moves by variance / alpha.
    model = normal_model(2, "flow", "sample")
    noise = torch.zeros(2000, *SHAPE)
    mean, sd = model.transition(model.estimate(noise, 0), 0, 1.0)
    a, b = float(model.a[1]), float(model.b[1])
    gain = a * SD**2 / (a**2 * SD**2 + b**2)
    alpha = 0.15
    steered = SVDD(M=60, alpha=alpha).sample(model, lambda images: images[:, 0, 0, 0], noise, seeded(1))
    expected = MEAN + gain * (float(mean[0, 0, 0, 0]) - a * MEAN) + (gain * sd) ** 2 / alpha
    assert steered.rewards.mean() == pytest.approx(expected, abs=0.01)
    assert steered.rewards.std() == pytest.approx(gain * sd, rel=0.1)


def test_only_the_steps_named_choose():
    model = normal_model(8, "diffusion", "sample")
    steered = SVDD(M=4, first=2, last=4).sample(model, mass, model.noise(3, seeded()), seeded(1))
    assert steered.candidates.shape == (3, 3)
    assert steered.calls.tolist() == [1 + 2 + 3 * 4 + 2] * 3


def test_a_rule_spends_fewer_calls_where_they_gain_little():
    model = normal_model(10, "diffusion", "sample")
    noise = model.noise(60, seeded())
    fixed = SVDD(M=20).sample(model, mass, noise, seeded(1))
    plain = SVDD(M=1).sample(model, mass, noise, seeded(1))
    adaptive = SVDD(M=20, rule=Beacon(price=0.004)).sample(model, mass, noise, seeded(1))
    assert adaptive.calls.mean() < 0.6 * fixed.calls.mean()
    won = (adaptive.rewards.mean() - plain.rewards.mean()) / (fixed.rewards.mean() - plain.rewards.mean())
    assert won > 0.7
    assert (adaptive.calls == 1 + adaptive.candidates.sum(1)).all()


def test_a_digit_is_steered_to_its_class_by_a_classifier():
    classifier = digit_classifier()
    denoiser = Denoiser.from_pipeline(ddpm_pipeline(), 8)

    def log_probability(images: Tensor) -> Tensor:
        logits: Tensor = classifier(images)
        return logits.log_softmax(1)[:, 3]

    noise = denoiser.noise(6, seeded())
    plain = SVDD(M=1).sample(denoiser, log_probability, noise, seeded(1))
    steered = SVDD(M=12, rule=Beacon(price=0.02)).sample(denoiser, log_probability, noise, seeded(1))
    assert steered.rewards.mean() > plain.rewards.mean() + 1.0
    assert steered.images.shape == (6, 1, 8, 8)


@pytest.mark.parametrize(
    ("settings", "field"),
    [
        ({"M": 0}, "most"),
        ({"alpha": -1.0}, "alpha"),
        ({"eta": 0.0}, "eta"),
        ({"first": 3, "last": 1}, "last"),
        ({"alpha": 0.1, "rule": Beacon()}, "rule"),
        ({"among": 0}, "among"),
        ({"alpha": 0.1, "among": 2}, "among"),
    ],
)
def test_settings_that_make_no_sense_are_refused(settings: dict, field: str):
    with pytest.raises(InvalidInput, match=field):
        SVDD(**settings)


def test_rewards_are_one_finite_number_per_image():
    model = normal_model(3, "flow", "sample")
    bad: list[Any] = [lambda x: x.sum(), lambda x: 1.0, lambda x: mass(x) * torch.nan]
    for reward in bad:
        with pytest.raises(InvalidInput, match="reward"):
            SVDD(M=2).sample(model, reward, model.noise(2, seeded()), seeded())
    with pytest.raises(InvalidInput, match="last"):
        SVDD(M=2, last=2).sample(model, mass, model.noise(2, seeded()), seeded())


# --- what gains are worth ---


def test_the_share_of_a_gain_that_survives_is_found():
    # Values whose means keep half of the mean before and a quarter of the gain, at both of two steps; then all of it.
    rng = np.random.default_rng(0)
    first = rng.normal(size=(3000, 2))
    mean = 0.5 * first.mean(1) + 0.25 * (first.max(1) - first.mean(1))
    second = mean[:, None] + rng.normal(size=(3000, 2))
    mean = 0.5 * second.mean(1) + 0.25 * (second.max(1) - second.mean(1))
    third = mean[:, None] + 2 * rng.normal(size=(3000, 2))
    worth = Worth.of([first, second, third])
    np.testing.assert_allclose(worth.share, [0.25 * 0.5, 0.25, 1.0], atol=0.04)
    np.testing.assert_allclose(worth.sd, [1.0, 1.0, 2.0], rtol=0.05)
    with pytest.raises(InvalidInput, match="values"):
        Worth.of([first[:20]])
    with pytest.raises(InvalidInput, match="values"):
        Worth.of([first[:, :1]])


@pytest.mark.parametrize("ceiling", [np.inf, 1.3])
def test_another_candidate_is_worth_its_expected_gain(ceiling: float):
    worth = Worth(np.array([0.7]), np.array([0.5]))
    values = np.array([0.1, 0.9, 0.4])
    nu = STRENGTH + 2
    s = np.sqrt((STRENGTH * 0.25 + ((values - values.mean()) ** 2).sum()) / nu * (4 / 3))

    def gain(x: float) -> float:
        density: float = student_t.pdf((x - values.mean()) / s, nu) / s
        return (min(x, ceiling) - 0.9) * density

    expected = 0.7 * quad(gain, 0.9, np.inf)[0]
    for factor, enough in ((1.001, True), (0.999, False)):
        scatter = Scatter(1, Priced(worth, expected * factor, ceiling))
        assert scatter.enough(values[None], np.array([0])).tolist() == [enough]


def test_an_image_keeps_its_own_scatter_from_step_to_step():
    worth = Worth(np.ones(2), np.array([1.0, 10.0]))
    scatter = Scatter(3, Priced(worth, 0.1))
    values = np.array([[0.0, 4.0], [0.0, 0.1], [3.0, np.nan]])
    scatter.end_step(values)
    wide, narrow, unknown = scatter.factor
    assert wide > 1 > narrow
    assert unknown == 1.0
    assert wide == pytest.approx(((STRENGTH + 8) / (STRENGTH + 1)) ** 0.5)


def test_steps_whose_gains_do_not_last_get_one_candidate():
    model = normal_model(6, "diffusion", "sample")
    worth = Worth(np.array([0.0, 0.0, 1.0, 1.0, 1.0]), np.full(5, 0.1))
    steered = SVDD(M=20, rule=Priced(worth, 0.003)).sample(model, mass, model.noise(40, seeded()), seeded(1))
    assert (steered.candidates[:, :2] == 1).all()
    assert (steered.candidates[:, 2:] > 2).mean() > 0.9
    with pytest.raises(InvalidInput, match="rule"):
        SVDD(first=1, rule=Priced(worth, 0.003)).sample(model, mass, model.noise(4, seeded()), seeded(1))


def test_what_is_learned_pays():
    # More reward than the fixed number of candidates that takes at least as many calls.
    model = normal_model(12, "diffusion", "sample")
    noise = model.noise(400, seeded())
    worth = SVDD().learn(model, mass, model.noise(60, seeded(2)), seeded(3))
    priced = SVDD(M=60, rule=Priced(worth, 0.003)).sample(model, mass, noise, seeded(1))
    M = int(np.ceil(priced.candidates.mean()))
    fixed = SVDD(M=M).sample(model, mass, noise, seeded(1))
    assert priced.calls.mean() <= fixed.calls.mean()
    assert priced.rewards.mean() > fixed.rewards.mean()


# --- search over start noises ---


def test_the_best_noise_is_the_best_of_independent_runs():
    # A linear flow: rewards are normal, and the mean of the best of 8 is 1.42360 standard deviations above theirs.
    model = normal_model(5, "flow", "sample")
    noise = model.noise(3000, seeded())
    single = mass(model.run(noise)).double()
    found = NoiseSearch(N=8).sample(model, mass, noise, seeded(1))
    expected = single.mean() + 1.42360 * single.std()
    assert found.rewards.mean() == pytest.approx(float(expected), abs=0.012)
    assert (found.calls == 40).all()
    assert (found.rewards >= single.numpy() - 1e-6).all()  # the given noise is among those tried


def test_giving_up_poor_noises_midway_costs_less():
    model = normal_model(10, "flow", "sample")
    noise = model.noise(500, seeded())
    search = NoiseSearch(N=2, peek=2, among=4)
    found = search.sample(model, mass, noise, seeded(1))
    assert search.calls(model) == 16
    assert (found.calls == 32).all()
    # The estimate of a linear flow ranks noises as their images do: as good as finishing all eight.
    full = NoiseSearch(N=8).sample(model, mass, noise, seeded(1))
    np.testing.assert_allclose(found.rewards, full.rewards, atol=1e-5)


def test_a_price_ends_the_search():
    model = normal_model(5, "flow", "sample")
    noise = model.noise(50, seeded())
    dear = NoiseSearch(N=30, rule=Pandora(price=0.2)).sample(model, mass, noise, seeded(1))
    cheap = NoiseSearch(N=30, rule=Pandora(price=0.005)).sample(model, mass, noise, seeded(1))
    assert dear.calls.mean() < 0.5 * cheap.calls.mean()
    assert dear.rewards.mean() < cheap.rewards.mean()


def test_a_peek_is_shorter_than_a_run():
    model = normal_model(3, "flow", "sample")
    with pytest.raises(InvalidInput, match="peek"):
        NoiseSearch(peek=3, among=2).sample(model, mass, model.noise(2, seeded()), seeded())


# --- FlowOpt ---


def slope(model: Denoiser) -> float:
    """Of the linear flow of `normal_model`, from the start to the end."""
    ends = model.run(torch.tensor([0.0, 1.0]).double().reshape(2, 1, 1, 1).expand(2, *SHAPE).clone())
    return float((ends[1] - ends[0]).flatten()[0])


@settings(max_examples=20)
@given(st.floats(0.05, 1.9), st.integers(2, 6), st.integers(1, 10))
def test_a_linear_flow_is_inverted_at_the_rate_of_its_slope(share: float, steps: int, iterations: int):
    # The residual shrinks by the factor 1 - eta s each iteration; beyond eta = 2 / s it grows.
    model = normal_model(steps)
    s = slope(model)
    eta = share / s
    target = torch.tensor([0.2, 0.9]).double().reshape(1, *SHAPE)
    start = torch.zeros(1, *SHAPE).double()
    found = FlowOpt(eta=eta, iterations=iterations).optimize(model, start, lambda x0: x0 - target)
    rate = abs(1 - eta * s) ** np.arange(iterations + 1)
    np.testing.assert_allclose(found.residuals[:, 0], rate * float(found.residuals[0, 0]), rtol=1e-6, atol=1e-9)
    assert found.calls == (iterations + 1) * steps


def test_the_bound_on_the_step_is_where_a_linear_flow_stops_to_converge():
    model = normal_model(4)
    bound = step_bound(model, torch.ones(3, *SHAPE).double(), torch.zeros(3, *SHAPE).double())
    np.testing.assert_allclose(bound, 2 / slope(model), rtol=1e-9)
    target = torch.full((1, *SHAPE), 0.7).double()
    for factor, converges in ((0.98, True), (1.02, False)):
        eta = factor * float(bound[0])
        found = FlowOpt(eta=eta, iterations=60).optimize(model, torch.zeros(1, *SHAPE).double(), lambda x0: x0 - target)
        assert (float(found.residuals[-1]) < float(found.residuals[0])) is converges


def test_leading_back_is_the_flow_reversed_as_steps_shrink():
    target = torch.tensor([[0.2, 0.9], [-0.4, 0.5]]).double().reshape(2, *SHAPE)
    errors = []
    for steps in (10, 100):
        model = normal_model(steps)
        errors.append(float((model.run(lead_back(model, target, 0)) - target).abs().max()))
    assert errors[1] < 0.3 * errors[0]
    assert errors[1] < 0.02


def test_only_the_last_steps_of_the_flow_are_run_when_asked():
    model = normal_model(8)
    target = torch.full((2, *SHAPE), 0.5).double()
    found = FlowOpt(eta=0.5, n_max=3, iterations=4).invert(model, target)
    assert found.calls == 3 + 5 * 3
    assert found.residuals.shape == (5, 2)
    with pytest.raises(InvalidInput, match="n_max"):
        FlowOpt(n_max=9).invert(model, target)


def test_the_best_iterate_is_given_even_where_the_iteration_diverges():
    model = normal_model(4)
    target = torch.full((1, *SHAPE), 0.7).double()
    found = FlowOpt(eta=1e4, iterations=120).invert(model, target)
    assert float(found.residuals[-1]) == float("inf")
    residual = (model.run(found.start) - target).square().mean().sqrt()
    assert float(residual) == pytest.approx(float(found.residuals.min()), rel=1e-9)


def test_an_optimization_that_has_converged_stops():
    model = normal_model(4)
    target = torch.full((2, *SHAPE), 0.7).double()
    found = FlowOpt(eta=1 / slope(model), iterations=50, tolerance=0.01).invert(model, target)
    assert len(found.residuals) < 6


def test_a_diffusion_model_is_not_led_back():
    with pytest.raises(InvalidInput, match="flow"):
        FlowOpt().invert(normal_model(4, "diffusion", "sample"), torch.zeros(1, *SHAPE).double())


def test_digits_are_found_again_from_their_starts():
    denoiser = Denoiser.from_pipeline(flow_pipeline(), 6)
    images = digits()[0][:5]
    timid = FlowOpt(eta=0.0025, iterations=8).invert(denoiser, images)
    bold = FlowOpt(eta=0.5, iterations=8).invert(denoiser, images)
    assert bold.residuals.min(0).values.mean() < 0.7 * timid.residuals.min(0).values.mean()
