"""Keys at the gateway: what a project may see there, what a key may spend, and what no upstream hears of."""

import asyncio
import http.client
import json
from collections.abc import Callable, Generator
from contextlib import ExitStack, closing
from itertools import cycle, islice
from pathlib import Path
from typing import Any

import httpx
import openai
import pytest
from live import Clock, serving
from upstream import VOTES, Running, Say, Upstream

from suffice.api.access_wire import KeyCreate, KeyMade
from suffice.api.database import Database, migrate
from suffice.api.front import Front
from suffice.api.gateway import Gateway
from suffice.api.gateway_config import GatewayConfig
from suffice.api.keys import KeyRing, KeyStore
from suffice.api.limits import Meter, Rates, Spending
from suffice.api.metrics import Metrics

ASKED: dict[str, Any] = {"model": "tiny", "messages": [{"role": "user", "content": "37+85=?"}]}


class Guarded:
    """A gateway with keys, before a scripted upstream."""

    def __init__(self, folder: Path) -> None:
        self.clock = Clock()
        self.database = Database(f"sqlite:///{folder / 'keys.db'}")
        migrate(self.database)
        self.keys = KeyStore(self.database, self.clock)
        self.keys.create_project("other")
        self.upstream = Upstream(default=lambda body: Say("42", tokens=10)).start()
        document = {"upstreams": [{"url": self.upstream.url}], "policies": {"optscale": VOTES}}
        gateway = Gateway(GatewayConfig.of(document))
        self.spending = Spending(self.keys)
        front = Front(
            gateway,
            KeyRing(self.keys, lambda: self.clock.time.timestamp()),
            Metrics(),
            spending=self.spending,
            is_gateways=lambda path: path not in ("/healthz", "/readyz"),
        )
        self.running = Running(front, lifespan="on").start()

    def key(self, **wanted: Any) -> KeyMade:
        return self.keys.create(KeyCreate(**{"role": "worker", **wanted}))

    def ask(self, key: KeyMade, path: str = "/v1/chat/completions", **fields: Any) -> httpx.Response:
        headers = {"Authorization": f"Bearer {key.secret}", "Cookie": "a=b"}
        return httpx.post(f"{self.running.url}{path}", json={**ASKED, **fields}, headers=headers, timeout=30)

    def get(self, key: KeyMade, path: str) -> httpx.Response:
        return httpx.get(f"{self.running.url}{path}", headers={"Authorization": f"Bearer {key.secret}"})

    def stop(self) -> None:
        self.running.stop()
        self.upstream.stop()
        self.spending.close()
        self.database.close()


@pytest.fixture
def guarded(tmp_path: Path) -> Generator[Guarded]:
    made = Guarded(tmp_path)
    yield made
    made.stop()


def test_without_a_key_the_answer_is_openais(guarded: Guarded):
    key = guarded.key()
    with openai.OpenAI(base_url=f"{guarded.running.url}/v1", api_key="nonsense", max_retries=0) as client:
        with pytest.raises(openai.AuthenticationError) as refused:
            client.chat.completions.create(**ASKED)
        assert refused.value.code == "invalid_api_key"
        client.api_key = key.secret
        assert client.chat.completions.create(**ASKED).choices[0].message.content == "42"
    assert guarded.upstream.drawn[0].headers.keys().isdisjoint({"authorization", "cookie"}), "not the upstream's"
    reader = guarded.key(role="reader")
    refusal = guarded.ask(reader)
    assert (refusal.status_code, refusal.json()["error"]["type"]) == (403, "permission_error")
    assert guarded.get(reader, "/v1/models").status_code == 200
    assert guarded.get(reader, "/metrics").status_code == 403
    assert httpx.get(f"{guarded.running.url}/healthz").status_code == 200


