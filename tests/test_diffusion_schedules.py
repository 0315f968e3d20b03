"""Schedules on real diffusers pipelines: applied exactly, refused where they would not be, searched and confirmed."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

diffusers = pytest.importorskip("diffusers")

from benchmarks.digit_models import ddpm_pipeline, digit_classifier, digits, flow_pipeline  # noqa: E402

from suffice.adapters.diffusion import (  # noqa: E402
    Evaluation,
    Frechet,
    Reference,
    Reward,
    Schedule,
    apply_schedule,
    plain_arguments,
    search_schedule,
    stock_scheduler,
)
from suffice.adapters.diffusion.apply import REFUSED, scheduled  # noqa: E402
from suffice.adapters.diffusion.search import Search  # noqa: E402
from suffice.adapters.diffusion.solvers import DIFFUSION, Choices  # noqa: E402
from suffice.adapters.diffusion.source import FromProposer, proposer  # noqa: E402
from suffice.optimizer import InvalidInput  # noqa: E402

# How diffusers turns its tensors into arrays.
pytestmark = pytest.mark.filterwarnings("ignore:__array_:DeprecationWarning")

TIMES = (700, 400, 210, 45)
MULTISTEP = "DPMSolverMultistepScheduler"


@pytest.fixture(scope="module", autouse=True)
def one_thread() -> None:
    torch.set_num_threads(1)


@pytest.fixture(scope="module")
def pipeline() -> Any:
    return ddpm_pipeline()


@pytest.fixture(scope="module")
def evaluation(pipeline: Any) -> Evaluation:
    images, _ = digits()
    return Evaluation(pipeline, Frechet(Reference.of(images, digit_classifier().features)), batch=32)


def run(pipeline: Any, seed: int = 0, **given: Any) -> np.ndarray:
    pipeline.set_progress_bar_config(disable=True)
    found: np.ndarray = pipeline(
        batch_size=3, generator=torch.Generator().manual_seed(seed), output_type="np", **given
    ).images
    return found


# --- the record -------------------------------------------------------------------------------------------------------


def test_a_schedule_survives_json_and_a_file(tmp_path: Path) -> None:
    schedule = Schedule(MULTISTEP, TIMES, config={"solver_order": 2}, provenance={"value": 1.5})
    assert Schedule.from_json(json.loads(json.dumps(schedule.to_json()))) == schedule
    assert Schedule.load(schedule.save(tmp_path / "schedule.json")) == schedule
    assert str(schedule) == f"{MULTISTEP}[700, 400, 210, 45] (solver_order=2)"
    flow = Schedule("FlowMatchEulerDiscreteScheduler", sigmas=(1.0, 0.5))
    assert Schedule.from_json(flow.to_json()) == flow


@pytest.mark.parametrize(
    ("changes", "field"),
    [
        ({"timesteps": [1, 2]}, "timesteps"),
        ({"timesteps": [2.5, 1]}, "timesteps"),
        ({"timesteps": []}, "timesteps"),
        ({"timesteps": "21"}, "timesteps"),
        ({"timesteps": [3, -1]}, "timesteps"),
        ({"sigmas": [1.0, 0.5]}, "timesteps"),
        ({"format": "else"}, "format"),
        ({"scheduler": 3}, "scheduler"),
        ({"config": []}, "config"),
        ({"more": 1}, "more"),
    ],
)
def test_what_is_no_schedule_is_refused(changes: dict[str, Any], field: str) -> None:
    good = Schedule(MULTISTEP, TIMES).to_json()
    with pytest.raises(InvalidInput) as error:
        Schedule.from_json({**good, **changes})
    assert error.value.problems[0].field == field


# --- applying ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("scheduler", "config"),
    [
        (MULTISTEP, {"solver_order": 2}),
        (MULTISTEP, {"solver_order": 3, "solver_type": "heun", "final_sigmas_type": "sigma_min"}),
        ("DPMSolverSinglestepScheduler", {"solver_order": 2, "lower_order_final": True}),
        ("UniPCMultistepScheduler", {"solver_order": 2}),
        ("UniPCMultistepScheduler", {"solver_order": 3, "solver_type": "bh1", "disable_corrector": [0]}),
        ("DEISMultistepScheduler", {"solver_order": 2}),
        ("DDPMScheduler", {}),
        ("DDIMScheduler", {"timestep_spacing": "leading"}),
    ],
)
def test_stock_times_give_the_stock_images(pipeline: Any, scheduler: str, config: dict[str, Any]) -> None:
    """Installing the times that the class would choose itself changes no bit of the images."""
    own = pipeline.scheduler
    try:
        stock = getattr(diffusers, scheduler).from_config(own.config, **config)
        stock.set_timesteps(5)
        times = tuple(int(t) for t in stock.timesteps)
        pipeline.scheduler = stock
        expected = run(_tolerant(pipeline), num_inference_steps=5)
        pipeline.scheduler = own
        apply_schedule(pipeline, Schedule(scheduler, times, config=config))
        np.testing.assert_array_equal(run(pipeline, num_inference_steps=99), expected)
    finally:
        pipeline.scheduler = own


def _tolerant(pipeline: Any) -> Any:
    """DDPMPipeline passes a generator to every scheduler; the stock classes without one need not to be told."""
    import inspect

    scheduler = pipeline.scheduler
    if "generator" not in inspect.signature(scheduler.step).parameters:
        step = scheduler.step
        scheduler.step = lambda *args, generator=None, **kwargs: step(*args, **kwargs)
    return pipeline


def test_ddim_adds_noise_as_its_own_class_does() -> None:
    ddpm = ddpm_pipeline()
    pipeline = diffusers.DDIMPipeline(ddpm.unet, ddpm.scheduler)
    expected = run(pipeline, num_inference_steps=5, eta=0.7)
    apply_schedule(pipeline, Schedule("DDIMScheduler", (800, 600, 400, 200, 0), config={"timestep_spacing": "leading"}))
    np.testing.assert_array_equal(run(pipeline, eta=0.7), expected)
    assert not np.array_equal(run(pipeline, eta=0.0), expected)
    choices = Choices(4, ("ddim", "unipc"), eta=(0.0, 1.0))
    noisy = choices.schedule({**choices.params(TIMES, solver="ddim"), "eta": 0.5})
    assert (noisy.scheduler, noisy.arguments) == ("DDIMScheduler", {"eta": 0.5})
    assert "eta" not in choices.params(TIMES, solver="unipc")


def test_ddim_is_multistep_of_order_one(pipeline: Any) -> None:
    """With the times that DDIM can take, its own formula gives the same images."""
    own = pipeline.scheduler
    try:
        pipeline.scheduler = diffusers.DDIMScheduler.from_config(
            own.config, clip_sample=False, timestep_spacing="trailing", set_alpha_to_one=True
        )
        expected = run(pipeline, num_inference_steps=4)
        pipeline.scheduler = own
        config = {"solver_order": 1, "final_sigmas_type": "zero"}
        apply_schedule(pipeline, Schedule(MULTISTEP, (999, 749, 499, 249), config=config))
        np.testing.assert_allclose(run(pipeline), expected, atol=2e-4)
        ours = Schedule(MULTISTEP, TIMES, config=config)
        theirs = Schedule("DDIMScheduler", TIMES, config={"clip_sample": False, "set_alpha_to_one": True})
        expected = run(apply_schedule(pipeline, theirs))  # with any times
        pipeline.scheduler = own
        np.testing.assert_allclose(run(apply_schedule(pipeline, ours)), expected, atol=2e-4)
    finally:
        pipeline.scheduler = own


@pytest.mark.parametrize("scheduler", [MULTISTEP, "UniPCMultistepScheduler", "DEISMultistepScheduler"])
def test_the_round_trip_through_a_saved_pipeline_is_exact(tmp_path: Path, scheduler: str) -> None:
    schedule = Schedule(scheduler, TIMES, config={"solver_order": 2})
    pipeline = apply_schedule(ddpm_pipeline(), schedule)
    expected = run(pipeline)
    pipeline.save_pretrained(tmp_path)
    schedule.save(tmp_path / "schedule.json")
    assert json.loads((tmp_path / "model_index.json").read_text())["scheduler"] == ["diffusers", scheduler]
    again = diffusers.DDPMPipeline.from_pretrained(tmp_path)
    again.set_progress_bar_config(disable=True)
    apply_schedule(again, Schedule.load(tmp_path / "schedule.json"))
    np.testing.assert_array_equal(run(again), expected)


def test_a_ddim_pipeline_runs_it_too() -> None:
    """It converts what it loads to DDIM, and passes eta to any scheduler."""
    schedule = Schedule("UniPCMultistepScheduler", TIMES, config={"solver_order": 2})
    ddpm = ddpm_pipeline()
    ddim = diffusers.DDIMPipeline(ddpm.unet, ddpm.scheduler)
    np.testing.assert_array_equal(run(apply_schedule(ddim, schedule)), run(apply_schedule(ddpm, schedule)))


def test_every_step_is_run_at_the_stored_time(pipeline: Any) -> None:
    for name in ("dpm_multistep", "dpm_singlestep", "unipc", "deis", "ddim"):
        schedule = Choices(4, (name,)).schedule(Choices(4, (name,)).params(TIMES))
        scheduler = scheduled(pipeline, schedule)
        scheduler.set_timesteps(50)
        assert scheduler.timesteps.tolist() == list(TIMES), name
        levels = np.sqrt((1 - pipeline.scheduler.alphas_cumprod) / pipeline.scheduler.alphas_cumprod).numpy()
        np.testing.assert_allclose(scheduler.sigmas[:4].numpy(), levels[list(TIMES)], rtol=1e-5)


def test_flow_matching_runs_the_stored_levels_unshifted() -> None:
    sigmas = (0.97, 0.6, 0.25, 0.05)
    shifting = diffusers.FlowMatchEulerDiscreteScheduler(shift=3.0)
    pipeline = diffusers.DDPMPipeline(ddpm_pipeline().unet, shifting)
    euler = scheduled(pipeline, Schedule("FlowMatchEulerDiscreteScheduler", sigmas=sigmas))
    euler.set_timesteps(9)
    np.testing.assert_allclose(euler.sigmas.numpy(), [*sigmas, 0.0], atol=1e-7)
    for name in ("UniPCMultistepScheduler", MULTISTEP):
        other = scheduled(pipeline, Schedule(name, sigmas=sigmas, config={"solver_order": 1}))
        other.set_timesteps(9)
        np.testing.assert_allclose(other.sigmas.numpy(), [*sigmas, 0.0], atol=1e-6)
    images = run(apply_schedule(pipeline, Schedule("FlowMatchEulerDiscreteScheduler", sigmas=sigmas)))
    assert np.isfinite(images).all()


@pytest.mark.parametrize("name", REFUSED)
def test_classes_that_would_run_something_else_are_refused(pipeline: Any, name: str) -> None:
    with pytest.raises(InvalidInput, match=name):
        apply_schedule(pipeline, Schedule(name, TIMES))


@pytest.mark.parametrize("name", ["EulerDiscreteScheduler", "HeunDiscreteScheduler"])
def test_scaled_states_are_refused_where_the_pipeline_does_not_scale(pipeline: Any, name: str) -> None:
    with pytest.raises(InvalidInput, match="does not scale its noise"):
        apply_schedule(pipeline, Schedule(name, TIMES))


class Scaling(diffusers.DDPMPipeline):  # type: ignore[misc, name-defined]
    """The DDPM pipeline, scaling its states for the scheduler as most pipelines do."""

    @torch.no_grad()
    def __call__(self, batch_size: int = 1, generator: Any = None, num_inference_steps: int = 50) -> Any:
        self.scheduler.set_timesteps(num_inference_steps)
        size = (1, 1, 8, 8)
        several = generator if isinstance(generator, list) else [generator] * batch_size
        x = torch.cat([torch.randn(size, generator=g) for g in several]) * self.scheduler.init_noise_sigma
        for t in self.scheduler.timesteps:
            out = self.unet(self.scheduler.scale_model_input(x, t), t).sample
            x = self.scheduler.step(out, t, x).prev_sample
        return ((x / 2 + 0.5).clamp(0, 1).permute(0, 2, 3, 1).numpy(),)


def test_scaled_states_where_the_pipeline_scales(evaluation: Evaluation) -> None:
    """Euler's method on noise levels is DDIM; Heun's runs the network twice at every step but the last."""
    ddpm = ddpm_pipeline()
    judge = Evaluation(Scaling(ddpm.unet, ddpm.scheduler), evaluation.quality)
    times = (999, 600, 250, 40)
    euler = judge.make(Schedule("EulerDiscreteScheduler", times), 3)
    ddim = evaluation.make(Schedule(MULTISTEP, times, config={"solver_order": 1}), 3)
    torch.testing.assert_close(euler.images, ddim.images, atol=2e-3, rtol=0)
    assert judge.make(Schedule("HeunDiscreteScheduler", times), 2).calls == 7


class Guided(Scaling):
    """Keeps its guidance scale as Stable Diffusion's pipelines do; the network here has nothing to guide with."""

    def __call__(self, *args: Any, guidance_scale: float = 5.0, **kwargs: Any) -> Any:
        self._guidance_scale = guidance_scale
        self.seen: list[float] = []
        forward = self.unet.forward

        def seeing(*inputs: Any, **settings: Any) -> Any:
            self.seen.append(self._guidance_scale)
            return forward(*inputs, **settings)

        self.unet.forward = seeing
        try:
            return super().__call__(*args, **kwargs)
        finally:
            del self.unet.forward


