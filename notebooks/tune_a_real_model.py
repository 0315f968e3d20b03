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
# # Tune a real model
#
# Gradient-boosted trees on scikit-learn's digits, eight parameters, forty trials: with a service of its own, two
# workers at once, and random search beside it for comparison. Then we ask the model what it learned.

# %%
import atexit
import os
import subprocess
import sys
import tempfile

os.environ["OMP_NUM_THREADS"] = "1"  # two workers, one thread each: more would only fight for the processors

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.ticker import NullFormatter
from sklearn.datasets import load_digits
from sklearn.decomposition import PCA
from sklearn.ensemble import HistGradientBoostingClassifier
from sklearn.model_selection import StratifiedKFold, cross_val_score
from sklearn.pipeline import make_pipeline, make_union
from sklearn.preprocessing import FunctionTransformer

from suffice.api.client import Client
from suffice.optimizer import Categorical, Float, Int, Space, Study

SMALL = "SUFFICE_NOTEBOOK_SMALL" in os.environ  # how the tests run this notebook
TRIALS, IMAGES = (10, 150) if SMALL else (40, 1797)
PERCENT = [2, 3, 5, 10, 20, 50]  # ticks of the error axes
plt.rcParams["figure.constrained_layout.use"] = True

# %% [markdown]
# ## The problem
#
# The objective is the 5-fold cross-validation error: the share of images that are classified wrongly. The space is
# wide, as it is when one does not know the answer yet: most ranges span two decades or more, so they are searched on
# a log scale. `components` exists only where principal components are used, and the parameter constraint caps the
# size of the model.

# %%
space = Space(
    learning_rate=Float(0.001, 1.0, log=True),
    l2_regularization=Float(1e-6, 100.0, log=True),
    max_iter=Int(5, 100, log=True),
    max_leaf_nodes=Int(2, 63, log=True),
    min_samples_leaf=Int(1, 200, log=True),
    max_features=Float(0.02, 1.0, log=True),
    features=Categorical("pixels", "components", "both"),
    components=Int(2, 40, active_if="features != 'pixels'"),
    constraints=["max_iter * max_leaf_nodes <= 3200"],
)

X, y = load_digits(return_X_y=True)
X, y = X[:IMAGES], y[:IMAGES]


def model(features="pixels", components=None, **settings):
    trees = HistGradientBoostingClassifier(**settings, early_stopping=False, random_state=0)
    if features == "pixels":
        return trees
    pca = PCA(components, random_state=0)
    return make_pipeline(pca if features == "components" else make_union(FunctionTransformer(), pca), trees)


def error(params, split=0):
    folds = StratifiedKFold(5, shuffle=True, random_state=split)
    return 1 - cross_val_score(model(**params), X, y, cv=folds).mean()


default = error({})
print(f"scikit-learn's defaults: {default:.2%}, {default * IMAGES:.0f} of {IMAGES} images wrong")

# %% [markdown]
# ## The service, and a run
#
# `suffice serve` prints its address and then `ready`. Everything it knows is in one SQLite file. `optimize` asks,
# evaluates and tells, two trials at a time, until the budget of the study is spent. In a notebook the workers are
# threads; a script would say `executor="process"`.

# %%
folder = tempfile.TemporaryDirectory()
command = [sys.executable, "-m", "suffice.api.cli", "serve", "--port", "0", "--log-level", "warning"]
service = subprocess.Popen(
    [*command, "--database", f"sqlite:///{folder.name}/notebook.db"], stdout=subprocess.PIPE, text=True
)
atexit.register(service.kill)  # also when a cell fails
client = Client(service.stdout.readline().strip())
service.stdout.readline()

study = client.create_study("digits", space, {"error": "minimize"}, budget=TRIALS, seed=0)
summary = study.optimize(error, workers=2, progress=False)
print(summary.stop.message)

# %% [markdown]
# Random search gets as many trials, drawn from the same space.

# %%
configurations = space.decode(space.sample(TRIALS, np.random.default_rng(0)))
random_errors = [error(params) for params in configurations]
tuned_errors = [trial.value for trial in summary.trials]

figure, axis = plt.subplots(figsize=(8, 4))
for name, errors, colour in (("random search", random_errors, "tab:gray"), ("Suffice", tuned_errors, "tab:blue")):
    number = np.arange(1, len(errors) + 1)
    axis.plot(number, 100 * np.array(errors), "o", color=colour, alpha=0.4, markersize=4)
    axis.step(number, 100 * np.minimum.accumulate(errors), where="post", color=colour, linewidth=2, label=name)
axis.axhline(100 * default, color="tab:red", linestyle="--", label="scikit-learn's defaults")
axis.set(xlabel="trials finished", ylabel="5-fold error (%)", title="Each trial (dots) and the best so far (lines)")
axis.set(yscale="log")
axis.set_yticks(PERCENT, PERCENT)
axis.minorticks_off()
axis.legend()
plt.show()
# %% [markdown]
# ## What was found
#
# `best` is the recommended trial and says why it is that one. The best of forty errors is partly luck with the folds,
# so we look again on folds that no search has seen.

# %%
best = study.best()
print(best.why)
for name, value in best.trial.params.items():
    print(f"  {name:18} {value:.4g}" if isinstance(value, float) else f"  {name:18} {value}")

chosen = {
    "scikit-learn's defaults": {},
    "random search": configurations[int(np.argmin(random_errors))],
    "Suffice": best.trial.params,
}
print(f"\n{'':26}{'these folds':>12}{'other folds':>14}")
for name, params in chosen.items():
    fresh = [error(params, split) for split in (1, 2)]
    print(f"{name:26}{error(params):12.2%}{np.mean(fresh):14.2%}")

