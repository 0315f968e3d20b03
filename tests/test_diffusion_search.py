"""Schedules searched beyond the plain case: with a running service, and for a flow-matching model."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
import torch
from PIL import Image
from serving import Server

pytest.importorskip("diffusers")

from benchmarks.digit_models import ddpm_pipeline, digit_classifier, digits, flow_pipeline

from suffice.adapters.diffusion import (
    Evaluation,
    Frechet,
    Reference,
    Reward,
    Schedule,
    apply_schedule,
    least_missed,
    search_schedule,
    skippable,
)
from suffice.adapters.diffusion.grid import grid
from suffice.adapters.diffusion.solvers import CLOSEST, Choices
from suffice.api.client import Client
from suffice.optimizer import InvalidInput

# How diffusers turns its tensors into arrays.
pytestmark = pytest.mark.filterwarnings("ignore:__array_:DeprecationWarning")


@pytest.fixture(scope="module", autouse=True)
def one_thread() -> None:
    torch.set_num_threads(1)


@pytest.fixture(scope="module")
def quality() -> Frechet:
    images, _ = digits()
    return Frechet(Reference.of(images, digit_classifier().features))


def test_a_running_service_decides_and_remembers(tmp_path: Path, quality: Frechet) -> None:
    given: dict[str, Any] = {"quality": quality, "solvers": ["dpm_multistep"], "images": 16, "confirm": 1}
    given |= {"progress": False, "name": "few-steps", "first": ("quadratic", "karras_inner")}
    pipeline = ddpm_pipeline()
    with Server(tmp_path, workers=1) as server, Client(server.url) as client:
        found = search_schedule(pipeline, 3, trials=8, service=client, **given)
        study = client.study("few-steps")
        told = {t.number: t for t in study.history("COMPLETED")}
        assert [dict(told[i].params) for i in range(8)] == [dict(t.params) for t in found.tried]
        assert [told[i].value for i in range(8)] == [t.judged.score.value for t in found.tried]
        assert study.best().trial.params in [t.params for t in found.tried]
        listed = httpx.get(f"{server.url}/v1/studies/few-steps/trials/0/images").json()["images"]
        assert [(image["name"], image["type"]) for image in listed] == [("images.png", "image/png")]
        again = search_schedule(pipeline, 3, trials=8, service=client, **given)  # its budget is spent
        assert [t.params for t in again.tried] == [t.params for t in found.tried]
        assert again.schedule.times == found.schedule.times
        with pytest.raises(InvalidInput, match="service"):
            search_schedule(pipeline, 3, service=client, method="random", **given)


def test_a_flow_matching_model_is_searched(quality: Frechet, tmp_path: Path) -> None:
    pipeline = flow_pipeline()
    found = search_schedule(pipeline, 3, quality=quality, trials=12, images=32, confirm=2, progress=False)
    assert found.schedule.sigmas is not None
    assert {t.schedule.scheduler for t in found.tried} == {"FlowMatchEulerDiscreteScheduler", "UniPCMultistepScheduler"}
    judge = Evaluation(pipeline, quality)
    default = judge.judge(Schedule("FlowMatchEulerDiscreteScheduler", sigmas=(1.0, 2 / 3, 1 / 3)), 32)
    assert min(t.judged.score.value for t in found.tried) < default.score.value
    made = judge.make(found.schedule, 8, seed=1)
    pipeline.save_pretrained(tmp_path)
    loaded = type(pipeline).from_pretrained(tmp_path, low_cpu_mem_usage=False)
    apply_schedule(loaded, found.schedule)
    assert torch.equal(Evaluation(loaded, quality).make(found.schedule, 8, seed=1).images, made.images)


@pytest.mark.parametrize(("shape", "size"), [((5, 1, 8, 8), (256, 128)), ((20, 3, 400, 200), (256, 512))])
def test_the_picture_of_a_trial_is_small_enough(shape: tuple[int, ...], size: tuple[int, int]) -> None:
    images = torch.rand(shape, generator=torch.Generator().manual_seed(0))
    data = grid(images)
    picture = Image.open(io.BytesIO(data))
    assert picture.size == size
    assert len(data) < 2**20
    if shape[-1] == 8:
        assert picture.getpixel((64, 64)) == 0  # the sixth of five
        assert picture.getpixel((0, 0)) == round(255 * float(images[0, 0, 0, 0]))


@pytest.mark.parametrize("flow", [False, True])
def test_a_search_with_an_anchor_ranks_schedules_by_few_images(quality: Frechet, flow: bool) -> None:
    pipeline = flow_pipeline() if flow else ddpm_pipeline()
    given: dict[str, Any] = {"quality": quality, "trials": 6, "images": 16, "confirm": 2, "progress": False}
    found = search_schedule(pipeline, 3, anchor=8, anchor_images=200, **given)
    assert found.schedule.provenance["anchor_images"] == 216
    judge, many = Evaluation(pipeline, quality), Evaluation(pipeline, quality)
    truth = [many.judge(t.schedule, 512, 99).score.value for t in found.tried]
    plain = [judge.judge(t.schedule, 16).score.value for t in found.tried]
    error = np.subtract([t.judged.score.value for t in found.tried], truth)
    good = np.argsort(truth)[:3]  # poor schedules make of a noise what ten steps do not
    assert np.abs(error[good]).mean() < 0.5 * np.abs(np.subtract(plain, truth)[good]).mean()
    given["quality"] = Reward(lambda images: images.flatten(1).mean(1))
    with pytest.raises(InvalidInput, match="anchor"):
        search_schedule(pipeline, 3, anchor=8, **given)


@pytest.mark.parametrize("flow", [False, True])
@pytest.mark.parametrize("steps", [4, 10, (3, 10)])
def test_no_step_is_so_short_that_solvers_extrapolate_wildly(flow: bool, steps: int | tuple[int, int]) -> None:
    times = Choices(steps, ("unipc",), flow=flow).times
    assert times.gap == pytest.approx((times.high - times.low) / (CLOSEST * times.k), abs=1.0)
    assert times.check(times.nearest([times.low] * times.k))
    plain = Choices(steps, ("flow_euler" if flow else "ddim",), flow=flow).times
    assert plain.gap is not None
    assert times.gap is not None
    assert plain.gap < times.gap


# --- blocks of the network that are left out --------------------------------------------------------------------------

MULTISTEP, TIMES = "DPMSolverMultistepScheduler", (700, 400, 210, 45)
MIDDLE = "mid_block.attentions.0"


def test_blocks_are_left_out_at_their_steps_and_while_the_schedule_is_on(quality: Frechet) -> None:
    pipeline = ddpm_pipeline()
    judge, block = Evaluation(pipeline, quality), pipeline.unet.mid_block.attentions[0]
    plain = judge.make(Schedule(MULTISTEP, TIMES), 3).images
    calls: list[int] = []
    block.group_norm.register_forward_hook(lambda *_: calls.append(1))
    schedule = Schedule(MULTISTEP, TIMES, skipped={MIDDLE: (1, 3)})
    assert Schedule.from_json(schedule.to_json()) == schedule
    changed = judge.make(schedule, 3).images
    assert len(calls) == 2
    assert float((changed - plain).abs().max()) > 1e-3
    assert torch.equal(judge.make(Schedule(MULTISTEP, TIMES), 3).images, plain)
    assert len(calls) == 6
    apply_schedule(pipeline, schedule)
    other = Evaluation(type(pipeline)(pipeline.unet, ddpm_pipeline().scheduler), quality)  # shares the network
    assert torch.equal(other.make(Schedule(MULTISTEP, TIMES), 3).images, plain)
    assert torch.equal(judge.make(None, 3).images, changed)
    assert torch.equal(judge.make(schedule, 3).images, changed)


def test_what_is_left_out_is_searched(quality: Frechet) -> None:
    pipeline = ddpm_pipeline()
    judge = Evaluation(pipeline, quality)
    blocks = least_missed(judge, Schedule(MULTISTEP, TIMES), images=16)
    assert set(blocks) == set(skippable(pipeline)) == {
        "down_blocks.0.resnets.0", "mid_block.resnets.0", "mid_block.resnets.1", MIDDLE,
    }  # fmt: skip
    choices = Choices(4, ("ddim",), skip=tuple(blocks[:2]))
    assert choices.schedule(choices.params(TIMES)).skipped == {}
    schedule = choices.schedule(choices.params(TIMES, skipped_last=2))
    assert schedule.skipped == {blocks[0]: (1, 2, 3), blocks[1]: (3,)}  # 0, 0.67, 1.33 and 2 blocks
    found = search_schedule(
        pipeline, 4, quality=quality, solvers=["ddim"], skip=blocks[:1], trials=9, images=8, confirm=1, progress=False
    )
    assert {bool(t.schedule.skipped) for t in found.tried} == {True, False}


@pytest.mark.parametrize("block", ["conv_in", "down_blocks.1.resnets.0", "nothing"])
def test_what_cannot_be_left_out_is_refused(block: str) -> None:
    with pytest.raises(InvalidInput, match=r"blocks that add to their input .*mid_block\.resnets\.0"):
        apply_schedule(ddpm_pipeline(), Schedule(MULTISTEP, TIMES, skipped={block: (0,)}))
    with pytest.raises(InvalidInput, match="numbers of steps from 0 to 3"):
        Schedule(MULTISTEP, TIMES, skipped={MIDDLE: (4,)})
    with pytest.raises(InvalidInput, match="twice"):
        Choices(4, ("heun",), skip=(MIDDLE,))
