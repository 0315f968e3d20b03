"""The command line against the real service: what it prints for people and for programs, and its exit codes."""

import json
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from serving import PATIENCE, Server

from suffice.api import calls
from suffice.api.cli import EXIT_CODES, SERVE_FLAGS, STOPPED, main
from suffice.api.commands import COMMANDS
from suffice.api.settings import Settings

DEFINITION = {
    "name": "s",
    "parameters": [
        {"name": "x", "type": "float", "low": 0, "high": 10},
        {"name": "kind", "type": "categorical", "choices": ["1", "b"]},
        {"name": "deep", "type": "bool", "active_if": "kind == 'b'"},
    ],
    "objectives": [{"metric": "loss"}],
    "seed": 1,
}

Run = Callable[..., tuple[int, str, str]]


@pytest.fixture
def server(tmp_path: Path) -> Iterator[Server]:
    with Server(tmp_path) as server:
        yield server


@pytest.fixture
def suffice(server: Server, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Run:
    """Run a command; returns its exit code, stdout and stderr."""
    monkeypatch.setenv("SUFFICE_URL", server.url)

    def run(*words: Any) -> tuple[int, str, str]:
        code = main([str(word) for word in words])
        return code, *capsys.readouterr()

    return run


@pytest.fixture
def study(suffice: Run, tmp_path: Path) -> str:
    path = tmp_path / "s.json"
    path.write_text(json.dumps(DEFINITION))
    assert suffice("create", path)[0] == 0
    return "s"


def answered(run: tuple[int, str, str]) -> Any:
    code, out, err = run
    assert code == 0, err
    return json.loads(out)


def test_a_trial_from_the_queue_to_the_best(suffice: Run, study: str):
    assert answered(suffice("enqueue", study, "x=2", "kind=1", "--json"))["parameters"] == {"x": 2.0, "kind": "1"}
    (trial,) = answered(suffice("ask", study, "--json", "--worker", "me"))
    assert (trial["state"], trial["worker"]) == ("RUNNING", "me")
    lease = ("--lease", trial["lease"]["token"])
    assert answered(suffice("report", study, 0, 9, "--step", 1, *lease, "--json"))["measurements"][0]["step"] == 1
    assert answered(suffice("heartbeat", study, 0, *lease, "--json"))["state"] == "RUNNING"
    told = answered(suffice("--json", "tell", study, 0, "loss=4", "--stderr", 0.5, *lease))
    assert told["state"] == "COMPLETED"
    (_, _, code_of_stop) = suffice("stop", study)
    assert suffice("ask", study)[0] == STOPPED, code_of_stop
    assert answered(suffice("resume", study, "--json"))["state"] == "ACTIVE"


def test_trials_fail_are_infeasible_cancelled_and_added(suffice: Run, study: str):
    for x in range(3):
        suffice("enqueue", study, f"x={x}", "kind=b", "deep=true")
    first, second, _ = answered(suffice("ask", study, "-n", 3, "--json"))
    suffice("fail", study, 0, "--reason", "oh", "--no-retry", "--lease", first["lease"]["token"])
    suffice("tell", study, 1, "--infeasible", "too big", "--lease", second["lease"]["token"])
    suffice("cancel", study, 2)
    suffice("add", study, "x=5", "kind=1", "--result", 25)
    code, out, _ = suffice("trials", study)
    assert code == 0
    assert [line.split("\t")[:2] for line in out.splitlines()] == [
        ["trial", "state"],
        ["0", "FAILED"],
        ["1", "INFEASIBLE"],
        ["2", "CANCELLED"],
        ["3", "COMPLETED"],
    ]
    assert [t["number"] for t in answered(suffice("trials", study, "--state", "COMPLETED", "--json"))] == [3]


def test_an_ask_says_how_to_tell(suffice: Run, study: str):
    suffice("enqueue", study, "x=2", "kind=1")
    _, out, _ = suffice("ask", study)
    words = out.splitlines()[-1].split()
    assert words[:4] == ["suffice", "tell", "s", "0"]
    code, _, err = suffice(*(word.replace("VALUE", "3.5") for word in words[1:]))
    assert code == 0, err


def test_a_dash_does_not_make_a_flag_of_a_token_or_a_number(suffice: Run, study: str):
    suffice("enqueue", study, "x=2", "kind=1")
    suffice("ask", study)
    code, _, err = suffice("tell", study, 0, 1, "--lease", "-none")
    assert (code, "lease" in err) == (4, True)
    suffice("enqueue", study, "x=3", "kind=1")
    assert answered(suffice("tell", study, 1, "-1e-3", "--json"))["measurements"][0]["value"] == -0.001


def test_definitions_come_in_json_toml_and_yaml(suffice: Run, tmp_path: Path):
    (tmp_path / "s.toml").write_text('name = "t"\n[parameters.x]\ntype = "float"\nlow = 0\nhigh = 1\n')
    (tmp_path / "s.yaml").write_text("name: y\nparameters:\n  x: {type: float, low: 0, high: 1}\n")
    for file in ("s.toml", "s.yaml"):
        assert answered(suffice("create", tmp_path / file, "--json"))["parameters"][0]["name"] == "x"
    assert suffice("create", tmp_path / "s.toml", "--exist-ok")[0] == 0
    assert suffice("create", tmp_path / "s.toml", "--name", "u")[0] == 0
    assert [s["name"] for s in answered(suffice("studies", "--json"))] == ["t", "u", "y"]


def test_a_study_is_shown_exported_imported_and_deleted(suffice: Run, study: str, tmp_path: Path):
    suffice("add", study, "x=5", "kind=1", "--result", 25)
    _, out, _ = suffice("show", study)
    assert "parameter deep\tbool if kind == 'b'" in out
    document = tmp_path / "export.json"
    assert suffice("export", study, "-o", document)[0] == 0
    assert answered(suffice("export", study)) == json.loads(document.read_text())
    assert answered(suffice("import", document, "--name", "copy", "--json"))["trials"] == {"COMPLETED": 1}
    assert suffice("delete", "copy")[0] == 2
    assert suffice("delete", "copy", "--yes")[0] == 0
    assert suffice("show", "copy")[0] == 3


def test_a_terminal_gets_a_table(suffice: Run, study: str, monkeypatch: pytest.MonkeyPatch):
    suffice("add", study, "x=5", "kind=1", "--result", 25)
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True, raising=False)
    monkeypatch.setenv("COLUMNS", "100")
    code, out, _ = suffice("trials", study)
    assert code == 0
    assert "\t" not in out
    assert [word for word in ("trial", "state", "loss") if word not in out.splitlines()[0]] == []