# %% [markdown]
# ## What the model learned
#
# The service can be asked what it expects anywhere. Each panel moves one parameter away from the best configuration and
# leaves the others where they are: the expected error, and a band of two standard deviations (of the error's logarithm,
# since errors are positive). A flat line is a parameter that does not matter near the best configuration, as far as the
# trials tell; a wide band, a region where nobody has looked. A narrow band is what the model believes: it can be wrong.


# %%
def feasible(moved):
    return [c for c, ok in zip(moved, space.feasible(space.encode(moved)), strict=True) if ok]


def slice_through(name, parameter):
    """Configurations that differ from the best one in one parameter."""
    values = np.unique(parameter.from_unit(np.linspace(0, 1, 41)[:, None]))
    return feasible([{**best.trial.params, name: parameter.to_native(value)} for value in values])


def expected_error(configurations):
    """Low end, middle and high end of the band, in percent."""
    mean, sd = 100 * np.array([[p.mean, p.sd] for p in study.predict(configurations).predictions]).T
    spread = np.sqrt(np.log1p((sd / mean) ** 2))
    middle = mean / np.sqrt(1 + (sd / mean) ** 2)
    return middle * np.exp(-2 * spread), middle, middle * np.exp(2 * spread)


numeric = [name for name in best.trial.params if name != "features"]
figure, axes = plt.subplots(2, 4, figsize=(13, 5.5), sharey=True)
for axis, name in zip(axes.flat, numeric, strict=False):
    path = slice_through(name, space.parameters[name])
    low, middle, high = expected_error(path)
    at = [c[name] for c in path]
    axis.plot(at, middle, color="tab:blue")
    axis.fill_between(at, low, high, color="tab:blue", alpha=0.2)
    axis.axvline(best.trial.params[name], color="tab:red", linewidth=1)
    axis.set(title=name, xscale="log" if space.parameters[name].log else "linear", xlim=(min(at), max(at)))
    axis.xaxis.set_minor_formatter(NullFormatter())

kinds = space.parameters["features"].choices
settings = {name: value for name, value in best.trial.params.items() if name not in ("features", "components")}
components = {"components": best.trial.params.get("components", 20)}
low, middle, high = expected_error(
    [{**settings, "features": k, **(components if k != "pixels" else {})} for k in kinds]
)
axis = axes.flat[len(numeric)]
axis.errorbar(range(len(kinds)), middle, (middle - low, high - middle), fmt="o", color="tab:blue", capsize=4)
axis.set_xticks(range(len(kinds)), kinds)
axis.set(title="features", xlim=(-0.5, len(kinds) - 0.5))
for axis in axes.flat[len(numeric) + 1 :]:
    axis.set_visible(False)
for axis in axes[:, 0]:
    axis.set(ylabel="expected error (%)", yscale="log", ylim=(80 * min(tuned_errors), 60))
    axis.set_yticks(PERCENT, PERCENT)
    axis.yaxis.set_minor_formatter(NullFormatter())
figure.suptitle("The expected error along each parameter, through the best configuration (red)")
plt.show()

# %% [markdown]
# All trials at once: one line each, from dark (small error) to yellow. Where dark lines come together, the search has
# settled; where they spread, many values do.

# %%
names = [name for name in space.parameters if name != "components"]
columns = np.column_stack([space.encode([t.params])[0] for t in summary.trials]).T
place = {name: space.column_names.index(name) for name in names if name != "features"}
heights = np.column_stack(
    [
        [list(kinds).index(t.params["features"]) / 2 for t in summary.trials]
        if name == "features"
        else columns[:, place[name]]
        for name in names
    ]
)
order = np.argsort(tuned_errors)[::-1]  # the best drawn last, on top
rank = np.empty(len(order))
rank[order[::-1]] = np.linspace(0, 1, len(order))

figure, axis = plt.subplots(figsize=(11, 4))
for i in order:
    axis.plot(heights[i], color=plt.cm.viridis(rank[i]), alpha=0.8, linewidth=3 if rank[i] == 0 else 1)
axis.set_xticks(range(len(names)), names, rotation=20)
axis.set_yticks([0, 1], ["low", "high"])
for height, kind in zip((0, 0.5, 1), kinds, strict=True):
    axis.text(len(names) - 0.95, height, kind, verticalalignment="center")
axis.set_xlim(-0.2, len(names) - 0.3)
axis.set_title("Every trial, coloured by the rank of its error (thick: the best)")
plt.show()
# %% [markdown]
# ## The same without a service
#
# The core runs in this process as well: the same words, nothing to start. `ask` says where a configuration comes
# from.

# %%
local = Study(space, {"error": "minimize"}, seed=0)
for trial in summary.trials:
    local.add(trial.params, {"error": trial.value})
step = local.ask()
print(step.source.method, "|", step.source.why)
print(f"expects an error of {step.source.mean:.2%} ± {step.source.sd:.2%}, and to gain {step.source.gain:.3%}")
print(step.params)

# %% [markdown]
# ## What to take away
#
# - One image is 0.06 points of a percent, and other folds move an error by several times that. Differences of two or
#   three images between searches are luck; look at other folds, and at more seeds, before believing them.
# - The slices say more than the best configuration does: where they are flat, take the cheap value.
# - Where the best configuration sits on a bound, or a slice still falls towards one, that bound limits the result:
#   widen it if you can pay for it.

# %%
client.close()
service.terminate()
service.wait()
service.stdout.close()
folder.cleanup()