def test_guidance_in_some_of_the_steps(pipeline: Any) -> None:
    ddpm = ddpm_pipeline()
    guided = Guided(ddpm.unet, ddpm.scheduler)
    choices = Choices(4, ("unipc",), guidance=(1.0, 9.0), interval=True)
    params = choices.params(TIMES, guidance=6.0)
    assert choices.schedule(params).guided == (0, 4)
    schedule = choices.schedule({**params, "guided_from": 1, "guided_until": 3})
    assert Schedule.from_json(json.loads(json.dumps(schedule.to_json()))) == schedule
    apply_schedule(guided, schedule)
    for _ in range(2):
        guided(**schedule.arguments)
        np.testing.assert_allclose(guided.seen, [1, 6, 6, 1], atol=1e-5)
        assert min(guided.seen) > 1
    with pytest.raises(InvalidInput, match="keeps no guidance scale"):
        apply_schedule(pipeline, schedule)
    with pytest.raises(InvalidInput, match="guided"):
        Schedule(MULTISTEP, TIMES, guided=(3, 3))


def test_noise_estimates_corrected_by_those_before(pipeline: Any, evaluation: Evaluation) -> None:
    """By hand: DDIM's steps, each with (1 + c) e - c e'."""
    c, choices = 0.2, Choices(4, ("ddim",), correction=(-0.5, 0.5))
    assert choices.params(TIMES)["correction"] == 0.0
    schedule = choices.schedule(choices.params(TIMES, correction=c))
    assert Schedule.from_json(json.loads(json.dumps(schedule.to_json()))) == schedule
    kept = pipeline.scheduler.alphas_cumprod.double()
    for _ in range(2):
        made = evaluation.make(schedule, 3, seed=1)
        x, before = made.noise.double(), None
        for time, after in zip(TIMES, (*TIMES[1:], None), strict=True):
            with torch.no_grad():
                e = pipeline.unet(x.float(), time).sample.double()
            moved = e if before is None else (1 + c) * e - c * before
            before, a, b = e, kept[time], torch.tensor(1.0) if after is None else kept[after]
            x = b.sqrt() * (x - (1 - a).sqrt() * moved) / a.sqrt() + (1 - b).sqrt() * moved
        torch.testing.assert_close(made.images, (x.float() / 2 + 0.5).clamp(0, 1), atol=1e-4, rtol=0)
    plain = evaluation.make(Schedule(schedule.scheduler, TIMES, config=schedule.config), 3, seed=1)
    corrected = evaluation.make(schedule, 3, seed=1)
    assert float((plain.images - corrected.images).abs().max()) > 0.01


