"""What operators rely on: metrics, logs, traces, a drain, settings from a file, exports that come back whole."""

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import threading
from pathlib import Path

import httpx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from live import BRANIN, PATIENCE, Bench, Process, measured, serving, token
from opentelemetry import trace
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from prometheus_client.parser import text_string_to_metric_families

from suffice.api.app import create_app
from suffice.api.server import Server
from suffice.api.settings import Settings, unknown_variables
from suffice.api.wire import Report, StudyExport, TrialAdd
from suffice.optimizer import InvalidInput

DOCS = Path(__file__).parents[1] / "docs"


def readings(text: str) -> dict[str, float]:
    """Prometheus' text as {name{labels}: value}."""
    found: dict[str, float] = {}
    for family in text_string_to_metric_families(text):
        for sample in family.samples:
            labels = ",".join(f"{key}={value}" for key, value in sorted(sample.labels.items()))
            found[f"{sample.name}{{{labels}}}" if labels else sample.name] = sample.value
    return found


def test_metrics_count_what_happens(tmp_path: Path):
    with serving(tmp_path) as service:
        service.study("beside")
        study = service.study("counted", lease_seconds=10)
        trials = service.ask(study, 4)
        for value, trial in enumerate(trials[:3]):
            service.tell(study, trial, float(value))
        service.tell(study, trials[0], 0.0)  # again: no news
        service.clock.advance(11)
        for _ in range(6):
            (trial,) = service.ask(study, fresh=True)
            service.tell(study, trial, 1.0)
        service.call("PATCH", study, {"state": "STOPPED"})
        service.stopped(study)
        answer = service.http.get("/metrics")
        assert answer.headers["content-type"].startswith("text/plain; version=0.0.4")
        found = readings(answer.text)
    asked = sum(value for name, value in found.items() if name.startswith("suffice_asks_total"))
    assert asked == 10  # four, and six more, one of which had been handed out before
    assert found["suffice_tells_total{state=COMPLETED}"] == 9
    assert found["suffice_stops_total{reason=stopped by the user}"] == 1
    assert found["suffice_lease_expiries_total"] == 1
    assert found["suffice_studies"] == 2
    assert found["suffice_suggestions_ready"] > 0
    assert found["suffice_engine_workers"] == 1
    assert found["suffice_engine_restarts_total"] == 0
    assert found["suffice_engine_job_seconds_count{kind=refresh}"] >= 6
    assert found["suffice_engine_fit_seconds_sum"] > 0
    assert found["suffice_engine_acquisition_seconds_sum"] > 0
    told = "suffice_requests_total{method=POST,route=/v1/studies/{name}/trials/{number}/tell,status=200}"
    assert found[told] == 10
    assert found["suffice_request_seconds_count{route=/v1/studies/{name}/ask}"] == 8
    assert not [name for name in found if "counted" in name], "no label comes from a user"
    text = (DOCS / "operations.md").read_text()
    names = {re.sub(r"_(total|bucket|sum|count)$", "", re.sub(r"\{.*", "", name)) for name in found}
    assert not [name for name in sorted(names) if f"`{name.removeprefix('suffice')}" not in text]


def test_metrics_have_no_name_that_a_request_made_up(tmp_path: Path):
    with serving(tmp_path, workers=0) as service:
        for i in range(20):
            service.http.request("PROPFIND" if i % 2 else "GET", f"/v1/nothing/{i}")
        found = readings(service.http.get("/metrics").text)
        assert sum("suffice_requests_total" in name for name in found) <= 3