def test_decisions_and_calibrations_are_each_projects_own(guarded: Guarded):
    key, other = guarded.key(role="owner"), guarded.key(role="owner", project="other")
    record = guarded.ask(key, model="tiny:optscale").json()["optscale"]
    where = f"/optscale/v1/decisions/{record['decision_id']}"
    assert guarded.get(key, where).status_code == 200
    assert guarded.get(other, where).status_code == 404
    replay = {"decisions": [record["decision_id"]]}
    headers = {"Authorization": f"Bearer {other.secret}"}
    assert httpx.post(f"{guarded.running.url}/optscale/v1/replay", json=replay, headers=headers).status_code == 404
    samples = [{"answer": "1", "correct": 1, "tokens": 1}] * 3 + [{"answer": "2", "correct": 0, "tokens": 1}] * 2
    pool = {"pool": {"prompts": [{"id": str(i), "samples": samples} for i in range(12)]}, "max_samples": 4}
    put = f"{guarded.running.url}/optscale/v1/calibrations/mine"
    assert httpx.put(put, json=pool, headers=headers, timeout=60).status_code == 200
    assert guarded.get(other, "/optscale/v1/calibrations").json()["calibrations"][0]["name"] == "mine"
    assert guarded.get(key, "/optscale/v1/calibrations").json() == {"calibrations": []}
    assert guarded.get(key, "/optscale/v1/calibrations/mine").status_code == 404
    worker = {"Authorization": f"Bearer {guarded.key().secret}"}
    assert httpx.put(put, json=pool, headers=worker).status_code == 403


def test_within_the_service_the_same_keys_open_the_gateway(tmp_path: Path):
    upstream = Upstream(default=lambda body: Say("42", tokens=10)).start()
    with serving(tmp_path, workers=0, upstream=upstream.url) as service:
        store: KeyStore = service.parts.keys.store
        store.create_project("other")
        mine, other = (store.create(KeyCreate(role="owner", project=name)) for name in ("default", "other"))
        service.parts.keys.forget()

        def call(key: KeyMade, method: str, path: str, body: Any = None) -> httpx.Response:
            headers = {"Authorization": f"Bearer {key.secret}"}
            answer: httpx.Response = service.http.request(method, path, json=body, headers=headers)
            return answer

        asked = {**ASKED, "model": "tiny:optscale", "optscale": {"max_samples": 2}}
        assert service.http.post("/v1/chat/completions", json=asked).json()["error"]["code"] == "invalid_api_key"
        record = call(mine, "POST", "/v1/chat/completions", asked).json()["optscale"]
        for where in ("/optscale/v1/decisions/", "/v1/dashboard/decisions/"):
            replay = "/replay" * ("dashboard" in where)
            path = f"{where}{record['decision_id']}{replay}"
            assert (call(mine, "GET", path).status_code, call(other, "GET", path).status_code) == (200, 404)
        assert call(other, "GET", "/v1/dashboard/decisions").json()["decisions"] == []
        samples = [{"answer": "1", "correct": 1, "tokens": 1}] * 3 + [{"answer": "2", "correct": 0, "tokens": 1}] * 2
        pool = {"pool": {"prompts": [{"id": str(i), "samples": samples} for i in range(12)]}, "max_samples": 4}
        assert call(other, "PUT", "/optscale/v1/calibrations/mine", pool).status_code == 200
        assert call(other, "GET", "/v1/calibrations/mine").status_code == 200
        assert call(mine, "GET", "/v1/calibrations/mine").status_code == 404
        assert call(mine, "GET", "/optscale/v1/calibrations").json() == {"calibrations": []}
        metrics = store.create(KeyCreate(role="admin"))
        text = call(metrics, "GET", "/metrics").text
        assert 'suffice_requests_total{method="GET",route="/v1/calibrations/{name}",status="404"} 1.0' in text
        assert "suffice_gateway_requests_total" in text
    upstream.stop()