def test_corrections_are_refused_where_they_would_mean_something_else(pipeline: Any) -> None:
    ddpm = ddpm_pipeline()
    ddpm.scheduler.register_to_config(prediction_type="v_prediction")
    with pytest.raises(InvalidInput, match="predicts the noise"):
        apply_schedule(ddpm, Schedule(MULTISTEP, TIMES, correction=0.1))
    with pytest.raises(InvalidInput, match="predicts the noise"):
        apply_schedule(flow_pipeline(), Schedule("UniPCMultistepScheduler", sigmas=(0.9, 0.4), correction=0.1))
    with pytest.raises(InvalidInput, match="finite"):
        Schedule(MULTISTEP, TIMES, correction=float("nan"))

    class Takes:
        scheduler = pipeline.scheduler

        def __call__(self, timesteps: list[int]) -> None: ...

    with pytest.raises(InvalidInput, match=r"schedule\.correction: .*no stock scheduler"):
        plain_arguments(Takes(), Schedule(MULTISTEP, TIMES, correction=0.1))
    with pytest.raises(InvalidInput, match=r"schedule\.guided"):
        plain_arguments(Takes(), Schedule(MULTISTEP, TIMES, guided=(0, 2)))


def test_a_schedule_of_another_model_is_refused(pipeline: Any) -> None:
    other = Schedule(MULTISTEP, TIMES, provenance={"betas": "0" * 16})
    with pytest.raises(InvalidInput, match="noise levels that the model was trained on"):
        apply_schedule(pipeline, other)
    with pytest.raises(InvalidInput, match=r"schedule\.config\.order"):
        apply_schedule(pipeline, Schedule(MULTISTEP, TIMES, config={"order": 2}))