@pytest.mark.integration
def test_logs_are_json_and_say_what_they_are_about(tmp_path: Path):
    database = f"sqlite:///{tmp_path / 'suffice.db'}"
    command = [sys.executable, "-m", "suffice.api.cli", "serve", "--port", "0", "--database", database]
    flags = ["--workers", "0", "--log-format", "json", "--log-requests"]
    process = subprocess.Popen([*command, *flags], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    assert process.stdout is not None
    try:
        url = process.stdout.readline().strip()
        process.stdout.readline()
        with httpx.Client(base_url=url) as http:
            http.post("/v1/studies", json={"name": "logged", **BRANIN})
            http.post("/v1/studies/logged/trials", json={"trials": [{"parameters": {"x1": 1, "x2": 2}}] * 2})
            http.post("/v1/studies/logged/ask", json={"count": 2})
            answer = http.get("/v1/studies/logged/trials/1", headers={"x-request-id": "mine-1"})
            assert answer.headers["x-request-id"] == "mine-1"
            forged = http.get("/v1/studies", headers={"x-request-id": 'a"b'})
            assert re.fullmatch(r"[0-9a-f]{16}", forged.headers["x-request-id"])
    finally:
        process.send_signal(signal.SIGTERM)
        _, err = process.communicate(timeout=PATIENCE)
    lines = [json.loads(line) for line in err.splitlines()]
    requests = [line for line in lines if line["logger"] == "suffice.requests"]
    assert [line["status"] for line in requests] == [201, 201, 201, 200, 200]
    assert all(line["time"].endswith("+00:00") and line["level"] == "info" for line in requests)
    assert requests[2]["trials"] == [0, 1]
    wanted = {"request_id": "mine-1", "route": "/v1/studies/{name}/trials/{number}", "study": "logged", "trial": "1"}
    assert requests[3] | wanted == requests[3]
    assert requests[3]["milliseconds"] > 0


def test_what_goes_wrong_is_logged_with_the_requests_id(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    with serving(tmp_path, workers=0) as service:
        monkeypatch.setattr(type(service.parts.store), "studies", lambda *_: 1 / 0)
        answer = service.http.get("/v1/studies")
        assert answer.status_code == 500
        assert re.search(r"request id [0-9a-f]{16}$", answer.json()["detail"])
        found = readings(httpx.get(f"{service.url}/metrics").text)  # uvicorn closes the connection
        assert found["suffice_requests_total{method=GET,route=/v1/studies,status=500}"] == 1


def test_requests_and_jobs_are_traced_where_that_is_wanted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("OTEL_TRACES_EXPORTER", "none")
    spans = InMemorySpanExporter()
    provider = TracerProvider()
    provider.add_span_processor(SimpleSpanProcessor(spans))
    trace.set_tracer_provider(provider)
    parent = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
    with serving(tmp_path, traces=True) as service:
        study = service.study("traced")
        service.ask(study)
        service.http.get(f"{study}/trials/0", headers={"traceparent": parent, "x-request-id": "mine"})
        service.http.get("/healthz")
    found = {span.name: span for span in spans.get_finished_spans()}
    read = found["GET /v1/studies/{name}/trials/{number}"]
    assert read.attributes is not None
    about = {name: read.attributes[f"suffice.{name}"] for name in ("study", "trial", "request_id")}
    assert about == {"study": "traced", "trial": "0", "request_id": "mine"}
    assert read.context is not None
    assert f"{read.context.trace_id:032x}" == parent.split("-")[1]
    asked = found["POST /v1/studies/{name}/ask"].attributes
    assert asked is not None
    assert asked["suffice.trials"] == (0,)
    job = found["engine refresh"].attributes
    assert job is not None
    assert isinstance(job["suffice.acquisition_seconds"], float)
    assert not [name for name in found if "healthz" in name]


# --- ending -----------------------------------------------------------------------------------------------------------


def test_a_drain_says_so_and_goes_on_answering(tmp_path: Path):
    wanted = Settings(database=f"sqlite:///{tmp_path / 'a.db'}", workers=0, drain_seconds=PATIENCE)
    ready = threading.Event()
    server = Server(create_app(wanted), ready.set, wanted)
    server.config.port = 0
    thread = threading.Thread(target=server.run)
    thread.start()
    assert ready.wait(PATIENCE)
    url = f"http://127.0.0.1:{server.servers[0].sockets[0].getsockname()[1]}"
    with httpx.Client(base_url=url, timeout=PATIENCE) as http:
        assert http.get("/readyz").status_code == 200
        server.should_exit = True
        while http.get("/readyz").status_code == 200:
            pass
        assert http.get("/readyz").json()["status"] == "stopping"
        assert http.get("/healthz").status_code == 200
        assert http.post("/v1/studies", json={"name": "late", **BRANIN}).status_code == 201
    server.force_exit = True  # as a second signal would
    thread.join(PATIENCE)
    assert not thread.is_alive()


@pytest.mark.integration
def test_sigterm_ends_it_without_an_error(tmp_path: Path):
    with Process(tmp_path, "--workers", "0", "--drain-seconds", "0.1", "--log-format", "json") as process:
        process.call("GET", "/readyz")
        assert process.end() == -signal.SIGTERM  # uvicorn ends by the signal that it was given, once all is done


# --- settings ---------------------------------------------------------------------------------------------------------


def test_flags_win_over_the_environment_and_that_over_the_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    file = tmp_path / "suffice.toml"
    file.write_text('port = 1\nworkers = 2\nlog_level = "error"\nopen_metrics = true\n')
    monkeypatch.setenv("SUFFICE_WORKERS", "3")
    monkeypatch.setenv("SUFFICE_LOG_LEVEL", "debug")
    found = Settings.read(file, log_level="info")
    assert (found.port, found.workers, found.log_level, found.open_metrics) == (1, 3, "info", True)
    assert Settings.read(None, port=5).port == 5


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("port = ", "settings: expected TOML"),
        ("prot = 1", "prot: expected no such field, got 1"),
        ("port = -1", "port: expected greater than or equal to 0, got -1"),
        (None, "can be read"),
    ],
)
def test_a_wrong_file_of_settings_is_refused(tmp_path: Path, text: str | None, message: str):
    file = tmp_path / "suffice.toml"
    if text is not None:
        file.write_text(text)
    with pytest.raises(InvalidInput, match=message):
        Settings.read(file)


