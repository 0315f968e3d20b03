"""The names at the front door, and that the light ones stay light."""

from __future__ import annotations

import subprocess
import sys

import suffice.optimizer as front
from suffice.optimizer import (
    conservative,
    decision,
    errors,
    fidelity,
    objective,
    parameters,
    pruning,
    sampling,
    space,
    study,
    timesteps,
    trial,
)


def test_every_name_is_its_modules() -> None:
    homes = [conservative, decision, errors, fidelity, objective, parameters, pruning, sampling, space, study]
    homes += [timesteps, trial]
    for name in front.__all__:
        assert any(getattr(front, name) is getattr(home, name, None) for home in homes), name
    assert dir(front) == front.__all__


def test_definitions_do_not_import_torch_or_scipy() -> None:
    code = (
        "import sys; from suffice.optimizer import *; "
        "Study(Space(x=Float(0, 1)), seed=0).enqueue({'x': 0.5}); "
        "assert 'torch' not in sys.modules and 'scipy' not in sys.modules, 'heavy'"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