def test_plain_arguments_where_the_pipeline_takes_them(pipeline: Any) -> None:
    schedule = Schedule(MULTISTEP, TIMES, arguments={"guidance_scale": 3.0})
    with pytest.raises(InvalidInput, match=r"one that takes timesteps= \(apply_schedule works with any\)"):
        plain_arguments(pipeline, schedule)

    class Takes:
        scheduler = pipeline.scheduler

        def __call__(self, prompt: str, timesteps: list[int]) -> None: ...

    assert plain_arguments(Takes(), schedule) == {"timesteps": list(TIMES), "guidance_scale": 3.0}
    assert type(stock_scheduler(Takes(), schedule)).__name__ == MULTISTEP
    with pytest.raises(InvalidInput, match="UniPCMultistepScheduler"):
        plain_arguments(Takes(), Schedule("UniPCMultistepScheduler", TIMES))


# --- evaluation -------------------------------------------------------------------------------------------------------


def test_noise_is_nested_and_common(evaluation: Evaluation) -> None:
    one, other = Schedule(MULTISTEP, TIMES), Schedule("UniPCMultistepScheduler", (900, 100))
    many, few = evaluation.make(one, 40, seed=3), evaluation.make(one, 7, seed=3)
    torch.testing.assert_close(many.noise[:7], few.noise, rtol=0, atol=0)
    torch.testing.assert_close(many.images[:7], few.images, rtol=0, atol=1e-5)  # batches round differently
    made = evaluation.make(other, 7, seed=3)
    torch.testing.assert_close(made.noise, few.noise, rtol=0, atol=0)
    assert (many.calls, made.calls) == (4, 2)
    assert not torch.equal(evaluation.make(one, 7, seed=4).noise, few.noise)
    assert evaluation.make(None, 2, num_inference_steps=3).calls == 3


