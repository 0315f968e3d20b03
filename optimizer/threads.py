"""One BLAS thread: the matrices here are small, and threads that wait for each other cost up to a hundredfold."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache, wraps
from importlib import import_module
from typing import ParamSpec, TypeVar

from threadpoolctl import ThreadpoolController

P = ParamSpec("P")
R = TypeVar("R")


@cache
def _controller() -> ThreadpoolController:
    import_module("scipy.linalg")  # so that its BLAS is among the libraries found
    return ThreadpoolController()


def one_blas_thread(f: Callable[P, R]) -> Callable[P, R]:
    """``f`` run with one BLAS thread; the process's own setting is back afterwards."""

    @wraps(f)
    def limited(*args: P.args, **kwargs: P.kwargs) -> R:
        with _controller().limit(limits=1, user_api="blas"):
            return f(*args, **kwargs)

    return limited
