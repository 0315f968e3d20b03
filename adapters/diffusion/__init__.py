"""Diffusion on diffusers pipelines: schedules and solvers for few steps, and steering at inference time.

Names are loaded on first use, so that importing this package imports neither torch nor diffusers.
"""

from typing import TYPE_CHECKING

from suffice.optimizer.front_door import front_door

if TYPE_CHECKING:
    from .apply import apply_schedule as apply_schedule
    from .apply import plain_arguments as plain_arguments
    from .apply import stock_scheduler as stock_scheduler
    from .denoiser import Denoiser as Denoiser
    from .evaluation import Evaluation as Evaluation
    from .flowopt import FlowOpt as FlowOpt
    from .noise_search import NoiseSearch as NoiseSearch
    from .quality import Frechet as Frechet
    from .quality import Kernel as Kernel
    from .quality import Paired as Paired
    from .quality import Reference as Reference
    from .quality import Reward as Reward
    from .schedule import Schedule as Schedule
    from .search import Found as Found
    from .search import search_schedule as search_schedule
    from .skipping import least_missed as least_missed
    from .skipping import skippable as skippable
    from .svdd import SVDD as SVDD

_HOMES = {
    "apply": ("apply_schedule", "plain_arguments", "stock_scheduler"),
    "denoiser": ("Denoiser",),
    "evaluation": ("Evaluation",),
    "flowopt": ("FlowOpt",),
    "noise_search": ("NoiseSearch",),
    "quality": ("Frechet", "Kernel", "Paired", "Reference", "Reward"),
    "schedule": ("Schedule",),
    "search": ("Found", "search_schedule"),
    "skipping": ("least_missed", "skippable"),
    "svdd": ("SVDD",),
}
__all__, __getattr__, __dir__ = front_door(globals(), _HOMES)  # pyright: ignore[reportUnsupportedDunderAll]
