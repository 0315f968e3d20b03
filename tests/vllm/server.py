"""Run a command beside a real vLLM on this machine's CPU, which is stopped afterwards.

    python tests/vllm/server.py .venv-vllm/bin/python -- pytest tests/vllm

It serves tests/models/tiny-addition as "tiny" on a free loopback port; the command finds it at VLLM_URL. Where it
does not start, the end of its log is printed.
"""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Generator
from contextlib import contextmanager, suppress
from pathlib import Path

MODEL = Path(__file__).parents[1] / "models" / "tiny-addition"
PATIENCE = 600.0  # seconds until it has to answer; 30 to 150 are usual on two cores
QUIET = {
    "HF_HUB_OFFLINE": "1",
    "TRANSFORMERS_OFFLINE": "1",
    "VLLM_NO_USAGE_STATS": "1",
    "DO_NOT_TRACK": "1",
    "TOKENIZERS_PARALLELISM": "false",
}
SMALL = {
    "OMP_NUM_THREADS": "1",
    "VLLM_CPU_KVCACHE_SPACE": "1",
    "VLLM_CPU_OMP_THREADS_BIND": "nobind",
    "VLLM_ENABLE_V1_MULTIPROCESSING": "0",
}
# `vllm serve` looks for a distribution of the name vllm, which the CPU build is not.
SERVE = ("-m", "vllm.entrypoints.openai.api_server", "--host", "127.0.0.1", "--dtype", "float32", "--enforce-eager")
LIMITS = ("--max-model-len", "512", "--max-num-seqs", "64", "--distributed-executor-backend", "uni")


@contextmanager
def vllm(python: str, model: Path = MODEL, name: str = "tiny", *flags: str) -> Generator[str]:
    """The address of a vLLM that serves ``model`` while the context lasts."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    where = ("--port", str(port), "--model", str(model), "--served-model-name", name)
    with tempfile.TemporaryDirectory() as folder, (Path(folder) / "vllm.log").open("w+") as log:
        process = subprocess.Popen(
            [python, *SERVE, *LIMITS, *where, *flags],
            env=os.environ | QUIET | SMALL,
            stdout=log,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
        try:
            url = f"http://127.0.0.1:{port}"
            if not _answers(url, process):
                log.seek(0)
                sys.exit(f"vLLM did not start:\n{log.read()[-4000:]}")
            yield url
        finally:
            _end(process)


def _answers(url: str, process: subprocess.Popen[bytes]) -> bool:
    """Whether it came up."""
    patience = time.monotonic() + PATIENCE
    while process.poll() is None and time.monotonic() < patience:
        try:
            with urllib.request.urlopen(f"{url}/health", timeout=2) as answer:
                return bool(answer.status == 200)
        except OSError:
            time.sleep(0.5)
    return False


def _end(process: subprocess.Popen[bytes]) -> None:
    """Stop it and all that it started."""
    process.terminate()
    with suppress(subprocess.TimeoutExpired):
        process.wait(20)
    with suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()


def main(argv: list[str]) -> int:
    """Run what stands behind ``--``; its exit code."""
    if len(argv) < 3 or argv[1] != "--":
        sys.exit("usage: server.py VLLM_PYTHON -- COMMAND ...")
    with vllm(argv[0]) as url:
        return subprocess.run(argv[2:], env=os.environ | {"VLLM_URL": url}).returncode


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
