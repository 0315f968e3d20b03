"""What a request asks of a policy: its own words, its headers, the policy's presets, and the defaults."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from suffice.optimizer import InvalidInput

from .gateway_config import DEFAULTS, SUFFIX, GatewayConfig, Wishes, wishes_of
from .gateway_strategies import check, strategy

CHAT = "/v1/chat/completions"
OURS = ("optscale", "budget", "best_of", "n", "stream", "stream_options", "model", "seed")
HEADER = "x-optscale-"
BUDGET_HEADER = "x-its-budget"  # as another gateway calls max_samples
OWN_HEADERS = ("x-request-id",)  # each draw is a request of its own


@dataclass(frozen=True)
class Asked:
    """A request under a policy; ``body`` is the client's, without what is ours to say."""

    path: str
    model: str
    policy: str
    wishes: Wishes
    body: dict[str, Any]
    headers: Sequence[tuple[str, str]]
    n: int = 1
    stream: bool = False
    include_usage: bool = False
    seed: int | None = None
    note: str | None = None
    in_one_go: bool = True  # a draw is one request

    @property
    def chat(self) -> bool:
        return self.path == CHAT

    @property
    def wants_json(self) -> bool:
        form = self.body.get("response_format")
        return isinstance(form, Mapping) and form.get("type") in ("json_object", "json_schema")

    @property
    def alternatives(self) -> int | None:
        """How many likely alternatives per token were asked for; None: no log-probabilities at all, -1: all.

        Raises InvalidInput for what is no number.
        """
        if not self.chat:
            return None if self.body.get("logprobs") is None else _integer(self.body, "logprobs")
        if not self.body.get("logprobs"):
            return None
        return 0 if self.body.get("top_logprobs") is None else _integer(self.body, "top_logprobs")

    def logprobs(self, found: Any) -> Any:
        """A choice's log-probabilities, cut down to what was asked for: a verifier or a strategy may want more."""
        many = self.alternatives
        if many is None or not isinstance(found, Mapping):
            return None
        if many < 0:
            return found
        if isinstance(content := found.get("content"), list):
            cut = [{**one, "top_logprobs": (one.get("top_logprobs") or [])[:many]} for one in content]
            return {**found, "content": cut}
        tokens, tops = found.get("tokens"), found.get("top_logprobs")
        if not isinstance(tokens, list) or not isinstance(tops, list):
            return found
        return {**found, "top_logprobs": [_likeliest(*one, many) for one in zip(tokens, tops, strict=False)]}

    @property
    def streamed(self) -> bool:
        """Whether its only draw is one request, whose tokens can be passed on as they come."""
        return self.stream and self.wishes.max_samples == 1 and self.n == 1 and self.in_one_go

    def raw(self, **more: Any) -> bytes:
        """The body of a draw."""
        return json.dumps({"model": self.model, **self.body, **more}).encode()


def read(config: GatewayConfig, path: str, headers: Sequence[tuple[str, str]], body: Mapping[str, Any]) -> Asked | None:
    """What a request asks of a policy; None for one that names none, which is passed through. Raises InvalidInput."""
    named = body.get("model")
    model, policy = _named(config, named if isinstance(named, str) else "")
    ours = {name: value for name, value in headers if name.startswith(HEADER) or name == BUDGET_HEADER}
    if policy is None and not ours and body.get("optscale") is None and body.get("budget") is None:
        return None
    policy = policy or SUFFIX
    wished = _wished(body, ours)
    wishes = wished.over(config.policies[policy]).over(DEFAULTS)
    n = _whole(body, "n", 1)
    if wished.max_samples is not None and n > wished.max_samples:
        raise InvalidInput("n", f"at most the {wished.max_samples} samples that may be drawn", n)
    if n > (wishes.max_samples or 1):  # n answers take n draws, whatever the policy's default is
        wishes = wishes.model_copy(update={"max_samples": n})
    wishes = wishes.model_copy(update={"min_samples": max(wishes.min_samples or 1, n)})
    try:
        config.check(wishes)
    except InvalidInput as error:
        raise error.under("optscale") from None
    if isinstance(prompt := body.get("prompt"), list) and len(prompt) > 1 and not isinstance(prompt[0], int):
        raise InvalidInput("prompt", "one prompt: answers to several are decided one request each", f"{len(prompt)}")
    how = config.strategies[wishes.strategy or "independent"]
    check(how, body)
    note = None
    if wishes.dry_run:
        wishes, note = wishes.model_copy(update={"max_samples": n}), "dry run: one draw per choice"
    elif body.get("temperature") == 0 and n == 1 and wished.max_samples is None:
        wishes, note = wishes.model_copy(update={"max_samples": 1}), "temperature 0: every draw would be the same"
    if not isinstance(stream := body.get("stream") or False, bool):
        raise InvalidInput("stream", "true or false", stream)
    options = body.get("stream_options")
    return Asked(
        path=path,
        model=model,
        policy=policy,
        wishes=wishes,
        body={name: value for name, value in body.items() if name not in OURS},
        headers=[(name, value) for name, value in headers if name not in ours and name not in OWN_HEADERS],
        n=n,
        stream=stream,
        include_usage=isinstance(options, Mapping) and options.get("include_usage") is True,
        seed=wishes.seed if body.get("seed") is None else _integer(body, "seed"),
        note=note,
        in_one_go=strategy(how, "auto") is None,
    )


def _named(config: GatewayConfig, named: str) -> tuple[str, str | None]:
    """The upstream's model and the policy that a model's name stands for."""
    if named in config.aliases:
        alias = config.aliases[named]
        return alias.model, alias.policy
    model, colon, suffix = named.rpartition(":")
    return (model, suffix) if colon and suffix in config.policies else (named, None)


def _wished(body: Mapping[str, Any], headers: Mapping[str, str]) -> Wishes:
    """From headers, over the body's object, over the aliases of max_samples."""
    wishes = wishes_of(body.get("optscale"))
    for alias in ("budget", "best_of"):
        if body.get(alias) is not None:
            wishes = wishes.over(Wishes(max_samples=_whole(body, alias, 1)))
    written: dict[str, Any] = {}
    for name, value in headers.items():
        field_ = "max_samples" if name == BUDGET_HEADER else name.removeprefix(HEADER).replace("-", "_")
        written[field_] = _json(value) if field_ in ("settings", "tags") else value
    return wishes_of(written).over(wishes) if written else wishes


def _likeliest(token: str, top: Mapping[str, float] | None, many: int) -> dict[str, float] | None:
    """The likeliest tokens of a completion's alternatives, and the one that was drawn, as servers give them."""
    if top is None:
        return None
    kept = sorted(top, key=lambda one: -top[one])[:many]
    return {one: logprob for one, logprob in top.items() if one == token or one in kept}


def _json(text: str) -> Any:
    try:
        return json.loads(text)
    except ValueError:
        return text


def _whole(body: Mapping[str, Any], name: str, default: int) -> int:
    if body.get(name) is None:
        return default
    value = _integer(body, name)
    if value < 1:
        raise InvalidInput(name, "a whole number of at least 1", value)
    return value


def _integer(body: Mapping[str, Any], name: str) -> int:
    value = body[name]
    if isinstance(value, bool) or not isinstance(value, int):
        raise InvalidInput(name, "a whole number", value)
    return value