@pytest.mark.parametrize(
    ("words", "code", "says"),
    [
        (("create", "missing.json"), 2, "missing.json"),
        (("show", "none"), 3, "none"),
        (("enqueue", "s", "x=11", "kind=1"), 2, "parameters.x: expected"),
        (("enqueue", "s", "x"), 2, "NAME=VALUE"),
        (("tell", "s", 0), 2, "--infeasible"),
        (("tell", "s", 99, 1), 3, "99"),
        (("create", "s.json"), 4, "s"),
    ],
)
def test_errors_go_to_stderr_with_an_exit_code(
    suffice: Run,
    study: str,
    words: tuple[Any, ...],
    code: int,
    says: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
):
    monkeypatch.chdir(tmp_path)
    suffice("enqueue", study, "x=1", "kind=1")
    found, out, err = suffice(*words)
    assert (found, out) == (code, "")
    assert err.startswith("suffice: ")
    assert says in err


def test_no_service_is_soon_said(suffice: Run, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(time, "sleep", lambda _: None)
    code, _, err = suffice("studies", "--url", "http://127.0.0.1:9")
    assert code == 5
    assert "Is the service running?" in err
    assert calls.BEFORE_THE_FIRST_ANSWER == 2


def test_usage_errors_are_one_line(capsys: pytest.CaptureFixture[str]):
    with pytest.raises(SystemExit) as exit_:
        main(["tell", "s"])
    assert exit_.value.code == 2
    assert capsys.readouterr().err.count("\n") == 1


def test_every_setting_is_a_flag_of_serve():
    assert set(SERVE_FLAGS) == set(Settings.model_fields)


def test_every_command_and_exit_code_is_documented():
    text = (Path(__file__).parents[1] / "docs" / "cli.md").read_text()
    assert not [name for name in ("serve", "events", "version", *COMMANDS) if f"`suffice {name}" not in text]
    assert not [flag for flag in SERVE_FLAGS if f"`--{flag.replace('_', '-')}`" not in text]
    assert not [code for code in {0, 1, STOPPED, *EXIT_CODES.values()} if f"| {code} |" not in text]


def test_help_imports_nothing_heavy():
    code = (
        "import sys\nfrom suffice.api.cli import main\ntry: main(['--help'])\nexcept SystemExit: pass\n"
        "print(sorted({'httpx', 'pydantic', 'rich', 'torch', 'fastapi', 'numpy'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "[]"


@pytest.mark.integration
def test_output_can_be_cut_off(server: Server, suffice: Run, study: str):
    for x in range(10):
        suffice("add", study, f"x={x}", "kind=1", "--result", x)
    command = f"{sys.executable} -m suffice.api.cli trials s --json --url {server.url} | head -c 10"
    done = subprocess.run(["bash", "-c", command], capture_output=True, text=True, check=True)
    assert len(done.stdout) == 10
    assert done.stderr == ""


@pytest.mark.integration
def test_what_the_model_says(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    (tmp_path / "s.toml").write_text('name = "s"\nseed = 0\n[parameters.x]\ntype = "float"\nlow = 0\nhigh = 10\n')
    with Server(tmp_path, workers=1) as server:

        def run(*words: Any) -> Any:
            assert main([*map(str, words), "--url", server.url, "--json"]) == 0
            return json.loads(capsys.readouterr().out)

        run("create", tmp_path / "s.toml")
        for x in range(10):
            run("add", "s", f"x={x}", "--result", (x - 3) ** 2)
        assert run("best", "s")["trial"]["number"] == 3
        assert abs(run("predict", "s", "x=3")["predictions"][0]["mean"]) < 1
        assert run("advice", "s")["gain"] >= 0
        assert run("pareto", "s")["trials"][0]["trial"]["number"] == 3
        (trial,) = run("ask", "s", "--fresh")
        assert trial["source"]["observations"] == 10
        token = trial["lease"]["token"]
        run("tell", "s", trial["number"], 1, "--gradient", "x=2", "--lease", token)
        assert run("trials", "s")[-1]["measurements"][0]["gradient"] == {"x": 2}
        assert [i["parameter"] for i in run("diagnostics", "s")["importance"]] == ["x"]


def test_a_context_is_given_by_name(suffice: Run, tmp_path: Path):
    site = '[parameters.site]\ntype = "categorical"\nchoices = ["north", "south"]\n'
    definition = f'name = "c"\ncontext = ["site"]\n[parameters.x]\ntype = "float"\nlow = 0\nhigh = 10\n{site}'
    (tmp_path / "c.toml").write_text(definition)
    assert suffice("create", tmp_path / "c.toml")[0] == 0
    suffice("enqueue", "c", "x=1", "site=south")
    suffice("enqueue", "c", "x=2", "site=north")
    (asked,) = answered(suffice("ask", "c", "--context", "site=north", "--json"))
    assert asked["parameters"] == {"x": 2, "site": "north"}
    assert "context.site" in suffice("ask", "c")[2]
    assert 'context\t["site"]' in suffice("show", "c")[1]


@pytest.mark.integration
def test_serve_prints_its_address_and_ends_when_told(tmp_path: Path):
    command = [sys.executable, "-m", "suffice.api.cli", "serve", "--port", "0", "--workers", "0"]
    command += ["--database", f"sqlite:///{tmp_path}/s.db"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        url = process.stdout.readline().strip()
        assert process.stdout.readline() == "ready\n"
        assert httpx.get(f"{url}/healthz").json()["status"] == "ok"
        process.send_signal(signal.SIGTERM)
        _, errors = process.communicate(timeout=PATIENCE)
    assert process.returncode == -signal.SIGTERM, errors  # to a shell: 143


@pytest.mark.integration
@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("--port", "99999"), "port: expected less than or equal to 65535, got 99999"),
        (("--log-level", "loud"), "log_level: expected 'critical', 'error', 'warning', 'info' or 'debug', got 'loud'"),
        (("--database", "sqlite:////nowhere/a.db"), "database: expected a file in a folder that is there"),
    ],
)
def test_serve_refuses_wrong_settings_by_name(words: tuple[str, ...], said: str, capsys: pytest.CaptureFixture[str]):
    assert main(["serve", *words]) == 2
    assert said in capsys.readouterr().err


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("projects", "create", ""), "name: expected text of the pattern"),
        (("projects", "create", "a/b"), "name: expected text of the pattern"),
        (("keys", "list", "--database", "sqlite:///none.db"), "database: expected a database file that is there"),
        (("keys", "create", "--role", "worker", "--days", "0"), "days: expected greater than 0, got 0.0"),
        (("backup", "nowhere/a.db"), "file: expected a file in a folder that is there, got 'nowhere/a.db'"),
        (("backup", "a.db", "--database", "garbage"), "database: expected sqlite:///FILE or postgresql"),
        (("restore", "here.db", "--database", "sqlite:///nowhere/a.db"), "database: expected a file in a folder"),
    ],
)
def test_what_is_done_with_the_database_names_what_is_wrong(
    words: tuple[str, ...],
    said: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("SUFFICE_DATABASE", "sqlite:///here.db")
    assert main(["projects", "create", "first"]) == 0
    assert main(list(words)) == 2
    assert said in capsys.readouterr().err
    assert {file.name.partition("-")[0] for file in tmp_path.iterdir()} == {"here.db"}
