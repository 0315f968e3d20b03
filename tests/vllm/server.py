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

from suffice.adapters.vllm import NotServing, serving

MODEL = Path(__file__).parents[1] / "models" / "tiny-addition"
CPU = {  # quiet, offline, and small
    "HF_HUB_OFFLINE": "1",
    "TRANSFORMERS_OFFLINE": "1",
    "VLLM_NO_USAGE_STATS": "1",
    "DO_NOT_TRACK": "1",
    "TOKENIZERS_PARALLELISM": "false",
    "OMP_NUM_THREADS": "1",
    "VLLM_CPU_KVCACHE_SPACE": "1",
    "VLLM_CPU_OMP_THREADS_BIND": "nobind",
    "VLLM_ENABLE_V1_MULTIPROCESSING": "0",
}
# `vllm serve` looks for a distribution of the name vllm, which the CPU build is not.
SERVE = ("-m", "vllm.entrypoints.openai.api_server", "--dtype", "float32", "--enforce-eager")
LIMITS = ("--max-model-len", "512", "--distributed-executor-backend", "uni")


@contextmanager
def vllm(python: str, *flags: str, model: Path = MODEL, name: str = "tiny") -> Generator[str]:
    """The address of a vLLM that serves ``model`` while the context lasts."""
    where = ("--model", str(model), "--served-model-name", name)
    with serving([python, *SERVE, *LIMITS, *where, *(flags or ("--max-num-seqs", "64"))], CPU) as url:
        yield url


def main(argv: list[str]) -> int:
    """Run what stands behind ``--``; its exit code."""
    if len(argv) < 3 or argv[1] != "--":
        sys.exit("usage: server.py VLLM_PYTHON -- COMMAND ...")
    env = os.environ | CPU | {"VLLM_PYTHON": argv[0]}  # for engines of the command's own
    try:
        with vllm(argv[0]) as url:
            return subprocess.run(argv[2:], env=env | {"VLLM_URL": url}).returncode
    except NotServing as error:
        sys.exit(str(error))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