@pytest.mark.parametrize("path", ["/v1/../metrics", "/v1/%2e%2e/metrics", "/v1/models/..%2f..%2fmetrics"])
def test_no_address_leads_upwards_at_the_upstream(guarded: Guarded, path: str):
    url = httpx.URL(guarded.running.url)
    with closing(http.client.HTTPConnection(url.host, url.port or 0)) as connection:  # others tidy addresses up
        connection.request("GET", path, headers={"Authorization": f"Bearer {guarded.key().secret}"})
        assert connection.getresponse().status == 400
    assert all(".." not in seen.path and seen.path != "/metrics" for seen in guarded.upstream.seen)


@pytest.mark.parametrize("model", ["tiny", "tiny:optscale"])
@pytest.mark.parametrize("stream", [False, True])
def test_a_budget_of_tokens_is_for_a_day(guarded: Guarded, model: str, stream: bool):
    key, other = guarded.key(tokens_per_day=8), guarded.key()
    options: dict[str, Any] = {"stream_options": {"include_usage": True}} if stream else {}
    answer = guarded.ask(key, model=model, stream=stream, **options)
    assert answer.status_code == 200
    text = answer.text.removesuffix("data: [DONE]\n\n").strip().split("\n")[-1].removeprefix("data: ")
    usage = json.loads(text)["usage"] if not stream or "usage" in text else None
    refused = guarded.ask(key, model=model)
    assert (refused.status_code, refused.json()["error"]["code"]) == (429, "insufficient_quota")
    assert int(refused.headers["retry-after"]) == 86_400, "the test's clock stands at midnight"
    assert guarded.get(key, "/v1/models").status_code == 200, "looking costs nothing"
    assert guarded.ask(other, model=model).status_code == 200
    guarded.spending.close()
    (listed, *_) = guarded.keys.keys()[0]
    assert listed.tokens_today >= 10
    if usage is not None and not stream:
        assert listed.tokens_today == usage["total_tokens"]
    guarded.clock.advance(86_400)
    assert guarded.keys.keys()[0][0].tokens_today == 0


def test_a_new_day_brings_a_new_budget(guarded: Guarded):
    key = guarded.key(tokens_per_day=8)
    assert [guarded.ask(key).status_code for _ in range(2)] == [200, 429]
    guarded.clock.advance(86_400)
    assert [guarded.ask(key).status_code for _ in range(2)] == [200, 429]


def test_a_rate_is_refilled(guarded: Guarded):
    key = guarded.key(requests_per_minute=2)
    assert [guarded.ask(key).status_code for _ in range(3)] == [200, 200, 429]
    refused = guarded.ask(key)
    assert refused.json()["error"]["code"] == "rate_limit_exceeded"
    assert 1 <= int(refused.headers["retry-after"]) <= 30


# --- the parts --------------------------------------------------------------------------------------------------------


class Limited:
    """Two processes that serve the same key on one database."""

    def __init__(self, database: str, per_minute: int) -> None:
        self.clock = Clock()
        self.database = Database(database)
        migrate(self.database)
        store = KeyStore(self.database, self.clock)
        made = store.create(KeyCreate(role="worker", requests_per_minute=per_minute))
        known = store.look_up(made.id)
        assert known is not None
        self.caller = known.caller
        self.processes = [Rates(store, lambda: self.clock.time.timestamp()) for _ in range(2)]

    def take(self, count: int, *processes: int) -> list[int | None]:
        """What so many requests are told, one after another, at these processes in turn."""

        async def run() -> list[int | None]:
            turns = islice(cycle(processes or (0, 1)), count)
            return [await self.processes[process].take(self.caller) for process in turns]

        return asyncio.run(run())


@pytest.fixture
def limited(database: str) -> Generator[Callable[[int], Limited]]:
    with ExitStack() as stack:

        def make(per_minute: int) -> Limited:
            made = Limited(database, per_minute)
            stack.callback(made.database.close)
            return made

        yield make


