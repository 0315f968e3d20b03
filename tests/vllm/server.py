"""Run a command beside a real vLLM on this machine's CPU, which is stopped afterwards.

    python tests/vllm/server.py .venv-vllm/bin/python -- pytest tests/vllm

It serves tests/models/tiny-addition as "tiny" on a free loopback port; the command finds it at VLLM_URL, and vLLM's
Python at VLLM_PYTHON. Where it does not start, the end of its log is printed.
"""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path

from suffice.adapters.vllm import ON_CPU, SERVER, NotServing, serving

MODEL = Path(__file__).parents[1] / "models" / "tiny-addition"
SMALL = ("--dtype", "float32", "--enforce-eager", "--max-model-len", "512", "--distributed-executor-backend", "uni")


@contextmanager
def vllm(python: str, *flags: str, model: Path = MODEL, name: str = "tiny") -> Generator[str]:
    """The address of a vLLM that serves ``model`` while the context lasts."""
    where = ("--model", str(model), "--served-model-name", name)
    given = flags or ("--max-num-seqs", "64", "--enable-scale-out")  # by which it lets itself be told to abort
    with serving([python, *SERVER, *SMALL, *where, *given], ON_CPU) as url:
        yield url


def main(argv: list[str]) -> int:
    """Run what stands behind ``--``; its exit code."""
    if len(argv) < 3 or argv[1] != "--":
        sys.exit("usage: server.py VLLM_PYTHON -- COMMAND ...")
    env = os.environ | ON_CPU | {"VLLM_PYTHON": argv[0]}  # for engines of the command's own
    try:
        with vllm(argv[0]) as url:
            return subprocess.run(argv[2:], env=env | {"VLLM_URL": url}).returncode
    except NotServing as error:
        sys.exit(str(error))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
