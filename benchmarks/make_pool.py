"""`python -m benchmarks.make_pool`: a small pool of our own, so that a fresh clone has something to replay.

Real disagreement on a small scale: a classifier of handwritten digits reads each image 32 times, each time with most of
its pixels hidden and the answer drawn from its probabilities. The verifier is a weaker classifier that sees the whole
image and gives its probability of the answer; tokens are the pixels that were looked at. A reading with too few pixels
left is a failure.
"""

from __future__ import annotations

import gzip
import json
from pathlib import Path
from typing import Any

import numpy as np

POOL = Path(__file__).parent / "pools" / "digits.json.gz"
PROMPTS, SAMPLES = 120, 32


def make(seed: int = 0) -> dict[str, Any]:
    """The pool as a document."""
    from sklearn.datasets import load_digits
    from sklearn.linear_model import LogisticRegression
    from sklearn.naive_bayes import GaussianNB

    rng = np.random.default_rng(seed)
    images, labels = load_digits(return_X_y=True)
    order = rng.permutation(len(images))
    test, train = order[:PROMPTS], order[PROMPTS:]
    noisy = images[train] * (rng.random(images[train].shape) < 0.5)
    reader = LogisticRegression(max_iter=400).fit(noisy / 16.0, labels[train])
    verifier = GaussianNB(var_smoothing=0.1).fit(images[train][:, ::2], labels[train])
    prompts = [_prompt(i, images[i], int(labels[i]), reader, verifier, rng) for i in test]
    note = "digits read 32 times through hidden pixels; score = a weak verifier's probability of the answer"
    return {"source": "made by benchmarks/make_pool.py", "licence": "Apache-2.0", "note": note, "prompts": prompts}


def _prompt(
    i: int, image: np.ndarray, label: int, reader: Any, verifier: Any, rng: np.random.Generator
) -> dict[str, Any]:
    trust = verifier.predict_proba(image[None, ::2])[0]
    samples = []
    for _ in range(SAMPLES):
        seen = rng.random(image.shape) < rng.uniform(0.1, 0.6)
        p = reader.predict_proba((image * seen)[None] / 16.0)[0]
        answer = None if seen.sum() < 8 else str(rng.choice(10, p=p))
        score = None if answer is None else round(float(trust[int(answer)]), 4)
        samples.append(
            {"answer": answer, "correct": int(answer == str(label)), "score": score, "tokens": int(seen.sum())}
        )
    return {"id": f"digit {i}", "samples": samples}


if __name__ == "__main__":
    POOL.write_bytes(gzip.compress(json.dumps(make()).encode(), mtime=0))
    print(f"{POOL}: {POOL.stat().st_size} bytes")
