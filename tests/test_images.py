"""Images of trials: kept as they came, refused where they are none, shown by browsers and nothing else."""

from collections.abc import Generator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from live import Service, serving
from sqlmodel import select

from suffice.api.images import MOST_BYTES, MOST_IMAGES
from suffice.api.tables import ImageRow

PNG = b"\x89PNG\r\n\x1a\n" + bytes(64)
JPEG = b"\xff\xd8\xff\xe0" + bytes(64)
WEBP = b"RIFF\x10\x00\x00\x00WEBPVP8 "
SCRIPT = b"<svg xmlns='http://www.w3.org/2000/svg'><script>alert(1)</script></svg>"


@pytest.fixture
def service(tmp_path: Path, database: str) -> Generator[Service]:
    with serving(tmp_path, workers=0, database=database) as service:
        yield service


@pytest.fixture
def study(service: Service) -> str:
    study = service.study("pictures")
    results = [
        {"parameters": {"x1": i, "x2": 0}, "measurements": [{"metric": "loss", "value": 9 - i}]} for i in range(9)
    ]
    service.call("POST", f"{study}/trials", {"trials": results}, status=201)
    return str(study)


def put(service: Service, path: str, data: bytes, kind: str = "image/png") -> int:
    return int(service.http.put(path, content=data, headers={"Content-Type": kind}).status_code)


def test_images_come_back_as_they_went_in(service: Service, study: str):
    for name, data in (("grid.png", PNG), ("b", JPEG), ("c", WEBP)):
        assert put(service, f"{study}/trials/3/images/{name}", data) == 204
    assert put(service, f"{study}/trials/3/images/b", PNG) == 204  # replaced
    listed = service.call("GET", f"{study}/trials/3/images")["images"]
    assert listed == [
        {"name": "b", "type": "image/png", "bytes": len(PNG)},
        {"name": "c", "type": "image/webp", "bytes": len(WEBP)},
        {"name": "grid.png", "type": "image/png", "bytes": len(PNG)},
    ]
    answer = service.http.get(f"{study}/trials/3/images/grid.png")
    assert answer.content == PNG
    assert answer.headers["content-type"] == "image/png"
    assert answer.headers["x-content-type-options"] == "nosniff"
    assert "sandbox" in answer.headers["content-security-policy"]


def test_what_is_no_small_image_is_refused(service: Service, study: str):
    path = f"{study}/trials/0/images/x"
    assert put(service, path, SCRIPT) == 422  # whatever it is called
    assert put(service, path, b"") == 422
    assert put(service, path, PNG + bytes(MOST_BYTES)) == 422
    assert put(service, f"{study}/trials/0/images/{'x' * 65}", PNG) == 422
    assert put(service, f"{study}/trials/99/images/x", PNG) == 404
    assert put(service, "/v1/studies/none/trials/0/images/x", PNG) == 404
    assert service.http.get(path).status_code == 404
    for k in range(MOST_IMAGES):
        assert put(service, f"{path}{k}", PNG) == 204
    assert put(service, path, PNG) == 409
    assert put(service, f"{path}0", JPEG) == 204  # in place of one that is there


def test_the_best_and_the_newest_are_shown(service: Service, study: str):
    for number in range(9):
        put(service, f"{study}/trials/{number}/images/grid", PNG)
    found = service.call("GET", "/v1/dashboard/studies/pictures")["pictured"]
    assert [one["number"] for one in found] == [8, 7, 6, 5, 4, 3]  # the newest are the best here
    assert found[0] == {"number": 8, "value": 1, "images": ["grid"]}


def test_images_that_come_at_once_all_count(service: Service, study: str):
    """Of one name the last is kept; of many names no more than are allowed."""
    at = f"{study}/trials/3/images"
    with ThreadPoolExecutor(8) as pool:
        assert set(pool.map(lambda _: put(service, f"{at}/same.png", PNG), range(16))) == {204}
        codes = list(pool.map(lambda i: put(service, f"{at}/other{i}.png", PNG), range(MOST_IMAGES + 4)))
    assert sorted(set(codes)) == [204, 409]
    assert len(service.call("GET", at)["images"]) == MOST_IMAGES


def test_they_go_with_their_study(service: Service, study: str):
    put(service, f"{study}/trials/0/images/x", PNG)
    other = service.study("other")
    service.call("POST", f"{other}/trials", {"trials": [{"parameters": {"x1": 1, "x2": 1}}]}, status=201)
    put(service, f"{other}/trials/0/images/x", PNG)
    service.call("DELETE", study, status=204)
    with service.parts.store.database.read() as session:
        (left,) = session.exec(select(ImageRow))
    assert service.parts.store.facts("other").id == left.study_id
