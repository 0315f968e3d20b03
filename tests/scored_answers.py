"""A pool of made-up answers whose verifier is good."""

from __future__ import annotations

from typing import Any

import numpy as np


def document(prompts: int, seed: int, *, separation: float = 0.35, samples: int = 16) -> dict[str, Any]:
    """Prompts whose wrong answers are popular, and a verifier that tells right ones from them."""
    rng = np.random.default_rng(seed)
    entries: list[dict[str, Any]] = []
    for i in range(prompts):
        share = rng.beta(0.8, 1.2)
        taste = {name: float(rng.normal(0.4, 0.1)) for name in "xyz"}
        taste["right"] = float(rng.normal(0.4 + separation, 0.1))
        drawn = []
        for _ in range(samples):
            answer = "right" if rng.random() < share else "xxyz"[int(rng.integers(4))]
            score = float(np.clip(taste[answer] + rng.normal(0.0, 0.03), 0.0, 1.0))
            drawn.append({"answer": answer, "correct": int(answer == "right"), "score": score, "tokens": 10})
        entries.append({"id": f"q{i}", "samples": drawn})
    return {"prompts": entries}
