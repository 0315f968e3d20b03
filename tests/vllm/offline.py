"""Sums answered by vLLM without a server, as many draws for each as it takes; run by vLLM's own Python, prints JSON.

python tests/vllm/offline.py tests/models/tiny-addition 20
"""

import json
import random
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[2] / "src"))  # vLLM's environment does not have Suffice

from suffice.adapters.vllm import sample_batch
from suffice.optimizer import Sampling


def read(text: str) -> str | None:
    """The last number of "37+85=122;+12=134;"."""
    number = text.rstrip(";").rpartition("=")[2]
    return number if number.isdigit() else None


def main(model: str, count: int) -> None:
    """Answer, and write a row per question."""
    from vllm import LLM, SamplingParams  # type: ignore[import-not-found]

    rng = random.Random(0)
    sums = [[rng.randint(10, 99) for _ in range(rng.randint(2, 6))] for _ in range(count)]
    engine = LLM(model, dtype="float32", enforce_eager=True, max_model_len=512, max_num_seqs=64)
    found = sample_batch(
        engine,
        ["<s>" + "+".join(map(str, numbers)) + "=?\n" for numbers in sums],  # as the chat template writes it
        lambda: Sampling(max_samples=16, price=0.01),
        SamplingParams(max_tokens=128, seed=0),
        read,
    )
    rows = [
        {"right": one.answer == str(sum(numbers)), "draws": len(one.texts), "tokens": one.tokens, "text": one.text}
        for one, numbers in zip(found, sums, strict=True)
    ]
    sys.stdout.write(json.dumps(rows) + "\n")


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]))
