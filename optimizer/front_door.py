"""A package's public names, each imported from its module on first use, so that importing the package stays light."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from importlib import import_module
from typing import Any


def front_door(
    package: dict[str, Any], homes: Mapping[str, Sequence[str]]
) -> tuple[list[str], Callable[[str], Any], Callable[[], list[str]]]:
    """``__all__``, ``__getattr__`` and ``__dir__`` (PEP 562) of a package, from its globals and its names by module."""
    home = {name: module for module, names in homes.items() for name in names}
    public = sorted(home)

    def load(name: str) -> Any:
        if name not in home:
            raise AttributeError(f"module {package['__name__']!r} has no attribute {name!r}")
        value = getattr(import_module(f".{home[name]}", package["__name__"]), name)
        package[name] = value
        return value

    return public, load, lambda: public
