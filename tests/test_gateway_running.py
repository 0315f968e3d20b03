"""The gateway as people start it: alone, and within the service."""

import signal
import subprocess
import sys
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path

import httpx
import pytest
from live import serving as service
from upstream import PATIENCE, Say, Upstream

from suffice.api.cli import main
from suffice.api.gateway_config import GatewayConfig
from suffice.optimizer import InvalidInput

CONFIG = """
upstreams: [{{url: "{url}"}}]
policies: {{careful: {{rule: early_stopping, settings: {{window: 3}}}}}}
aliases: {{sums: {{model: tiny, policy: careful}}}}
extractors: {{total: 'TOTAL (\\d+)'}}
"""


@contextmanager
def running(upstream: Upstream) -> Generator[str]:
    upstream.start()
    try:
        yield upstream.url
    finally:
        upstream.stop()


@pytest.mark.integration
def test_the_gateway_runs_alone_from_a_file(tmp_path: Path):
    with running(Upstream(default=lambda body: Say("TOTAL 42, says this model"))) as url:
        (tmp_path / "gateway.yaml").write_text(CONFIG.format(url=url))
        command = [sys.executable, "-m", "suffice.api.cli", "gateway", "--port", "0", "--config", "gateway.yaml"]
        with subprocess.Popen(
            command, cwd=tmp_path, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
        ) as process:
            assert process.stdout is not None
            gateway = process.stdout.readline().strip()
            assert process.stdout.readline() == "ready\n"
            body = {"model": "sums", "messages": [], "optscale": {"extract": "total"}}
            answer = httpx.post(f"{gateway}/v1/chat/completions", json=body, timeout=PATIENCE).json()
            process.send_signal(signal.SIGTERM)
            process.communicate(timeout=PATIENCE)
        assert answer["optscale"]["answer"] == "42"
        assert answer["optscale"]["samples"]["counted"] == 3
        assert process.returncode in (0, -signal.SIGTERM)
        assert not list(tmp_path.glob("*.db")), "it keeps no database"


@pytest.mark.integration
def test_the_gateway_runs_within_the_service(tmp_path: Path):
    with running(Upstream()) as url, service(tmp_path, workers=0, upstream=url) as suffice:
        suffice.study("s")
        answer = suffice.call("POST", "/v1/chat/completions", {"model": "tiny:optscale", "messages": []})
        assert answer["choices"][0]["message"]["content"] == "42"
        kept = suffice.call("GET", f"/optscale/v1/decisions/{answer['optscale']['decision_id']}")
        assert kept["answer"] == "42"
        assert suffice.call("GET", "/v1/models")["data"][0]["id"] == "tiny"
        assert "suffice_gateway_requests_total" in suffice.http.get("/metrics").text
        suffice.call("GET", "/v1/studies/s/nothing", status=404)
        suffice.call("PUT", "/v1/studies/s", status=405)
        assert suffice.call("GET", "/healthz")["status"] == "ok"


def test_the_gateway_wants_an_upstream(capsys: pytest.CaptureFixture[str]):
    assert main(["gateway", "--port", "0"]) == 2
    assert "upstream: expected the address of an inference server" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("flags", "field"),
    [
        (["--verifier", "log_probability"], "verifier"),
        (["--config", "gateway.yaml", "--upstream", "http://a"], "upstream"),
        (["--config", "gateway.yaml", "--verifier", "log_probability"], "verifier"),
    ],
)
def test_a_flag_that_would_be_passed_over_is_refused(flags: list[str], field: str, capsys: pytest.CaptureFixture[str]):
    assert main(["gateway", "--port", "0", *flags]) == 2
    assert f"{field}: expected none" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("document", "field"),
    [
        ({"upstreams": []}, "upstreams"),
        ({"upstreams": [{"url": "file:///etc/passwd"}]}, "upstreams.0.url"),
        ({"upstreams": [{"url": "http://a"}], "limit": {}}, "limit"),
        ({"upstreams": [{"url": "http://a"}], "policies": {"p": {"max_samples": 65}}}, "policies.p.max_samples"),
        ({"upstreams": [{"url": "http://a"}], "policies": {"p": {"verifier": "v"}}}, "policies.p.verifier"),
        (
            {"upstreams": [{"url": "http://a"}], "policies": {"p": {"rule": "threshold"}}},
            "policies.p.verifier: .* looks at scores",
        ),
        (
            {"upstreams": [{"url": "http://a"}], "policies": {"p": {"rule": "fixed", "settings": {"picked": "best"}}}},
            "policies.p.verifier: .* looks at scores",
        ),
        (
            {"upstreams": [{"url": "http://a"}], "policies": {"p": {"rule": "fixed", "calibration": "c"}}},
            "policies.p.calibration",
        ),
        ({"upstreams": [{"url": "http://a"}], "aliases": {"a": {"model": "m", "policy": "p"}}}, "aliases.a.policy"),
        ({"upstreams": [{"url": "http://a"}], "extractors": {"e": "("}}, "extractors"),
        ({"upstreams": [{"url": "http://a"}], "verifiers": {"v": {"type": "magic"}}}, "verifiers.v"),
    ],
)
def test_a_wrong_configuration_is_named(document: object, field: str):
    with pytest.raises(InvalidInput, match=field):
        GatewayConfig.of(document)


def test_a_key_that_is_not_there_is_named():
    config = GatewayConfig.of({"upstreams": [{"url": "http://a", "api_key_env": "NO_SUCH_KEY"}]})
    with pytest.raises(InvalidInput, match="NO_SUCH_KEY"):
        _ = config.upstreams[0].api_key


def test_a_file_that_is_not_there_is_named(tmp_path: Path):
    with pytest.raises(InvalidInput, match="a file that can be read"):
        GatewayConfig.read(tmp_path / "none.yaml")
