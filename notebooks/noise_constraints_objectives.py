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
# # Noise, constraints, several objectives
#
# Three things that real measurements bring. A forest of randomised trees on scikit-learn's digits: its measured error
# is noisy, its size is bounded, and at last error and size are traded off.

# %%
import os

os.environ["OMP_NUM_THREADS"] = "1"

import matplotlib.pyplot as plt
import numpy as np
from sklearn.datasets import load_digits
from sklearn.ensemble import ExtraTreesClassifier
from sklearn.model_selection import train_test_split

from suffice.optimizer import Budget, Float, Int, Objective, Space, Stop, Study

SMALL = "SUFFICE_NOTEBOOK_SMALL" in os.environ  # how the tests run this notebook
TRIALS, SPLITS = (8, 3) if SMALL else (30, 40)
plt.rcParams["figure.constrained_layout.use"] = True
images, labels = load_digits(return_X_y=True)
rng = np.random.default_rng(0)


def grow(params):
    """Error on 250 held-out images, and the number of leaves, of a forest grown on 500 others: chosen anew."""
    split = train_test_split(images, labels, train_size=500, test_size=250, random_state=int(rng.integers(2**31)))
    X, X_test, y, y_test = split
    forest = ExtraTreesClassifier(
        params["trees"], max_leaf_nodes=params["leaves"], max_features=params["features"], random_state=0
    ).fit(X, y)
    return 1 - forest.score(X_test, y_test), sum(tree.get_n_leaves() for tree in forest.estimators_)


def true_error(params):
    """Nearly the truth: the mean over many splits."""
    return np.mean([grow(params)[0] for _ in range(SPLITS)])


space = Space(trees=Int(1, 60, log=True), leaves=Int(4, 256, log=True), features=Float(0.02, 1, log=True))

# %% [markdown]
# ## Noise
#
# One split gives another error every time. `noise="auto"`, the default, finds out how much of what it sees is noise.
# Then the luckiest measurement is not the best configuration: `best` is the one of the best posterior mean.

# %%
study = Study(space, {"error": "minimize"}, budget=Budget(trials=TRIALS), seed=0)
while not isinstance(step := study.ask(), Stop):
    study.tell(step, grow(step.params)[0])

best = study.best
luckiest = min(study.trials, key=lambda t: t.value)
print(best.why)
print(f"recommended: measured {best.trial.value:.3f}, expected {best.mean:.3f} ± {best.sd:.3f}", end=", ")
print(f"over many splits {true_error(best.params):.3f}")
print(f"luckiest:    measured {luckiest.value:.3f}, over many splits {true_error(luckiest.params):.3f}")

# %% [markdown]
# Left: what the model expects of the error at the best share of features, with the trials; the star is recommended.
# Right: how sure it is.

# %%
trees, leaves = np.unique(np.geomspace(1, 60, 31).round().astype(int)), np.geomspace(4, 256, 31).round().astype(int)
grid = [{"trees": int(t), "leaves": int(n), "features": best.params["features"]} for n in leaves for t in trees]


def draw_map(axis, values, title):
    mesh = axis.pcolormesh(trees, leaves, 100 * values.reshape(len(leaves), -1), shading="gouraud", cmap="viridis")
    plt.colorbar(mesh, ax=axis, label="%")
    axis.scatter([t.params["trees"] for t in study.trials], [t.params["leaves"] for t in study.trials], s=14, c="white")
    axis.set(xscale="log", yscale="log", xlabel="trees", ylabel="leaves per tree", title=title)


expected = study.predict(grid)
figure, axes = plt.subplots(1, 2, figsize=(11, 4))
draw_map(axes[0], expected.mean, "expected error")
draw_map(axes[1], expected.sd, "standard deviation")
axes[0].plot(best.params["trees"], best.params["leaves"], "*", color="tab:red", markersize=14)
plt.show()
found = study.diagnostics
print(f"the model explains {found.r2:.0%} of the variance")
print("importance:", {name: round(share.total, 2) for name, share in found.importance.items()})

# %% [markdown]
# ## A bound on another metric
#
# The forest has to fit into 1,000 leaves. The study learns where that holds, beside the error, as it would with latency
# or memory, which only a trial tells.

# %%
bounded = Study(
    space, {"error": "minimize"}, outcome_constraints=["size <= 1000"], budget=Budget(trials=TRIALS), seed=0
)
while not isinstance(step := bounded.ask(), Stop):
    bounded.tell(step, dict(zip(("error", "size"), grow(step.params), strict=True)))

inside = [t for t in bounded.trials if t.values["size"] <= 1000]
print(f"{len(inside)} of {len(bounded.trials)} trials keep the bound")
print(bounded.best.params, bounded.best.trial.values)
print(f"over many splits: {true_error(bounded.best.params):.3f}")

# %% [markdown]
# ## Two objectives
#
# Or no bound, and the whole front: the configurations that no other beats in both. With noise the front is uncertain,
# so every member comes with what is expected of it and with the probability that it really belongs there. Size is told
# as a logarithm, since it spans three decades.

# %%
both = Study(
    space,
    [Objective("error", "minimize", reference_point=0.6), Objective("log_size", "minimize", reference_point=4.0)],
    budget=Budget(trials=TRIALS),
    seed=0,
)
while not isinstance(step := both.ask(), Stop):
    error, size = grow(step.params)
    both.tell(step, {"error": error, "log_size": np.log10(size)})

front = sorted(both.pareto, key=lambda b: b.trial.values["log_size"])
figure, axis = plt.subplots(figsize=(8, 4.5))
sizes, errors = np.array([[t.values["log_size"], t.values["error"]] for t in both.trials]).T
axis.scatter(10**sizes, 100 * errors, c="lightgray", label="trials")
for member in front:
    (e, e_sd), (s, _) = member.expected["error"], member.expected["log_size"]
    chance = 1.0 if member.probability is None else member.probability
    axis.errorbar(10**s, 100 * e, 200 * e_sd, fmt="o", color="tab:blue", alpha=max(0.2, chance), capsize=3)
axis.plot([], [], "o", color="tab:blue", label="front: expected ± 2 sd, faint where unlikely")
axis.set(xscale="log", xlabel="leaves", ylabel="error (%)", title="What accuracy costs", ylim=(0, 100 * errors.max()))
axis.legend()
plt.show()
for member in front:
    print(f"{member.probability:.0%}", {k: round(v, 3) for k, v in member.trial.values.items()}, member.params)

# %% [markdown]
# ## What to take away
#
# - Do not pick the luckiest of many noisy measurements: ask `best`.
# - Tell bounded metrics with every trial; the study learns where they hold and needs no penalty of your own making.
# - Where you would have to choose weights for two objectives, look at the front first.
