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
# # Four steps that look like fifty
#
# A diffusion model, four calls of its network per image, and a search for the times and the solver that make the most
# of them. The model is a small DDPM of scikit-learn's digits that is part of the repository; with a pipeline of your
# own only the first cell differs.

# %%
import os
import sys
import warnings
from pathlib import Path

os.environ["OMP_NUM_THREADS"] = "1"
warnings.filterwarnings("ignore", message="__array_", category=DeprecationWarning)  # how diffusers makes arrays

import matplotlib.pyplot as plt
import numpy as np
import torch

import suffice.optimizer
from suffice.adapters.diffusion import Evaluation, Frechet, Reference, Schedule, apply_schedule, search_schedule
from suffice.adapters.diffusion.search import Search
from suffice.adapters.diffusion.solvers import Choices

sys.path.insert(0, str(Path(suffice.optimizer.__file__).resolve().parents[1]))  # the repository
from benchmarks.digit_models import ddpm_pipeline, digit_classifier, digits

SMALL = "SUFFICE_NOTEBOOK_SMALL" in os.environ  # how the tests run this notebook
TRIALS, IMAGES = (8, 16) if SMALL else (48, 128)
UNSEEN = 1234  # noise that no search sees
torch.set_num_threads(1)
plt.rcParams["figure.constrained_layout.use"] = True

pipeline = ddpm_pipeline()
photographs, _ = digits()
quality = Frechet(Reference.of(photographs, digit_classifier().features))
evaluation = Evaluation(pipeline, quality)


# %% [markdown]
# ## How bad is the default?
#
# DPM-Solver++ at the times that diffusers spaces evenly. Image i always starts from the same noise, whatever the
# schedule, so what differs between two rows of images is the schedule alone.


# %%
def even(steps):
    times = np.linspace(0, 999, steps + 1).round()[::-1][:-1]
    return Schedule("DPMSolverMultistepScheduler", tuple(int(t) for t in times), config={"solver_order": 2})


def distance(schedule):
    return evaluation.judge(schedule, 4 * IMAGES, UNSEEN).score.value


def show(schedules, images=16):
    _, axes = plt.subplots(len(schedules), 1, figsize=(9, 0.9 * len(schedules)), squeeze=False)
    for axis, (name, schedule) in zip(axes[:, 0], schedules.items(), strict=True):
        made = evaluation.make(schedule, images, UNSEEN).images[:, 0]
        padded = torch.nn.functional.pad(made, (1, 1, 1, 1), value=1.0)
        axis.imshow(torch.cat(list(padded), dim=1), cmap="gray", vmin=0, vmax=1)
        axis.set_title(f"{name}: {distance(schedule):.2f}", fontsize=9, loc="left")
        axis.set_axis_off()


show({f"{steps} steps": even(steps) for steps in (4, 6, 10, 50)})

# %% [markdown]
# ## The schedules in common use
#
# Which of them is best depends on the model and on the solver, so they are tried. Numbers are Fréchet distances in the
# features of a small classifier, on the noise of the search.

# %%
choices = Choices(4, ("dpm_multistep", "unipc"))
known = Search(choices, evaluation, images=IMAGES).known()
known_values = {n: evaluation.judge(choices.schedule(p), IMAGES).score.value for n, p in known.items()}
for name, value in sorted(known_values.items(), key=lambda item: item[1])[:6]:
    print(f"{value:7.2f}  {name:26} {known[name]['times']}")

# %% [markdown]
# ## The search
#
# Four times, the solver, and its settings, among them UniPC's corrector at each step. The last figure is the quality on
# noise that was not searched with.

# %%
found = search_schedule(
    pipeline,
    steps=4,
    quality=quality,
    solvers=choices.solvers,
    trials=TRIALS,
    images=IMAGES,
    seed=0,
    progress=False,
)
print(found)

# %%
values = [t.judged.score.value for t in found.tried]
_, axis = plt.subplots(figsize=(7, 3))
axis.plot(np.arange(1, len(values) + 1), values, ".", color="#999999", label="tried")
axis.plot(np.arange(1, len(values) + 1), np.minimum.accumulate(values), color="#1b6ca8", label="best so far")
axis.axhline(min(known_values.values()), color="#d95f02", lw=1, label="best known schedule")
axis.set(xlabel=f"evaluations of {IMAGES} images", ylabel="Fréchet distance", yscale="log")
_ = axis.legend(frameon=False)

# %%
best_known = min(known_values, key=known_values.get)
show(
    {
        "default, 4 steps": even(4),
        f"best known ({best_known}), 4 steps": choices.schedule(known[best_known]),
        "found, 4 steps": found.schedule,
        "default, 50 steps": even(50),
    }
)

# %% [markdown]
# The first time is the strongest lever: what is found starts well below 999, because an 8 x 8 image is hardly more than
# noise long before the last training step. Every time that was tried, by how good the schedule was:

# %%
_, axis = plt.subplots(figsize=(7, 3))
order = np.argsort(values)
for rank, i in enumerate(order[::-1]):
    color = plt.cm.viridis(1 - rank / len(order))
    axis.plot(found.tried[i].schedule.times, [values[i]] * 4, "o-", ms=3, lw=0.5, color=color)
axis.set(xlabel="training time", ylabel="Fréchet distance", yscale="log")
axis.invert_xaxis()

# %% [markdown]
# ## Quality against calls
#
# With a range of steps, the parameter is a curve of times from which any number of steps is read. The search then looks
# for the whole front at once.

# %%
front = search_schedule(
    pipeline,
    steps=(3, 8),
    against="calls",
    quality=quality,
    solvers=["dpm_multistep"],
    trials=TRIALS,
    images=IMAGES,
    seed=0,
    progress=False,
).front
_, axis = plt.subplots(figsize=(6, 3))
axis.plot([c.schedule.steps for c in front], [c.other_value for c in front], "o-", color="#1b6ca8", label="found")
steps = range(3, 9)
axis.plot(
    steps, [evaluation.judge(even(k), 2 * IMAGES, 1).score.value for k in steps], "o-", color="#999999", label="even"
)
axis.set(xlabel="calls of the network", ylabel="Fréchet distance, other noise", yscale="log")
_ = axis.legend(frameon=False)

# %% [markdown]
# ## Use it
#
# The record is a file of about a kilobyte; from now on every call of the pipeline runs it.

# %%
path = found.schedule.save("schedule.json")
print(path.read_text())
apply_schedule(pipeline, Schedule.load(path))
pipeline.set_progress_bar_config(disable=True)
pipeline(batch_size=4, generator=torch.Generator().manual_seed(0), output_type="np").images.shape

# %% [markdown]
# ## What to take away
#
# - Which schedule in common use is best depends on the model: here it is "leading", and the evenly spaced times that
#   the first cell drew are not among the best six. So they are tried before anything is searched.
# - Numbers on the noise of the search flatter what was fitted to it: in this run the best known schedule is even a
#   little better there than the one that was chosen. The choice is made on other noise: quote that number.
# - What comes out is a file of a kilobyte that stock schedulers of diffusers run: nothing of the search stays in
#   production.
