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
# # Cheap looks, and what was learned last time
#
# Two ways to need fewer whole evaluations: trials at a lower fidelity, which cost less and tell something, and
# earlier studies of similar problems. The model is a multilayer perceptron on scikit-learn's digits, trained for 1 to
# 27 epochs.

# %%
import os
import warnings

os.environ["OMP_NUM_THREADS"] = "1"

import matplotlib.pyplot as plt
import numpy as np
from sklearn.datasets import load_digits
from sklearn.exceptions import ConvergenceWarning
from sklearn.model_selection import train_test_split
from sklearn.neural_network import MLPClassifier

from suffice.optimizer import Budget, Float, Int, Space, Stop, Study

warnings.simplefilter("ignore", ConvergenceWarning)  # a few epochs do not converge: that is the point
SMALL = "SUFFICE_NOTEBOOK_SMALL" in os.environ  # how the tests run this notebook
BUDGET = 3 if SMALL else 10  # in whole trainings
EPOCHS = 27
plt.rcParams["figure.constrained_layout.use"] = True

images, labels = load_digits(return_X_y=True)
images = images / 16


def data(seed, classes):
    keep = np.isin(labels, classes)
    return train_test_split(images[keep], labels[keep], test_size=0.4, random_state=seed, stratify=labels[keep])


def loss(params, epochs, split):
    """Cross-entropy on held-out images after so many epochs."""
    X, X_test, y, y_test = split
    net = MLPClassifier(
        (params["width"],),
        alpha=params["decay"],
        learning_rate_init=params["rate"],
        max_iter=epochs,
        batch_size=64,
        random_state=0,
        tol=0,
    ).fit(X, y)
    chances = np.clip(net.predict_proba(X_test), 1e-6, 1)
    return float(-np.log(chances[np.arange(len(y_test)), np.searchsorted(net.classes_, y_test)]).mean())


searched = {
    "rate": Float(1e-5, 1.0, log=True),
    "width": Int(4, 128, log=True),
    "decay": Float(1e-6, 10.0, log=True),
}
today = data(0, range(10))

# %% [markdown]
# ## Fidelity
#
# `epochs` becomes a parameter that says how exactly a trial measures. The study is told at which value the loss counts
# and what a trial costs, and decides itself how long to train which configuration. The budget is in whole trainings.

# %%
cheap = Study(
    Space(**searched, epochs=Int(1, EPOCHS, log=True)),
    {"loss": "minimize"},
    fidelity={"target": {"epochs": EPOCHS}, "cost": f"epochs / {EPOCHS}"},
    budget=Budget(cost=BUDGET),
    seed=0,
)
while not isinstance(step := cheap.ask(), Stop):
    cheap.tell(step, loss(step.params, step.params["epochs"], today))

whole = Study(Space(**searched), {"loss": "minimize"}, budget=Budget(trials=BUDGET), seed=0)
while not isinstance(step := whole.ask(), Stop):
    whole.tell(step, loss(step.params, EPOCHS, today))

spent = np.cumsum([t.params["epochs"] / EPOCHS for t in cheap.trials])
epochs = np.array([t.params["epochs"] for t in cheap.trials])
figure, axis = plt.subplots(figsize=(9, 4))
points = axis.scatter(spent, [t.value for t in cheap.trials], c=epochs, cmap="viridis", label="with fidelities")
axis.plot(np.arange(1, BUDGET + 1), [t.value for t in whole.trials], "rx", label="whole trainings only")
plt.colorbar(points, ax=axis, label="epochs")
axis.set(xlabel="cost so far (whole trainings)", ylabel="loss", yscale="log", title="What was tried, and how long")
axis.legend()
plt.show()

results = {
    "with fidelities": loss(cheap.best.params, EPOCHS, today),
    "whole trainings only": loss(whole.best.params, EPOCHS, today),
}
print(f"{len(cheap.trials)} trials for the price of {BUDGET}; {np.sum(epochs == EPOCHS)} of them whole")
for name, value in results.items():
    print(f"{name:22} {value:.3f}")

# %% [markdown]
# ## An earlier study
#
# Last month the same network was tuned on half of the classes. `learn_from` lets a new study use that: its first trials
# are where the earlier study expects the best, and its model explains what it can by the earlier one. Ranges need not
# be the same.

# %%
FEW = 4 if SMALL else 6
before = Study(Space(**searched), {"loss": "minimize"}, seed=1)
for _ in range(5 if SMALL else 20):
    trial = before.ask()
    before.tell(trial, loss(trial.params, EPOCHS, data(1, [0, 1, 2, 3, 4])))


def first_trials(seed, earlier):
    study = Study(Space(**searched), {"loss": "minimize"}, seed=seed)
    if earlier:
        study.learn_from("last month", before)
    for _ in range(FEW):
        trial = study.ask()
        study.tell(trial, loss(trial.params, EPOCHS, today))
    return study


SEEDS = range(1 if SMALL else 5)
figure, axis = plt.subplots(figsize=(9, 4))
for earlier, colour in ((False, "tab:gray"), (True, "tab:blue")):
    studies = [first_trials(seed, earlier) for seed in SEEDS]
    curves = np.array([np.minimum.accumulate([t.value for t in s.trials]) for s in studies])
    axis.plot(np.arange(1, FEW + 1), curves.T, color=colour, alpha=0.3, linewidth=1)
    name = "with last month's study" if earlier else "from nothing"
    axis.plot(np.arange(1, FEW + 1), np.median(curves, axis=0), color=colour, linewidth=2.5, label=name)
axis.set(xlabel="trials", ylabel="best loss so far", yscale="log", title="The first trials; thick: median over seeds")
axis.legend()
plt.show()
print(studies[0].trials[0].source.why)

# %% [markdown]
# ## What to take away
#
# - Cheap looks pay where they say much about what counts. One epoch tells a bad learning rate, and little more: here
#   both searches end alike.
# - Report results at every step instead, and the service can also [stop trials early](../docs/early_stopping.md).
# - An earlier study that does not help is dropped, so trying costs about two trials.
