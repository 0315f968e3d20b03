"""Train the tiny language model that integration tests and the gateway's demo run on real inference servers.

    python benchmarks/tiny_llama.py [--steps 3000] [--out tests/models/tiny-addition]

A Llama of about 0.6 million parameters with a character vocabulary learns chained addition: asked "37+85+12=?" it
answers "37+85=122;+12=134;". It is meant to be right about half of the time when sampled at temperature 1, with some
questions much harder than others (they have 2 to 9 terms), so that it matters how many answers are drawn. Questions may
come after words that mean nothing, which it learns to ignore. Needs torch, transformers, tokenizers and safetensors;
minutes on a GPU, about half an hour on two cores.
"""

from __future__ import annotations

import argparse
import json
import math
import random
import string
from pathlib import Path

import torch
from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

SPECIAL = ["<pad>", "<s>", "</s>"]
CHARACTERS = "\n" + " " + string.digits + string.ascii_letters + string.punctuation
TEMPLATE = (  # the last question alone, and an answer begun: the model has not learned to hold a conversation
    "{{ bos_token }}{{ (messages | selectattr('role', 'equalto', 'user') | list | last)['content'] }}{{ '\\n' }}"
    "{% if messages[-1]['role'] == 'assistant' %}{{ messages[-1]['content'] }}{% endif %}"
)
MOST_TERMS = 9
LENGTH = 160
CHECK = 20  # steps between looks at its answers, once the loss is below
LEARNING = 0.3


def tokenizer() -> PreTrainedTokenizerFast:
    """One token per character."""
    vocabulary = {token: i for i, token in enumerate([*SPECIAL, *CHARACTERS])}
    plain = Tokenizer(models.WordLevel(vocabulary, unk_token="<pad>"))
    plain.pre_tokenizer = pre_tokenizers.Split(Regex(r"[\s\S]"), "isolated")
    plain.decoder = decoders.Fuse()
    wrapped = PreTrainedTokenizerFast(
        tokenizer_object=plain, pad_token="<pad>", bos_token="<s>", eos_token="</s>", clean_up_tokenization_spaces=False
    )
    wrapped.chat_template = TEMPLATE
    return wrapped


def question(rng: random.Random, terms: int | None = None) -> tuple[str, str]:
    """A question and its worked answer."""
    numbers = [rng.randint(10, 99) for _ in range(terms or rng.randint(2, MOST_TERMS))]
    asked = "+".join(map(str, numbers)) + "=?"
    total, steps = numbers[0], []
    for i, n in enumerate(numbers[1:]):
        steps.append(f"{total if i == 0 else ''}+{n}={total + n};")
        total += n
    return asked, "".join(steps)


def words(rng: random.Random) -> str:
    """Words that mean nothing."""
    return " ".join("".join(rng.choices(string.ascii_lowercase, k=rng.randint(2, 7))) for _ in range(rng.randint(1, 6)))


def batch(rng: random.Random, size: int, ids: dict[str, int]) -> tuple[torch.Tensor, torch.Tensor]:
    """Token ids, and labels that ignore the question."""
    rows, labels = [], []
    for _ in range(size):
        asked, answer = question(rng)
        if rng.random() < 0.15:
            asked = f"{words(rng)} {asked}"
        prompt = [1] + [ids[c] for c in asked + "\n"]
        reply = [ids[c] for c in answer] + [2]
        row = (prompt + reply)[:LENGTH]
        label = ([-100] * len(prompt) + reply)[:LENGTH]
        rows.append(row + [0] * (LENGTH - len(row)))
        labels.append(label + [-100] * (LENGTH - len(label)))
    return torch.tensor(rows), torch.tensor(labels)