def test_the_pipeline_is_left_as_it_was(evaluation: Evaluation, pipeline: Any) -> None:
    own = pipeline.scheduler
    evaluation.judge(Schedule(MULTISTEP, TIMES), 4)
    assert pipeline.scheduler is own
    assert "step" not in vars(own)


# --- searching --------------------------------------------------------------------------------------------------------


def test_every_configuration_is_a_schedule_that_runs(evaluation: Evaluation, pipeline: Any) -> None:
    choices = Choices(3, DIFFUSION, stochastic=True, eta=(0.0, 1.0))
    for params in choices.space.decode(choices.space.sample(40, np.random.default_rng(0))):
        schedule = choices.schedule(params)
        scheduler = scheduled(pipeline, schedule)
        scheduler.set_timesteps(3)
        x = torch.zeros(1, 1, 8, 8)
        for t in scheduler.timesteps:
            x = scheduler.step(0.1 * torch.ones_like(x), t, x, generator=torch.Generator()).prev_sample
        assert torch.isfinite(x).all(), schedule


def test_a_range_of_steps_shares_a_curve() -> None:
    choices = Choices((3, 8), ("ddim", "unipc"))
    params = choices.params([999, 600, 200, 10], solver="unipc", steps=8)
    schedule = choices.schedule(params)
    assert schedule.steps == 8
    assert (schedule.times[0], schedule.times[-1]) == (999, 10)
    assert choices.schedule({**params, "steps": 4}).times == (999, 600, 200, 10)


