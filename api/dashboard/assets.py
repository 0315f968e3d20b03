"""The files that pages are made of. They ship with the package, are kept in memory, and never change while it runs.

Their address holds a digest of all of them, so browsers keep them for ever and a new version is never mixed with an old
one.
"""

from __future__ import annotations

import gzip
import hashlib
import re
from dataclasses import dataclass
from functools import cache
from importlib.util import find_spec
from pathlib import Path

STATIC = Path(__file__).parent / "static"
TYPES = {
    ".css": "text/css; charset=utf-8",
    ".html": "text/html; charset=utf-8",
    ".js": "text/javascript; charset=utf-8",
    ".svg": "image/svg+xml",
}
IMPORTED = re.compile(r'^import .* from "\./(\w+\.js)";', re.MULTILINE)
PLOTLY = "plotly.min.js"  # for Ax's figures alone; it comes with Ax


@dataclass(frozen=True)
class Asset:
    """A file, and what it is when packed."""

    type: str
    plain: bytes
    packed: bytes


@cache
def asset(name: str) -> Asset | None:
    """The file of that name, if there is one."""
    path = _plotly() if name == PLOTLY else STATIC / name if name in names() else None
    if path is None:
        return None
    plain = path.read_bytes()
    return Asset(TYPES[path.suffix], plain, gzip.compress(plain, 6, mtime=0))


@cache
def names() -> frozenset[str]:
    return frozenset(path.name for path in STATIC.iterdir() if path.suffix in TYPES)


@cache
def digest() -> str:
    """Changes when any of the files does."""
    found = hashlib.sha256()
    for name in sorted(names()):
        found.update(name.encode() + b"\0" + (STATIC / name).read_bytes())
    return found.hexdigest()[:16]


@cache
def page(script: str, title: str) -> bytes:
    """The page that runs a script. It names all modules, so that browsers need not find one in another."""
    template = (STATIC / "page.html").read_text()
    folder = f"/assets/{digest()}"
    needed = "\n".join(f'<link rel="modulepreload" href="{folder}/{name}">' for name in modules(f"{script}.js"))
    for mark, text in (("modules", needed), ("assets", folder), ("script", script), ("title", title)):
        template = template.replace("{{" + mark + "}}", text)
    return template.encode()


@cache
def modules(name: str) -> tuple[str, ...]:
    """The modules that one needs: those that it imports, and those that they do."""
    found: dict[str, None] = {}
    waiting = [name]
    while waiting:
        imported = IMPORTED.findall((STATIC / waiting.pop()).read_text())
        waiting += [one for one in imported if one not in found]
        found.update(dict.fromkeys(imported))
    return tuple(sorted(found))


@cache
def _plotly() -> Path | None:
    """Where the package `plotly` keeps its JavaScript, if it is installed."""
    spec = find_spec("plotly")
    if spec is None or spec.origin is None:
        return None
    path = Path(spec.origin).parent / "package_data" / PLOTLY
    return path if path.exists() else None