def test_variables_that_are_no_settings_are_named(monkeypatch: pytest.MonkeyPatch):
    for name in ("SUFFICE_WORKRES", "SUFFICE_URL", "SUFFICE_SETTINGS", "SUFFICE_PORT"):
        monkeypatch.setenv(name, "1")
    assert unknown_variables() == ["SUFFICE_WORKRES"]


# --- export and import ------------------------------------------------------------------------------------------------

values = st.floats(-1e6, 1e6)


@settings(max_examples=15)
@given(data=st.data())
def test_an_export_comes_back_as_it_was(tmp_path_factory: pytest.TempPathFactory, data: st.DataObject):
    bench = Bench(tmp_path_factory.mktemp("export"), metadata={"a": [1, None, {"b": "ü"}]}, max_retries=2)
    leases, store = bench.leases, bench.store
    for _ in range(data.draw(st.integers(0, 8))):
        match data.draw(st.sampled_from(["tell", "fail", "cancel", "hold", "report", "queue", "add"])):
            case "queue":
                store.add(bench.id, [TrialAdd(parameters={"x": 0.25})])
            case "add":
                store.add(bench.id, [TrialAdd(parameters={"x": 0.5}, measurements=[measured(data.draw(values))])])
            case kind:
                trial = bench.take()
                if kind == "tell":
                    bench.tell(trial, data.draw(values))
                elif kind == "fail":
                    leases.fail(bench.id, trial.number, token(trial), "no disk", data.draw(st.booleans()))
                elif kind == "cancel":
                    leases.cancel(bench.id, trial.number, "enough")
                elif kind == "report":
                    reported = Report(lease_token=token(trial), measurements=[measured(data.draw(values), 3)])
                    leases.report(bench.id, trial.number, reported)
    before = store.export(bench.id)
    document = StudyExport.model_validate_json(before.model_dump_json(exclude_none=True))
    renamed = document.model_copy(update={"study": document.study.model_copy(update={"name": "again"})})
    made, _ = store.restore(renamed)
    after = store.export(made)
    assert after.study.model_dump(exclude=CHANGES) == before.study.model_dump(exclude=CHANGES)
    for old, new in zip(before.trials, after.trials, strict=True):
        if old.state == "RUNNING":  # nobody holds it there
            assert new.state == "WAITING"
            old = old.model_copy(update={"state": "WAITING"})
        assert new == old
    bench.database.close()


CHANGES = {"name", "updated_at", "data_version", "trials"}  # its own, and what follows from open trials


# --- what is deployed -------------------------------------------------------------------------------------------------


def test_deployment_files_agree_with_the_command_line():
    yaml = pytest.importorskip("yaml")
    root = DOCS.parent
    compose = yaml.safe_load((root / "compose.yaml").read_text())
    docker = (root / "Dockerfile").read_text()
    unit = (DOCS / "deploy" / "suffice.service").read_text()
    names = {f"SUFFICE_{name.upper()}" for name in Settings.model_fields} | {"SUFFICE_SETTINGS"}
    texts = [docker, unit, json.dumps(compose)]
    assert {name for text in texts for name in re.findall(r"SUFFICE_[A-Z_]+", text)} <= names
    assert re.search(r"^USER (?!root|0)", docker, re.MULTILINE), "not as root"
    assert "HEALTHCHECK" in docker
    assert set(compose["services"]) >= {"suffice"}
    assert "suffice serve" in unit
    for line in unit.splitlines():
        assert not line.strip() or re.match(r"\[(Unit|Service|Install)\]$|[A-Z][A-Za-z]+=|#", line), line
    assert os.access(root / "Dockerfile", os.R_OK)


def program(name: str) -> str:
    """A program of this environment or of the system; without it the test is skipped."""
    found = shutil.which(name, path=f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}")
    return found or pytest.skip(f"{name} is not installed")


def test_the_compose_file_follows_the_specification():
    check = [program("check-jsonschema"), "--builtin-schema", "vendor.compose-spec"]
    assert said([*check, DOCS.parent / "compose.yaml"]) == "ok -- validation done"


def test_the_dockerfile_passes_its_linter():
    assert said([program("hadolint"), DOCS.parent / "Dockerfile"]) == ""


def test_systemd_understands_the_unit(tmp_path: Path):
    unit = tmp_path / "suffice.service"
    text = (DOCS / "deploy" / "suffice.service").read_text()
    unit.write_text(text.replace("/opt/suffice/bin/suffice", sys.executable))  # which is there
    assert said([program("systemd-analyze"), "verify", "--man=no", unit]) == ""


def said(command: list[str | Path]) -> str:
    """What a checker says, which must find nothing wrong."""
    done = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False)
    assert done.returncode == 0, done.stdout
    return done.stdout.strip()