def test_a_search_finds_confirms_and_says_where_it_comes_from(pipeline: Any, evaluation: Evaluation) -> None:
    found = search_schedule(
        pipeline, 3, quality=evaluation.quality, solvers=["dpm_multistep", "unipc"], trials=10, images=32, confirm=3,
        confirm_images=48, progress=False,
    )  # fmt: skip
    assert len(found.tried) == 10
    assert len(found.confirmed) == 3
    assert found.best.other_value == min(c.other_value for c in found.confirmed)
    assert found.known
    assert found.images == 320
    provenance = found.schedule.provenance
    assert provenance["other_value"] == found.best.other_value
    assert len(json.dumps(found.schedule.to_json())) < 1200
    again = evaluation.judge(found.schedule, 48, seed=1)
    assert again.score.value == pytest.approx(found.best.other_value, rel=1e-3)


def test_an_interrupted_search_goes_on_where_it_was(pipeline: Any, evaluation: Evaluation, tmp_path: Path) -> None:
    given: dict[str, Any] = {"quality": evaluation.quality, "solvers": ["ddim"], "images": 16, "confirm": 1}
    given["progress"] = False
    whole = search_schedule(pipeline, 3, trials=9, **given)
    file = tmp_path / "search.json"

    class Tired(Exception):
        pass

    def tired(limit: int) -> Any:
        count = 0

        class Quality:
            name, direction, positive = "frechet", "minimize", True

            def __call__(self, images: Any, noise: Any) -> Any:
                nonlocal count
                count += 1
                if count > limit:
                    raise Tired
                return evaluation.quality(images, noise)

        return Quality()

    with pytest.raises(Tired):
        search_schedule(pipeline, 3, trials=9, checkpoint=file, **{**given, "quality": tired(5)})
    rest = search_schedule(pipeline, 3, trials=9, checkpoint=file, **given)
    assert [t.params for t in rest.tried] == [t.params for t in whole.tried]
    with pytest.raises(InvalidInput, match="same settings"):
        search_schedule(pipeline, 4, trials=9, checkpoint=file, **given)
    with pytest.raises(InvalidInput, match="noise_seed"):  # values of other noise cannot be compared
        search_schedule(pipeline, 3, trials=9, checkpoint=file, noise_seed=7, **given)
    for text in ("{", "[]"):
        file.write_text(text)
        with pytest.raises(InvalidInput, match="that a search wrote"):
            search_schedule(pipeline, 3, trials=9, checkpoint=file, **given)


def test_fewer_images_first(pipeline: Any, evaluation: Evaluation) -> None:
    found = search_schedule(
        pipeline, 3, quality=evaluation.quality, solvers=["ddim"], trials=3, images=64, levels=(16, 32, 64), confirm=2,
        progress=False,
    )  # fmt: skip
    assert {t.judged.images for t in found.tried} <= {16, 32, 64}
    assert 2 * 64 <= found.images < 4 * 64  # the last one may go beyond
    assert len(found.tried) > 3


def test_quality_against_calls_is_a_front(pipeline: Any, evaluation: Evaluation) -> None:
    found = search_schedule(
        pipeline, (2, 5), quality=evaluation.quality, solvers=["dpm_multistep"], trials=10, images=16, against="calls",
        progress=False,
    )  # fmt: skip
    calls = [c.schedule.steps for c in found.front]
    values = [c.value for c in found.front]
    assert calls == sorted(set(calls))
    assert values == sorted(values, reverse=True)


