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
# # The acquisitions, side by side
#
# An acquisition says what one more trial at $x$ is worth. Here is one function of one number, the same handful of
# results for everybody, and every acquisition's opinion about where to look next.

# %%
import os

import matplotlib.pyplot as plt
import numpy as np

from suffice.optimizer import Cost, Float, Space, Study

SMALL = "SUFFICE_NOTEBOOK_SMALL" in os.environ  # how the tests run this notebook
GRID = 81 if SMALL else 401
plt.rcParams["figure.constrained_layout.use"] = True

space = Space(x=Float(-2, 10))
X = np.linspace(-2, 10, GRID)
configurations = [{"x": float(x)} for x in X]


def truth(x):
    """A broad hill around 6, a shoulder at 0, and the best of all at 2."""
    return np.exp(-((x - 2) ** 2)) + np.exp(-((x - 6) ** 2) / 10) + 1 / (x**2 + 1)


# %% [markdown]
# ## What is known
#
# Six results that happen to miss the best hill. The model's mean, and the bands in which the function lies with
# probability 50 % and 95 %.

# %%
TOLD = [-1.6, 0.3, 4.1, 6.4, 8.0, 9.7]


def told(noise=0.0, **settings):
    """A study with the same six results, or with noisy measurements of them."""
    rng = np.random.default_rng(4)
    study = Study(space, {"value": "maximize"}, noise=noise or "none", seed=0, **settings)
    for x in TOLD:
        result = {"value": truth(x) + noise * rng.normal()}
        study.add({"x": x}, {**result, "price": 1 + 0.4 * (x + 2)} if settings.get("cost") else result)
    return study


def draw_model(axis, study):
    mean, sd = study.predict(configurations).mean, study.predict(configurations).sd
    for width, shade in ((1.96, 0.15), (0.674, 0.25)):
        axis.fill_between(X, mean - width * sd, mean + width * sd, color="tab:blue", alpha=shade, linewidth=0)
    axis.plot(X, mean, color="tab:blue", label="expected")
    axis.plot(X, truth(X), color="tab:gray", linestyle="--", linewidth=1, label="truth")
    axis.plot([t.params["x"] for t in study.trials], [t.values["value"] for t in study.trials], "ko", markersize=4)


figure, axis = plt.subplots(figsize=(9, 3.5))
draw_model(axis, told())
axis.set(xlabel="x", ylabel="value", title="Six exact results, and what the model makes of them")
axis.legend()
plt.show()

# %% [markdown]
# ## What each acquisition would try next
#
# `acquisition_values` gives the logarithm of what the acquisition says at any configuration, and `suggest` where it is
# largest. The curves are scaled to their maximum, since their units differ: a gain, a probability, a bound, nats.


# %%
def opinions(names, make):
    """Per acquisition: its curve, scaled to 1, and its choice."""
    found = {}
    for name in names:
        study = make(name)
        log_value = study.acquisition_values(configurations).log_value
        (choice,) = study.suggest()
        found[name] = (np.exp(log_value - log_value.max()), choice)
    return found


def draw_opinions(found, study):
    _figure, axes = plt.subplots(len(found) + 1, 1, figsize=(9, 2.2 + 1.05 * len(found)), sharex=True)
    draw_model(axes[0], study)
    axes[0].set(ylabel="value")
    for i, (axis, (name, (curve, choice))) in enumerate(zip(axes[1:], found.items(), strict=True)):
        axis.fill_between(X, curve, color=f"C{i % 10}", alpha=0.35)
        axis.axvline(choice.params["x"], color=f"C{i % 10}")
        axes[0].axvline(choice.params["x"], color=f"C{i % 10}", linewidth=0.8, alpha=0.7)
        axis.set(yticks=[], ylim=(0, 1.1))
        axis.set_title(f"{name}: x = {choice.params['x']:.2f}", loc="left", fontsize=10)
    axes[-1].set(xlabel="x")
    plt.show()


exact = opinions(
    ["expected_improvement", "probability_of_improvement", "upper_confidence_bound", "thompson"],
    lambda name: told(acquisition=name),
)
draw_opinions(exact, told())

# %% [markdown]
# - **Expected improvement** weighs how likely a rise is with how large it would be.
# - **Probability of improvement** does not care how large: it stays beside the best result.
# - The **upper confidence bound** goes where the band reaches highest; `beta` sets how wide the band is.
# - **Thompson sampling** draws one function from the posterior and maximises that: every draw chooses differently,
#   which is what makes it good for large batches.

# %% [markdown]
# ## With noise
#
# Each measurement now has a standard deviation of 0.15. What is the best so far is itself uncertain, so the noisy forms
# take over. The entropy searches ask how much the next observation tells about the optimum; the knowledge gradient, by
# how much it will raise the best *expected* value, wherever that is. Its relative `posterior_mean_improvement` counts
# only configurations that were tried.

# %%
NOISE = 0.15
noisy = opinions(
    [
        "noisy_expected_improvement",
        "posterior_mean_improvement",
        "knowledge_gradient",
        "entropy_search",
        "joint_entropy_search",
    ],
    lambda name: told(NOISE, acquisition=name),
)
draw_opinions(noisy, told(NOISE))

# %% [markdown]
# ## When trials cost something
#
# A trial at $x$ now costs more the larger $x$ is, in a unit of which the study knows the price. Improvement per cost
# and the Gittins index trade the gain for the cost, and the study knows when to stop: when nothing is expected to gain
# more than it costs.

# %%
costly = opinions(
    ["expected_improvement_per_cost", "gittins"],
    lambda name: told(acquisition=name, cost=Cost(0.01, "price")),
)
draw_opinions(costly, told())
print(told(cost=Cost(0.01, "price")).advice.why)
print(told(cost=Cost(0.2, "price")).advice.why)

# %% [markdown]
# ## Ten trials later
#
# One choice is not a search. Every acquisition now goes on for ten trials with exact results: does it find the best
# hill, whose height is 1.40?

# %%
TRIALS = 4 if SMALL else 10
figure, axis = plt.subplots(figsize=(9, 4))
rows = []
for name in exact | {"knowledge_gradient": 0, "entropy_search": 0}:
    study = told(acquisition=name)
    for _ in range(TRIALS):
        trial = study.ask()
        study.tell(trial, {"value": truth(trial.params["x"])})
    values = [t.values["value"] for t in study.trials]
    axis.plot(np.maximum.accumulate(values)[len(TOLD) - 1 :], label=name)
    rows.append((max(values), name, study.best.params["x"]))
axis.axhline(truth(X).max(), color="tab:gray", linestyle="--", linewidth=1)
axis.set(xlabel="trials after the six", ylabel="best value so far", title="The search goes on")
axis.legend(fontsize=9)
plt.show()
for value, name, x in sorted(rows, reverse=True):
    print(f"{name:28} {value:.3f} at x = {x:.2f}")

# %% [markdown]
# ## What to take away
#
# - Improvements and knowledge gradients are measured in value, entropies in nats. Where results are exact, a hair's
#   breadth on the hill that is known can tell as many nats about the optimum as a look at the gap, which is why the
#   entropy search, like Thompson's draws, stays on the lower hill here. It is made for noise.
# - With exact results take `expected_improvement`, with noise `noisy_expected_improvement`: that is what `auto` does.
# - One small function decides nothing between acquisitions. The [benchmarks](../docs/benchmarks.md) compare over many
#   problems and seeds.
# - Look at what an acquisition says before doubting what it chose: `acquisition_values` is one call.
