"""The reference pages are complete: every route, command, flag and setting is on one.

docs/reference/rest.md is made from the OpenAPI document: `python tests/test_reference.py` writes it anew.
"""

import argparse
import json
import re
from collections.abc import Iterator, Mapping
from http import HTTPStatus
from pathlib import Path
from typing import Any

from suffice.api.cli import parser
from suffice.api.settings import Settings
from suffice.optimizer.decision import StopReason
from suffice.optimizer.methods import METHODS
from suffice.optimizer.pruning import POLICIES
from suffice.optimizer.sampling import EnoughReason
from suffice.optimizer.stopping import RULES

ROOT = Path(__file__).parents[1]
PAGE = ROOT / "docs" / "reference" / "rest.md"
HEAD = """# The REST API

Every route of the service, made from its OpenAPI document, which a running service gives at `/openapi.json`. How to use
it: [the service](../service.md), [samplings](../samplings.md). Errors are `application/problem+json`: `type`, `title`,
`status`, `detail`, and `errors` with one `{field, expected, got}` each.
"""


def page(openapi: Mapping[str, Any]) -> str:
    """The reference page of an OpenAPI document."""
    routes: dict[str, list[str]] = {}
    for path, operations in openapi["paths"].items():
        for method, operation in operations.items():
            routes.setdefault(operation.get("tags", ["other"])[0], []).append(_route(method, path, operation))
    parts = [HEAD]
    for tag, found in routes.items():
        parts += [f"## {tag.capitalize()}\n", *found]
    parts.append("## What goes in and out\n")
    parts += [_schema(name, schema) for name, schema in sorted(openapi["components"]["schemas"].items())]
    return "\n".join(parts).rstrip("\n") + "\n"


def _route(method: str, path: str, operation: Mapping[str, Any]) -> str:
    lines = [f"### `{method.upper()} {path}`\n", f"{operation.get('description') or operation['summary']}\n"]
    if given := operation.get("parameters"):
        lines += ["| parameter | in | type | meaning |", "|---|---|---|---|"]
        lines += [f"| `{p['name']}` | {p['in']} | {_type(p['schema'])} | {_said(p)} |" for p in given]
        lines.append("")
    if body := operation.get("requestBody"):
        lines.append(f"Takes {_content(body['content'])}.")
    lines.append(f"Answers {', '.join(_answers(operation['responses']))}.\n")
    return "\n".join(lines)


def _answers(responses: Mapping[str, Any]) -> Iterator[str]:
    refused = [status for status in responses if status >= "400"]
    for status, answer in responses.items():
        if status < "400":
            body = f": {_content(answer['content'])}" if answer.get("content") else ""
            yield f"{status} {HTTPStatus(int(status)).phrase}{body}"
    if refused:
        yield f"or an error: {', '.join(refused)}"


def _content(content: Mapping[str, Any]) -> str:
    kinds = {_type(body["schema"]) if body.get("schema") else f"`{kind}`" for kind, body in content.items()}
    return " or ".join(sorted(kinds))


def _schema(name: str, schema: Mapping[str, Any]) -> str:
    lines = [f"### {name}\n"]
    if schema.get("description"):
        lines.append(f"{schema['description']}\n")
    required = schema.get("required", ())
    if schema.get("properties"):
        lines += ["| field | type | default | meaning |", "|---|---|---|---|"]
    for field, found in schema.get("properties", {}).items():
        default = "required" if field in required else f"`{json.dumps(found['default'])}`" if "default" in found else ""
        lines.append(f"| `{field}` | {_type(found)} | {default} | {_said(found)} |")
    return "\n".join(lines) + "\n"


def _said(found: Mapping[str, Any]) -> str:
    return re.sub(r"\s+", " ", found.get("description", "")).replace("|", "\\|")


def _type(schema: Mapping[str, Any]) -> str:
    if ref := schema.get("$ref"):
        name = ref.rsplit("/", 1)[-1]
        return f"[{name}](#{name.lower()})"
    for several in ("anyOf", "oneOf"):
        if several in schema:
            return " or ".join(dict.fromkeys(_type(one) for one in schema[several]))
    if "enum" in schema or "const" in schema:
        return ", ".join(f"`{json.dumps(value)}`" for value in schema.get("enum", [schema.get("const")]))
    if schema.get("type") == "array":
        return f"list of {_type(schema.get('items', {}))}"
    if schema.get("type") == "object" and isinstance(schema.get("additionalProperties"), dict):
        return f"object of {_type(schema['additionalProperties'])}"
    return str(schema.get("type", "anything")) + _bounds(schema)


def _bounds(schema: Mapping[str, Any]) -> str:
    signs = {"minimum": "≥", "exclusiveMinimum": ">", "maximum": "≤", "exclusiveMaximum": "<"}
    limits = [f"{sign} {schema[key]:g}" for key, sign in signs.items() if abs(schema.get(key, 1e300)) < 1e15]
    return f" ({', '.join(limits)})" if limits else ""


def test_the_rest_page_is_made_from_the_openapi_document():
    openapi = json.loads(Path(__file__).with_name("openapi.json").read_text())
    assert PAGE.read_text() == page(openapi), "run python tests/test_reference.py"


def commands() -> Iterator[tuple[str, argparse.ArgumentParser]]:
    for action in parser()._actions:
        if isinstance(action, argparse._SubParsersAction):
            yield from action.choices.items()


def test_every_command_and_flag_is_documented():
    text = (ROOT / "docs" / "cli.md").read_text()
    pages = text + "".join(p.read_text() for p in (ROOT / "docs").glob("*.md"))
    for name, command in commands():
        assert f"`suffice {name}" in pages, f"docs/cli.md does not know suffice {name}"
        for action in command._actions:
            for flag in action.option_strings:
                if flag.startswith("--") and flag != "--help":
                    assert flag in pages, f"no page knows suffice {name} {flag}"


def test_every_setting_is_a_flag_of_serve():
    flags = {flag for action in dict(commands())["serve"]._actions for flag in action.option_strings}
    assert {f"--{name.replace('_', '-')}" for name in Settings.model_fields} <= flags


def test_every_acquisition_and_every_rule_has_its_formula_source_and_use():
    page = (ROOT / "docs" / "methods.md").read_text()
    parts = [part.partition("\n") for part in re.split(r"^#+ ", page, flags=re.MULTILINE)]
    sections = {head.strip("`"): text for head, _, text in parts if head.startswith("`")}
    assert set(sections) == {*METHODS, *RULES}
    for name, text in sections.items():
        for part in ("$$", "- **Source**: ", "- **Take it** ", "- **Not** "):
            assert part in text, f"docs/methods.md: {name} lacks {part}"
    for name in (*POLICIES, *StopReason, *EnoughReason):
        assert f"\n| `{name}` |" in page, f"docs/methods.md does not list {name}"


if __name__ == "__main__":
    PAGE.write_text(page(json.loads(Path(__file__).with_name("openapi.json").read_text())))