def test_guidance_and_labels_of_a_latent_pipeline() -> None:
    """A transformer on latents with class labels, guidance and a decoder, tiny and untrained."""
    torch.manual_seed(0)
    transformer = diffusers.DiTTransformer2DModel(
        num_attention_heads=2, attention_head_dim=8, in_channels=4, out_channels=8, num_layers=1, sample_size=4,
        patch_size=2, num_embeds_ada_norm=1000, norm_num_groups=4,
    )  # fmt: skip
    vae = diffusers.AutoencoderKL(block_out_channels=(8,), latent_channels=4, norm_num_groups=4, sample_size=8)
    pipeline = diffusers.DiTPipeline(transformer.eval(), vae.eval(), diffusers.DDIMScheduler())
    labels = [3, 14, 15]

    def contrast(images: torch.Tensor) -> torch.Tensor:
        return images.flatten(1).std(1)

    found = search_schedule(
        pipeline, 2, quality=Reward(contrast), solvers=["unipc"], trials=7, images=4, confirm=2, guidance=(1.0, 6.0),
        each={"class_labels": labels}, progress=False, first=("trailing",),
    )  # fmt: skip
    assert 1.0 <= found.schedule.arguments["guidance_scale"] <= 6.0
    assert found.best.other_value == max(c.other_value for c in found.confirmed)
    judge = Evaluation(pipeline, Reward(contrast), each={"class_labels": labels})
    one = judge.make(found.schedule, 4, seed=5)
    assert one.images.shape == (4, 3, 4, 4)
    assert not torch.equal(one.images, judge.make(found.schedule, 4, seed=5, guidance_scale=20.0).images)
    other = Evaluation(pipeline, Reward(contrast), each={"class_labels": [14]})
    assert torch.allclose(other.make(found.schedule, 2, seed=5).images[1], one.images[1], atol=1e-5)
    with pytest.raises(InvalidInput, match="does not scale its noise"):
        search_schedule(pipeline, 2, quality=Reward(contrast), solvers=["euler"], trials=1, progress=False)
    with pytest.raises(InvalidInput, match="arguments of DiTPipeline"):
        Evaluation(pipeline, Reward(contrast), each={"prompt": ["a"]}).make(None, 1)


@pytest.mark.parametrize("method", ["random", "autodiffusion", "usf"])
def test_baselines_search_the_same_space(evaluation: Evaluation, method: str) -> None:
    search = Search(Choices(3, ("dpm_multistep", "unipc")), evaluation, 60, 8, method=method, seed=1)
    source = FromProposer(proposer(search), 60, "frechet")
    tried = []
    while (asked := source.ask()) is not None:
        handle, params = asked
        assert search.space.check(params) == params
        tried.append(params)
        source.tell(
            handle, {"frechet": float(sum(abs(a - b) for a, b in zip(params["times"], (600, 300, 50), strict=True)))}
        )
    values = [v for _, v in source.told]
    assert len(tried) == 60
    if method != "random":
        assert np.mean(values[-15:]) < np.mean(values[:15])  # it learns


@pytest.mark.parametrize(
    ("given", "field"),
    [
        ({"solvers": ["pndm"]}, "solvers"),
        ({"solvers": []}, "solvers"),
        ({"solvers": ["flow_euler"]}, "solvers"),
        ({"method": "grid"}, "method"),
        ({"against": "price"}, "against"),
        ({"levels": (64, 32)}, "levels"),
        ({"levels": (16, 32), "against": "calls"}, "levels"),
        ({"checkpoint": "x", "method": "random"}, "checkpoint"),
        ({"checkpoint": "no/such/folder/x.json"}, "checkpoint"),
        ({"images": 0}, "images"),
        ({"confirm": 0}, "confirm"),
        ({"confirm_images": 0}, "confirm_images"),
        ({"batch": 0}, "batch"),
        ({"first": ("fastest",)}, "first"),
        ({"quality": None}, "quality"),
        ({"anchor": 0}, "anchor"),
        ({"anchor": 2.5}, "anchor"),
        ({"anchor": 5, "anchor_images": "many"}, "anchor_images"),
        ({"steps": (1, 4)}, "steps"),
        ({"steps": (2, 4)}, "steps"),
        ({"steps": "4"}, "steps"),
        ({"low": 0.5, "high": 0.5}, "low"),
        ({"eta": (0.0, 1.0), "solvers": ["unipc"]}, "eta"),
        ({"interval": True}, "interval"),
        ({"correction": (0.0, 0.5), "solvers": ["heun"]}, "correction"),
    ],
)
def test_what_does_not_fit_is_refused(pipeline: Any, evaluation: Evaluation, given: dict[str, Any], field: str) -> None:
    arguments: dict[str, Any] = {"steps": 3, "images": 32, "trials": 3, "progress": False}
    arguments |= {"quality": evaluation.quality, **given}
    with pytest.raises(InvalidInput) as error:
        search_schedule(pipeline, **arguments)
    assert error.value.problems[0].field == field
