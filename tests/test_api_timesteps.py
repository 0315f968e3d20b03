"""Time steps through the service and the client, like any parameter."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from serving import Server

from suffice.api.client import Client, InvalidRequest, Stop
from suffice.optimizer import Categorical, Space, TimeSteps, known_schedules

TIMES = TimeSteps(3, 0, 99)
SPACE = Space(times=TIMES, order=Categorical(1, 2))


@pytest.fixture(scope="module")
def client(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Client]:
    folder: Path = tmp_path_factory.mktemp("service")
    with Server(folder, workers=1) as server, Client(server.url) as client:
        yield client


def test_a_study_over_the_service(client: Client) -> None:
    study = client.create_study("schedule", SPACE, seed=0)
    definition = study.info.parameters[0].model_dump(exclude_none=True)
    assert definition == {"name": "times", **SPACE.to_json()["parameters"][0]}
    first: dict[str, Any] = {"times": known_schedules(TIMES)["trailing"], "order": 1}
    study.enqueue(first)
    for i in range(7):
        trial = study.ask()
        assert not isinstance(trial, Stop)
        assert SPACE.check(trial.params) == trial.params
        assert i > 0 or trial.params == first
        trial.tell(sum(abs(a - b) for a, b in zip(trial.params["times"], (60, 30, 10), strict=True)))
    told = list(study.history("COMPLETED"))
    assert study.best().trial.params == min(told, key=lambda t: t.value or 0.0).params
    prediction = study.predict([{"times": [60, 30, 10], "order": 1}, {"times": [99, 98, 97], "order": 1}])
    near, far = prediction.predictions
    assert near.mean < far.mean
    study.add({"times": [60, 30, 10], "order": 2}, 0.0)


@pytest.mark.parametrize(
    ("times", "expected"),
    [
        ([1, 2, 3], "each at least 1 below"),
        ([3, 2], "3 whole numbers"),
        ("3,2,1", "3 whole numbers"),
        (3, "3 whole numbers"),
    ],
)
def test_what_is_no_sequence_is_refused(client: Client, times: object, expected: str) -> None:
    study = client.create_study("refused", SPACE, exist_ok=True)
    with pytest.raises(InvalidRequest, match=expected) as error:
        study.enqueue({"times": times, "order": 1})  # type: ignore[dict-item]
    assert error.value.problems[0].field == "trials.0.parameters.times"


def test_a_definition_that_is_none_is_refused(client: Client) -> None:
    wrong = {"times": {"type": "time_steps", "k": 200, "low": 0, "high": 99}}
    with pytest.raises(InvalidRequest, match=r"of which 199 fit"):
        client.create_study("wrong", wrong)