@torch.no_grad()
def accuracy(
    model: LlamaForCausalLM, wrapped: PreTrainedTokenizerFast, seed: int, prompts: int = 256, samples: int = 8
) -> list[float]:
    """The share of right answers of every one of ``prompts`` questions, sampled at temperature 1."""
    rng = random.Random(seed)
    device = next(model.parameters()).device
    shares: list[float] = []
    by_length: dict[int, list[tuple[str, str]]] = {}
    for _ in range(prompts):
        asked, answer = question(rng)
        by_length.setdefault(len(asked), []).append((asked, answer))
    for group in by_length.values():  # of one length, so nothing is padded
        ids = torch.tensor([wrapped(f"<s>{asked}\n")["input_ids"] for asked, _ in group], device=device)
        out = model.generate(
            ids, do_sample=True, temperature=1.0, top_k=0, max_new_tokens=110, num_return_sequences=samples
        )
        texts = wrapped.batch_decode(out[:, ids.shape[1] :], skip_special_tokens=True)
        for i, (_, answer) in enumerate(group):
            last = answer.rstrip(";").rsplit("=", 1)[1]
            found = [t.rstrip(";").rsplit("=", 1)[-1] for t in texts[i * samples : (i + 1) * samples]]
            shares.append(sum(f == last for f in found) / samples)
    return shares


def train(steps: int, out: Path, target: float) -> None:
    torch.manual_seed(0)
    rng = random.Random(0)
    device = "cuda" if torch.cuda.is_available() else "cpu"
    wrapped = tokenizer()
    ids = {c: wrapped.convert_tokens_to_ids(c) for c in CHARACTERS}
    model = LlamaForCausalLM(
        LlamaConfig(
            vocab_size=len(wrapped),
            hidden_size=128,
            intermediate_size=352,
            num_hidden_layers=3,
            num_attention_heads=4,
            num_key_value_heads=4,
            max_position_embeddings=512,
            tie_word_embeddings=True,
            pad_token_id=0,
            bos_token_id=1,
            eos_token_id=2,
        )
    ).to(device)
    print(f"{sum(p.numel() for p in model.parameters()) / 1e6:.2f} million parameters on {device}", flush=True)
    optimiser = torch.optim.AdamW(model.parameters(), lr=1e-3, weight_decay=0.01)
    schedule = torch.optim.lr_scheduler.LambdaLR(
        optimiser, lambda s: min(s / 100, 0.5 + 0.5 * math.cos(math.pi * s / steps))
    )
    nearest = 0.0
    for step in range(steps):
        tokens, labels = batch(rng, 256, ids)
        loss = model(tokens.to(device), attention_mask=(tokens != 0).to(device), labels=labels.to(device)).loss
        optimiser.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimiser.step()
        schedule.step()
        if (step + 1) % CHECK == 0 and loss.item() < LEARNING:
            model.eval()
            share = accuracy(model, wrapped, seed=1)
            mean = sum(share) / len(share)
            print(f"step {step + 1}: loss {loss.item():.3f}, right {mean:.3f}", flush=True)
            model.train()
            if abs(mean - target) < abs(nearest - target):
                nearest = mean
                save(model, wrapped, out, step + 1, share)
            if mean > target + 0.25:  # it only gets better from here
                break


def save(model: LlamaForCausalLM, wrapped: PreTrainedTokenizerFast, out: Path, step: int, share: list[float]) -> None:
    out.mkdir(parents=True, exist_ok=True)
    model.half().save_pretrained(out)
    model.float()
    wrapped.save_pretrained(out)
    quantiles = [sorted(share)[int(q * (len(share) - 1))] for q in (0.05, 0.25, 0.5, 0.75, 0.95)]
    facts = {"step": step, "right": round(sum(share) / len(share), 3), "per question 5/25/50/75/95 %": quantiles}
    (out / "facts.json").write_text(json.dumps(facts, indent=1) + "\n")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=3000)
    parser.add_argument("--target", type=float, default=0.55, help="share of right answers to come nearest to")
    parser.add_argument("--out", type=Path, default=Path(__file__).parents[1] / "tests" / "models" / "tiny-addition")
    arguments = parser.parse_args()
    train(arguments.steps, arguments.out, arguments.target)


if __name__ == "__main__":
    main()