def test_a_rate_lets_a_minutes_requests_through_and_then_one_at_a_time(limited: Callable[[int], Limited]):
    keys = limited(60)
    assert keys.take(61) == [None] * 60 + [1]
    keys.clock.advance(1)
    assert keys.take(2) == [None, 1]
    keys.clock.advance(1e6)
    assert keys.take(61, 0) == [None] * 60 + [1]
    assert keys.take(1, 1) == [1]  # the other one's requests count


@pytest.mark.parametrize("per_minute", [1, 7, 59, 61, 7001])
def test_a_minutes_requests_are_as_many_as_the_key_says(limited: Callable[[int], Limited], per_minute: int):
    keys = limited(per_minute)  # at the end one process may hold some when the other one has none left
    assert keys.take(per_minute + 500).count(None) == per_minute


def test_processes_take_a_seconds_worth_of_a_rate_at_a_time(
    limited: Callable[[int], Limited], monkeypatch: pytest.MonkeyPatch
):
    grants: list[int] = []
    grant = KeyStore.grant

    def counted(self: KeyStore, key: int, most: int, wanted: int) -> tuple[int, float]:
        grants.append(wanted)
        return grant(self, key, most, wanted)

    monkeypatch.setattr(KeyStore, "grant", counted)
    keys = limited(6000)
    assert keys.take(6000) == [None] * 6000
    assert grants == [100] * 60
    assert keys.take(500) == [1] * 500  # refused without asking the database again
    assert len(grants) == 62
    keys.clock.advance(30)
    assert keys.take(3001).count(None) == 3000


def test_requests_that_come_at_once_are_counted_once(limited: Callable[[int], Limited]):
    keys = limited(10)

    async def run() -> list[int | None]:
        return await asyncio.gather(*(p.take(keys.caller) for p in keys.processes for _ in range(10)))

    assert asyncio.run(run()).count(None) == 10


@pytest.mark.parametrize("jump", [-3600, 3600])
def test_a_clock_that_is_set_costs_a_minute_at_most(limited: Callable[[int], Limited], jump: float):
    keys = limited(2)
    assert keys.take(2) == [None, None]
    keys.clock.advance(jump)
    keys.processes = [Rates(rates._store, lambda: 0.0) for rates in keys.processes]
    assert keys.take(1)[0] in (None, 30)
    keys.clock.advance(60)
    keys.processes = [Rates(rates._store, lambda: 0.0) for rates in keys.processes]
    assert keys.take(1) == [None]


def test_spending_is_known_to_other_processes(tmp_path: Path):
    clock = Clock()
    database = Database(f"sqlite:///{tmp_path / 'a.db'}")
    migrate(database)
    store = KeyStore(database, clock)
    made = store.create(KeyCreate(role="worker", tokens_per_day=100))
    here, there = Spending(store), Spending(store)

    def known() -> Any:
        return store.look_up(made.id)

    first = known()
    here.add(first, 60)
    assert here.spent(first) == 60
    assert here.wait(first) is None
    here.close()
    assert there.spent(known()) == 60
    there.add(known(), 50)
    assert there.spent(first) == 110, "also where what was looked up is old"
    there.close()
    assert known().tokens == 110
    assert Spending(store).wait(known()) == 86_400
    database.close()


@pytest.mark.parametrize(
    ("pieces", "tokens"),
    [
        ([b'{"usage": {"prompt_tokens": 3, "total_tokens": ', b"17}}"], 17),
        ([b'data: {"a": 1}\n\n', b'data: {"b": 2}\n\ndata: [DONE]\n\n'], 3),
        ([b"x" * 200_000, b'{"total_tokens":5}'], 5),
        ([b'{"error": "none"}'], 0),
        ([], 0),
    ],
)
def test_a_meter_reads_usage_and_else_counts_events(pieces: list[bytes], tokens: int):
    meter = Meter()
    for piece in pieces:
        meter.see(piece)
    assert meter.tokens == tokens
