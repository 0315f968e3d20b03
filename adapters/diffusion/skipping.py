"""Blocks of the network that are left out at some of the steps, as in the second stage of AutoDiffusion (2309.10438).

A block that adds something to its input can be left out: its output then is its input. That goes by diffusers' own
hooks, which look at every call whether the pipeline has the scheduler that they belong to, and how many steps of a run
that has taken. So the network is unchanged under any other scheduler, and between runs for pipelines that share it.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from diffusers.hooks.hooks import HookRegistry, ModelHook
from diffusers.models.attention import BasicTransformerBlock
from diffusers.models.attention_processor import Attention
from diffusers.models.resnet import ResnetBlock2D

from suffice.optimizer import InvalidInput

from .schedule import Schedule

if TYPE_CHECKING:
    from .evaluation import Evaluation

NETWORKS = ("unet", "transformer")  # what pipelines call them


def skippable(pipeline: Any) -> list[str]:
    """The names of the blocks of a pipeline's network that can be left out, in the order of its modules."""
    return [name for name, module in network(pipeline).named_modules() if _adds(module)]


def least_missed(evaluation: Evaluation, schedule: Schedule, images: int = 256) -> list[str]:
    """The blocks that can be left out, first those without which (at every step) a schedule makes the best images.

    One evaluation of ``images`` images for each of them.
    """
    sign = 1.0 if evaluation.quality.direction == "minimize" else -1.0
    values = {
        name: sign
        * evaluation.judge(replace(schedule, skipped={name: tuple(range(schedule.steps))}), images).score.value
        for name in skippable(evaluation.pipeline)
    }
    return sorted(values, key=lambda name: values[name])


def network(pipeline: Any) -> Any:
    """The denoising network of a pipeline."""
    for name in NETWORKS:
        if (found := getattr(pipeline, name, None)) is not None:
            return found
    raise InvalidInput("pipeline", f"one with a {' or '.join(NETWORKS)}", type(pipeline).__name__)


def leave_out(pipeline: Any, schedule: Schedule, scheduler: Any) -> None:
    """Hooks for ``schedule.skipped`` while ``pipeline`` runs ``scheduler``, which counts its steps in ``_taken``.

    They replace those of earlier schedules of this pipeline. Raises InvalidInput for blocks that cannot be left out.
    """
    if not schedule.skipped and not any(hasattr(pipeline, name) for name in NETWORKS):
        return
    modules = dict(network(pipeline).named_modules())
    name = f"left_out_{id(pipeline)}"
    for module in modules.values():
        if hasattr(module, "_diffusers_hook"):
            module._diffusers_hook.remove_hook(name, recurse=False)
    for block, steps in schedule.skipped.items():
        if block not in modules or not _adds(modules[block]):
            known = ", ".join(skippable(pipeline)) or "none"
            raise InvalidInput("schedule.skipped", f"blocks that add to their input ({known})", block)
        registry = HookRegistry.check_if_exists_or_initialize(modules[block])
        registry.register_hook(_LeftOut(pipeline, scheduler, steps), name)


class _LeftOut(ModelHook):  # type: ignore[misc]
    """A block's forward pass, or at some steps its input."""

    def __init__(self, pipeline: Any, scheduler: Any, steps: Iterable[int]) -> None:
        super().__init__()
        self.pipeline, self.scheduler, self.steps = pipeline, scheduler, frozenset(steps)

    def new_forward(self, module: Any, *args: Any, **kwargs: Any) -> Any:
        if self.pipeline.scheduler is self.scheduler and self.scheduler._taken in self.steps:
            return args[0] if args else kwargs.get("input_tensor", kwargs.get("hidden_states"))
        forward: Any = self.fn_ref.original_forward
        return forward(*args, **kwargs)


def _adds(module: Any) -> bool:
    """Whether a module's output is its input and something more."""
    if isinstance(module, ResnetBlock2D):
        plain = module.conv_shortcut is None and module.upsample is None and module.downsample is None
        return plain and module.in_channels == module.out_channels
    if isinstance(module, Attention):
        return bool(module.residual_connection)
    return isinstance(module, BasicTransformerBlock)
