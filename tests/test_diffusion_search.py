"""Schedules searched beyond the plain case: with a running service, and for a flow-matching model."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from serving import Server

pytest.importorskip("diffusers")

from benchmarks.digit_models import ddpm_pipeline, digit_classifier, digits, flow_pipeline

from suffice.adapters.diffusion import Evaluation, Frechet, Reference, Schedule, apply_schedule, search_schedule
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


@pytest.mark.parametrize("flow", [False, True])
@pytest.mark.parametrize("steps", [4, 10, (3, 10)])
def test_no_step_is_so_short_that_solvers_extrapolate_wildly(flow: bool, steps: int | tuple[int, int]) -> None:
    times = Choices(steps, ("unipc",), flow=flow).times
    assert times.gap == pytest.approx((times.high - times.low) / (CLOSEST * times.k), abs=1.0)
    assert times.check(times.nearest([times.low] * times.k))
