"""The OpenAPI document is part of the interface: it is compared with the one in the repository.

After a change that is meant: `python tests/test_api_openapi.py` writes it anew.
"""

import json
import re
from pathlib import Path
from typing import Any

import pytest

from suffice.api.app import create_app
from suffice.api.settings import Settings

SNAPSHOT = Path(__file__).with_name("openapi.json")


def document(folder: Path) -> dict[str, Any]:
    app = create_app(Settings(database=f"sqlite:///{folder / 'unused.db'}"))
    openapi: dict[str, Any] = json.loads(json.dumps(app.openapi()))
    openapi["info"]["version"] = "any"
    return openapi


@pytest.fixture(scope="module")
def openapi(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    return document(tmp_path_factory.mktemp("openapi"))


def test_the_document_is_the_one_in_the_repository(openapi: dict[str, Any]):
    assert openapi == json.loads(SNAPSHOT.read_text()), "meant? python tests/test_api_openapi.py"


def test_every_route_is_described(openapi: dict[str, Any]):
    for path, operations in openapi["paths"].items():
        for method, operation in operations.items():
            assert operation["summary"], (method, path)
            for status, answer in operation["responses"].items():
                if status >= "400" and path.startswith("/v1"):
                    schema = answer["content"]["application/problem+json"]["schema"]
                    assert schema == {"$ref": "#/components/schemas/ProblemOut"}, (method, path, status)
            if "{name}" in path:
                assert "404" in operation["responses"], (method, path)


def test_no_text_in_an_address_may_hold_what_postgresql_cannot_keep(openapi: dict[str, Any]):
    for path, operations in openapi["paths"].items():
        for operation in operations.values():
            for parameter in operation.get("parameters", []):
                if parameter["in"] == "path" and parameter["schema"]["type"] == "string":
                    assert not re.fullmatch(parameter["schema"]["pattern"], "a\0b"), path


def test_every_reference_leads_somewhere(openapi: dict[str, Any]):
    text = json.dumps(openapi)
    names = {part.split('"')[0] for part in text.split("#/components/schemas/")[1:]}
    assert names == set(openapi["components"]["schemas"])


def test_links_lead_from_what_an_answer_holds_to_what_a_request_wants(openapi: dict[str, Any]):
    operations = {op["operationId"]: op for methods in openapi["paths"].values() for op in methods.values()}
    count = 0
    for source in operations.values():
        for answer in source["responses"].values():
            for link in answer.get("links", {}).values():
                target = operations[link["operationId"]]
                wanted = {p["name"] for p in target.get("parameters", []) if p["in"] == "path"}
                assert set(link["parameters"]) == wanted
                schema = answer["content"]["application/json"]["schema"]
                for value in json_strings([link["parameters"], link.get("requestBody")]):
                    place, _, pointer = value.partition("#/")
                    if place == "$response.body" and pointer:
                        resolve(openapi, schema, pointer.split("/"))
                    elif value.startswith("$request.path."):
                        assert value.rpartition(".")[2] in {p["name"] for p in source["parameters"]}
                count += 1
    assert count > 30


def json_strings(value: Any) -> list[str]:
    inside = value.values() if isinstance(value, dict) else value if isinstance(value, list) else []
    return [value] if isinstance(value, str) else [text for part in inside for text in json_strings(part)]


def resolve(openapi: dict[str, Any], schema: dict[str, Any], pointer: list[str]) -> None:
    """Raises StopIteration or KeyError where an answer of this schema has nothing at the pointer."""
    if "anyOf" in schema:
        schema = next(one for one in schema["anyOf"] if one.get("type") != "null")
    if "$ref" in schema:
        return resolve(openapi, openapi["components"]["schemas"][schema["$ref"].rpartition("/")[2]], pointer)
    if pointer:
        part, *rest = pointer
        return resolve(openapi, schema["items"] if part.isdigit() else schema["properties"][part], rest)


if __name__ == "__main__":
    import tempfile

    with tempfile.TemporaryDirectory() as folder:
        SNAPSHOT.write_text(json.dumps(document(Path(folder)), indent=1, sort_keys=True) + "\n")
