# ---
# jupyter:
#   jupytext:
#     text_representation:
#       extension: .py
#       format_name: percent
#   kernelspec:
#     display_name: Python 3
#     language: python
#     name: python3
# ---

# %% [markdown]
# # How many answers are enough?
#
# A pool of recorded answers is replayed: what would each stopping rule have done, how right would it have been, and
# what would it have cost? Then a verifier's scores come in, through a calibration, and one prompt is looked at answer
# by answer.

# %%
import gzip
import json
import os
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np

import suffice.optimizer
from suffice.optimizer import Enough, Sampling
from suffice.optimizer.calibration import Calibration
from suffice.optimizer.pool import Pool
from suffice.optimizer.replay import replay
from suffice.optimizer.stopping import rule

SMALL = "SUFFICE_NOTEBOOK_SMALL" in os.environ  # how the tests run this notebook
ORDERS = 4 if SMALL else 40
MOST = 16
plt.rcParams["figure.constrained_layout.use"] = True

# %% [markdown]
# ## The pool
#
# It lies in the repository and was made there: a small classifier that answers at random, according to its own
# probabilities, and a verifier that scores the answers. The format is that of your own logs.

# %%
repository = Path(suffice.optimizer.__path__[0]).resolve().parent
pool = Pool.of(json.loads(gzip.decompress((repository / "benchmarks/pools/digits.json.gz").read_bytes())))
print(pool.source)
right = np.array([p.truth.mean() for p in pool.prompts])
print(f"{len(pool.prompts)} prompts, {pool.prompts[0].n} answers each; {right.mean():.0%} of the answers are right")

figure, axis = plt.subplots(figsize=(8, 3))
axis.hist(right, bins=20, color="tab:blue")
axis.set(xlabel="share of right answers to a prompt", ylabel="prompts", title="Some prompts need one answer, some many")
plt.show()

# %% [markdown]
# ## Rules, replayed
#
# Every rule sees the answers in many random orders. The prompts are halved: calibrations are fitted on one half, and
# everything is reported on the other. Each rule is swept over its setting, which draws a curve: accuracy against
# answers.

# %%
order = np.random.default_rng(0).permutation(len(pool.prompts))
tuning = pool.only(np.isin(np.arange(len(order)), order[: len(order) // 2]))
test = pool.only(np.isin(np.arange(len(order)), order[len(order) // 2 :]))
calibration = Calibration.fit(tuning, max_samples=MOST, name="digits")
PRICES = np.geomspace(3e-4, 0.1, 3 if SMALL else 10)

votes = {
    "majority of n": [rule("fixed", samples=n) for n in (1, 2, 4, 8, MOST)],
    "best score of n": [rule("fixed", samples=n, picked="best") for n in (1, 2, 4, 8, MOST)],
    "adaptive consistency": [rule("adaptive_consistency", threshold=t) for t in (0.6, 0.7, 0.8, 0.9, 0.95, 0.99)],
    "suffice, votes only": [rule("suffice", price=float(p)) for p in PRICES],
    "suffice, calibrated": [calibration.rule(float(p)) for p in PRICES],
}
figure, axis = plt.subplots(figsize=(8, 4.5))
table = []
for name, rules in votes.items():
    outcomes = replay(test, rules, MOST, ORDERS)
    samples = [o.samples.mean() for o in outcomes]
    accuracy = [100 * o.accuracy.mean() for o in outcomes]
    axis.plot(samples, accuracy, "o-", label=name)
    table.append((name, samples, accuracy))
axis.set(xscale="log", xlabel="mean answers per prompt", ylabel="accuracy (%)", title="Replayed on the other half")
axis.set_xticks([1, 2, 4, 8, 16], [1, 2, 4, 8, 16])
axis.minorticks_off()
axis.legend()
plt.show()

# %% [markdown]
# What the majority of 16 answers reaches, and with how many answers a rule gets within half a point of it:

# %%
target = table[0][2][-1] - 0.5
for name, samples, accuracy in table:
    enough = [n for n, a in zip(samples, accuracy, strict=True) if a >= target]
    print(f"{name:22} {f'{min(enough):.1f} answers' if enough else 'not reached'}")

# %% [markdown]
# ## One prompt, answer by answer
#
# `Sampling` says how many more answers to draw, and keeps the posterior: P(right) of every answer seen, and P(none is).

# %%
hardest = min(test.prompts, key=lambda p: abs(np.mean(p.truth) - 0.5))
sampling = Sampling(price=0.002, max_samples=MOST)
history = []
step = sampling.ask()
while not isinstance(step, Enough):
    for _ in range(step.count):
        cluster = hardest.clusters[sampling.samples]
        sampling.tell(None if cluster < 0 else str(cluster))  # -1: an answer that could not be read
        history.append((dict(sampling.posterior.answers), sampling.posterior.none))
    step = sampling.ask()

figure, axis = plt.subplots(figsize=(8, 3.5))
number = np.arange(1, len(history) + 1)
answers = list(history[-1][0])
heights = [[known.get(a, 0.0) for known, _ in history] for a in answers] + [[none for _, none in history]]
axis.stackplot(number, heights, labels=[f"answer {a}" for a in answers] + ["none of those seen"], step="mid")
axis.set(xlabel="answers drawn", ylabel="P(right)", ylim=(0, 1), title=f"{step.reason}: {step.message}")
axis.legend(loc="center left", bbox_to_anchor=(1, 0.5))
plt.show()
truth = {str(c): t for c, t in zip(hardest.clusters, hardest.truth, strict=True)}
print(
    f"picked {sampling.pick} after {sampling.samples} answers, which is {'right' if truth[sampling.pick] else 'wrong'}"
)

# %% [markdown]
# ## What to take away
#
# - Replay your own log before choosing a rule or a price: `suffice replay log.json.gz --rules suffice,fixed`.
# - Scores are worth what the calibration finds them to be worth, and no more; without one, votes decide.
# - One price for all prompts puts the answers where they help: few on the easy and on the hopeless ones.
