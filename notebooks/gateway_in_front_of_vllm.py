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
# %% [markdown]
# # The gateway in front of vLLM
#
# A real vLLM serves a tiny model that adds up chains of numbers and is wrong about half of the time. The gateway goes
# before it: the same OpenAI client, `:optscale` behind the model's name, more right answers for fewer tokens.
#
# `make test-vllm` and `make demo-gateway` start such a server; this notebook wants its address in `VLLM_URL`.

# %%
import asyncio
import atexit
import json
import os
import random
import subprocess
import sys
import tempfile
from pathlib import Path

import httpx
import matplotlib.pyplot as plt
import numpy as np
import openai

SMALL = "SUFFICE_NOTEBOOK_SMALL" in os.environ  # how the tests run this notebook
QUESTIONS, MOST = (6, 4) if SMALL else (80, 16)
plt.rcParams["figure.constrained_layout.use"] = True

# %% [markdown]
# ## One command
#
# `suffice gateway --upstream URL` would do. A configuration file adds a policy: equal answers have the same last
# number, and a draw has to raise the probability of being right by 0.002 to be worth making.

# %%
folder = tempfile.TemporaryDirectory()
config = Path(folder.name) / "gateway.yaml"
policy = {"extract": "number", "max_samples": MOST, "price": 0.002, "overissue": "none"}
config.write_text(json.dumps({"upstreams": [{"url": os.environ["VLLM_URL"]}], "policies": {"optscale": policy}}))
command = [sys.executable, "-m", "suffice.api.cli", "gateway", "--port", "0", "--log-level", "warning"]
process = subprocess.Popen([*command, "--config", str(config)], stdout=subprocess.PIPE, text=True)
atexit.register(process.kill)
url = process.stdout.readline().strip()
process.stdout.readline()
client = openai.AsyncOpenAI(base_url=f"{url}/v1", api_key="none")


async def ask(question, model="tiny", **more):
    return await client.chat.completions.create(
        model=model, messages=[{"role": "user", "content": question}], temperature=0.8, max_tokens=128, **more
    )


# %% [markdown]
# ## One question
#
# The model's own name is passed through, byte for byte. With `:optscale` the gateway draws until one more draw no
# longer pays, and says why it stopped.

# %%
plain = await ask("37+85+14+66+23=?")
decided = await ask("37+85+14+66+23=?", model="tiny:optscale")
print("passed through:", plain.choices[0].message.content, f"({plain.usage.total_tokens} tokens)")
print("decided:       ", decided.choices[0].message.content, f"({decided.usage.total_tokens} tokens)")
record = decided.optscale
print(record["stop_reason"], "|", record["samples"]["counted"], "draws | P(right)", round(record["confidence"], 3))
print("the truth:     ", 37 + 85 + 14 + 66 + 23)

# %% [markdown]
# The whole decision is kept, draw by draw:

# %%
async with httpx.AsyncClient() as http:
    kept = (await http.get(f"{url}/optscale/v1/decisions/{record['decision_id']}")).json()
for draw in kept["trace"][:6]:
    print({key: draw[key] for key in ("number", "answer", "tokens") if key in draw})
print("P(right):", kept["posterior"])

# %% [markdown]
# ## A batch
#
# Sums of 2 to 9 numbers. Passed through, by majority, and decided at three prices: what is right, and what it costs.

# %%
rng = random.Random(5)
asked = []
for _ in range(QUESTIONS):
    numbers = [rng.randint(10, 99) for _ in range(rng.randint(2, 9))]
    asked.append(("+".join(map(str, numbers)) + "=?", str(sum(numbers))))


def last_number(text):
    return (text or "").rstrip(";\n ").rpartition("=")[2]


async def over_all(**request):
    """The share of right answers, and the mean tokens."""
    permits = asyncio.Semaphore(8)

    async def one(question, truth):
        async with permits:
            answer = await ask(question, **request)
        return last_number(answer.choices[0].message.content) == truth, answer.usage.completion_tokens

    found = np.array(await asyncio.gather(*(one(*pair) for pair in asked)), dtype=float)
    return found.mean(axis=0)


def fixed(samples):
    return {"model": "tiny:optscale", "extra_body": {"optscale": {"rule": "fixed", "settings": {"samples": samples}}}}


methods = {
    "passed through": {},
    **{f"majority of {n}": fixed(n) for n in ((4,) if SMALL else (4, 8, 16))},
    **{
        f"optscale, price {price}": {"model": "tiny:optscale", "extra_body": {"optscale": {"price": price}}}
        for price in ((0.01,) if SMALL else (0.03, 0.01, 0.002))
    },
}
results = {name: await over_all(**request) for name, request in methods.items()}
for name, (right, tokens) in results.items():
    print(f"{name:24} {right:6.1%} right, {tokens:6.0f} tokens")

# %%
figure, axis = plt.subplots(figsize=(8, 4))
for kind, colour in (("passed", "tab:gray"), ("majority", "tab:orange"), ("optscale", "tab:blue")):
    chosen = {name: found for name, found in results.items() if name.startswith(kind)}
    right, tokens = np.array(list(chosen.values())).T
    axis.plot(tokens, 100 * right, "o-", color=colour)
    for name, (share, spent) in chosen.items():
        axis.annotate(name, (spent, 100 * share), textcoords="offset points", xytext=(6, -10), fontsize=9)
axis.set(xscale="log", xlabel="tokens per question", ylabel="right (%)", title=f"{QUESTIONS} sums by a tiny model")
plt.show()

# %% [markdown]
# ## What to take away
#
# - Nothing changes for the client but the model's name; everything it sends reaches vLLM.
# - Votes alone stop early where answers agree. With labelled answers, a [calibration](../docs/gateway.md#verifiers)
#   learns what log-probabilities or a verifier are worth, and fewer draws are enough.
# - `GET /metrics` has what was drawn, saved and why sampling stopped.

# %%
await client.close()
process.terminate()
process.wait()
process.stdout.close()
folder.cleanup()
