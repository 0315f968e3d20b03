"""Suffice's core: which configuration to evaluate next, and when to stop.

Names are loaded on first use, so that the light ones (spaces, trials, goals, budgets) never import torch.
"""

from typing import TYPE_CHECKING

from .front_door import front_door

if TYPE_CHECKING:
    from .conservative import Conservative as Conservative
    from .decision import Advice as Advice
    from .decision import Budget as Budget
    from .decision import Cost as Cost
    from .decision import Stop as Stop
    from .decision import StopReason as StopReason
    from .errors import Conflict as Conflict
    from .errors import InvalidInput as InvalidInput
    from .errors import NotFound as NotFound
    from .errors import SufficeError as SufficeError
    from .fidelity import Fidelity as Fidelity
    from .objective import Goal as Goal
    from .objective import Objective as Objective
    from .objective import OutcomeConstraint as OutcomeConstraint
    from .parameters import Bool as Bool
    from .parameters import Categorical as Categorical
    from .parameters import Constant as Constant
    from .parameters import Float as Float
    from .parameters import Int as Int
    from .parameters import Ordinal as Ordinal
    from .pruning import EarlyStopping as EarlyStopping
    from .pruning import Prune as Prune
    from .sampling import Draw as Draw
    from .sampling import Enough as Enough
    from .sampling import EnoughReason as EnoughReason
    from .sampling import Sampling as Sampling
    from .sampling import decide as decide
    from .space import Space as Space
    from .study import Best as Best
    from .study import Study as Study
    from .timesteps import TimeSteps as TimeSteps
    from .timesteps import known_schedules as known_schedules
    from .trial import Measurement as Measurement
    from .trial import Source as Source
    from .trial import Suggestion as Suggestion
    from .trial import Trial as Trial
    from .trial import TrialState as TrialState

_HOMES = {
    "conservative": ("Conservative",),
    "decision": ("Advice", "Budget", "Cost", "Stop", "StopReason"),
    "errors": ("Conflict", "InvalidInput", "NotFound", "SufficeError"),
    "fidelity": ("Fidelity",),
    "objective": ("Goal", "Objective", "OutcomeConstraint"),
    "parameters": ("Bool", "Categorical", "Constant", "Float", "Int", "Ordinal"),
    "pruning": ("EarlyStopping", "Prune"),
    "sampling": ("Draw", "Enough", "EnoughReason", "Sampling", "decide"),
    "space": ("Space",),
    "study": ("Best", "Study"),
    "timesteps": ("TimeSteps", "known_schedules"),
    "trial": ("Measurement", "Source", "Suggestion", "Trial", "TrialState"),
}
__all__, __getattr__, __dir__ = front_door(globals(), _HOMES)  # pyright: ignore[reportUnsupportedDunderAll]
