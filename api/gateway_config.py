"""The gateway's configuration: a YAML file, or what the command line gives.

    upstreams:
      - url: http://127.0.0.1:8001
        api_key_env: VLLM_API_KEY          # the name of a variable: keys stay out of files
    verifiers:
      prm: {type: reward, url: http://127.0.0.1:8002, model: prm, path: pooling, aggregate: min}
    strategies:
      lines: {type: dvts, width: 4, separator: "\\n"}
    policies:
      optscale: {max_samples: 32, price: 0.002}         # what `<model>:optscale` means
      careful: {rule: suffice, target: 0.95, verifier: prm, on_verifier_error: fail}
    aliases:
      math: {model: tiny, policy: careful}
    extractors: {total: "TOTAL: (\\d+)"}
    limits: {concurrency: 64, requests: 512, max_samples: 64}

Clients choose among what is named here, and never name a URL.
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal, Self

import yaml
from pydantic import BaseModel, ConfigDict, Field, FiniteFloat, ValidationError, field_validator

from suffice.optimizer import InvalidInput, Sampling
from suffice.optimizer.expected import NOTHING, Expected
from suffice.optimizer.expected import RULES as EXPECTING
from suffice.optimizer.stopping import RULES

from .errors import from_pydantic
from .extraction import extractor
from .sampling_wire import MOST_FEATURES, MOST_WITH_PRIOR

SUFFIX = "optscale"  # of `<model>:optscale`, and the name of its policy
LOG_PROBABILITY = "log_probability"

Name = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9_.\-/]{0,199}$")]
Features = Annotated[list[FiniteFloat], Field(min_length=1, max_length=MOST_FEATURES)]
Tags = Annotated[dict[str, str], Field(max_length=16)]


class Config(BaseModel):
    """Unknown fields are refused, NaN and infinity too."""

    model_config = ConfigDict(extra="forbid", allow_inf_nan=False)


class Remote(Config):
    """A server of the configuration's choice."""

    url: str = Field(pattern=r"^https?://")
    api_key_env: str | None = None

    @property
    def api_key(self) -> str | None:
        """Raises InvalidInput where the variable is not set."""
        if self.api_key_env is None:
            return None
        if not os.environ.get(self.api_key_env):
            raise InvalidInput("api_key_env", "the name of an environment variable that is set", self.api_key_env)
        return os.environ[self.api_key_env]


def compiling(pattern: str) -> str:
    """The pattern, if it is one."""
    try:
        re.compile(pattern)
    except re.error as error:
        raise ValueError(f"Input should be a regular expression ({error})") from None
    return pattern


class UpstreamConfig(Remote):
    models: list[str] | None = None  # None: what its /v1/models says


class LogProbability(Config):
    """exp of the mean log-probability of an answer's tokens."""

    type: Literal["log_probability"] = "log_probability"


class Pattern(Config):
    """1 where the pattern is found in the text, else 0."""

    type: Literal["regex"]
    pattern: str

    @field_validator("pattern")
    @classmethod
    def _compiles(cls, pattern: str) -> str:
        return compiling(pattern)


class Schema(Config):
    """1 where the text is JSON that the schema allows, else 0."""

    type: Literal["json_schema"]
    json_schema: dict[str, Any]


class Reward(Remote):
    """A reward model behind vLLM's /classify, /score or /pooling.

    ``aggregate`` folds a process reward model's scores per step; ``raw`` asks for what comes before the activation.
    """

    type: Literal["reward"]
    model: str | None = None
    path: Literal["classify", "score", "pooling"] = "classify"
    aggregate: Literal["min", "prod", "mean", "last"] = "last"
    label: int = Field(default=-1, ge=-1)  # which of a classifier's outputs is the score; -1: the last
    step_separator: str | None = None  # put between the steps (paragraphs) of an answer, as the model was trained
    template: str | None = None  # the text to score, with {prompt} and {answer}; None: the messages
    raw: bool = False
    timeout_s: FiniteFloat = Field(default=30.0, gt=0)


class Judge(Remote):
    """A model that is asked whether an answer is right: P(yes) from its log-probabilities, over several critiques."""

    type: Literal["judge"]
    model: str
    question: str = (
        "Question:\n{prompt}\n\nProposed answer:\n{answer}\n\nIs the proposed answer right? Answer Yes or No."
    )
    critiques: int = Field(default=1, ge=1, le=64)  # at most; fewer where they agree
    timeout_s: FiniteFloat = Field(default=60.0, gt=0)


class Independent(Config):
    """Draws that know nothing of each other."""

    type: Literal["independent"] = "independent"


class Steps(Config):
    """What SLATE and DVTS share: candidates for each step, of which the policy's verifier takes the best."""

    width: int = Field(default=4, ge=1, le=64)  # candidates for a step, at most
    separator: str = Field(default="\n\n", min_length=1)  # between steps
    depth: int = Field(default=40, ge=1, le=1000)  # steps; the last one goes on to the end


class Dvts(Steps):
    """Trees of steps (DVTS), each with as many candidates for a step: a draw is a tree."""

    type: Literal["dvts"] = "dvts"


class Slate(Steps):
    """Steps whose candidates are judged as they come (SLATE), until one is good enough."""

    type: Literal["slate"] = "slate"
    enough: FiniteFloat = 0.9  # the score of a step that is


class TreePO(Config):
    """Paths of one tree, in segments, forked where the model was unsure (TreePO)."""

    type: Literal["treepo"] = "treepo"
    segment: int = Field(default=256, ge=1)  # tokens
    roots: int = Field(default=2, ge=1)  # paths that begin at the question
    depth: int = Field(default=64, ge=1)  # segments of a path


class Scope(Config):
    """Independent draws whose votes are weighed by confidence, in subgroups (SCOPE)."""

    type: Literal["scope"] = "scope"
    groups: int = Field(default=16, ge=1, le=10_000)
    share: FiniteFloat = Field(default=0.5, gt=0, le=1)  # of the answers in a subgroup
    separator: str = Field(default="\n\n", min_length=1)  # between the steps of an answer


StrategyConfig = Annotated[Independent | Dvts | Slate | TreePO | Scope, Field(discriminator="type")]
STRATEGIES: tuple[type[Independent | Dvts | Slate | TreePO | Scope], ...] = (Independent, Dvts, Slate, TreePO, Scope)

VerifierConfig = Annotated[LogProbability | Pattern | Schema | Reward | Judge, Field(discriminator="type")]


class Wishes(Config):
    """What a request may say in ``optscale`` or in X-OptScale-* headers, and what a policy presets."""

    rule: str | None = None
    settings: dict[str, Any] | None = None  # of the rule
    max_samples: int | None = Field(default=None, ge=1)
    min_samples: int | None = Field(default=None, ge=1)
    target: FiniteFloat | None = Field(default=None, gt=0, lt=1)
    price: FiniteFloat | None = Field(default=None, gt=0)
    token_price: FiniteFloat | None = Field(default=None, gt=0)
    expected_tokens: FiniteFloat | None = Field(default=None, gt=0)
    max_tokens_total: int | None = Field(default=None, ge=1)
    deadline_ms: FiniteFloat | None = Field(default=None, gt=0)
    concurrency: int | None = Field(default=None, ge=1)
    overissue: Literal["idle", "none", "all"] | None = None
    verifier: str | None = None  # "none": without the policy's
    extract: str | None = None
    calibration: str | None = None
    features: Features | Literal["text"] | None = None  # of the prompt, for the calibration; "text": made of its text
    on_verifier_error: Literal["votes", "first", "fail"] | None = None
    strategy: str | None = None
    perturb_after: int | None = Field(default=None, ge=1)  # failures without a success: then the prompt is perturbed
    on_drift: Literal["warn", "votes"] | None = None  # of a calibration's scores
    returns: Literal["best", "all", "trace"] | None = Field(default=None, alias="return")
    dry_run: bool | None = None
    progress: bool | None = None
    seed: int | None = Field(default=None, ge=0, lt=2**63)
    tags: Tags | None = None

    model_config = ConfigDict(extra="forbid", allow_inf_nan=False, validate_by_name=True, validate_by_alias=True)

    @field_validator("rule")
    @classmethod
    def _known(cls, rule: str | None) -> str | None:
        if rule is not None and rule not in RULES:
            raise ValueError(f"Input should be one of {', '.join(RULES)}")
        return rule

    def over(self, other: Wishes) -> Wishes:
        """These wishes, and where they say nothing the other's."""
        return other.model_copy(update=self.model_dump(exclude_none=True))


DEFAULTS = Wishes.model_validate(
    {
        "rule": "suffice",
        "max_samples": 32,
        "min_samples": 1,
        "extract": "auto",
        "overissue": "idle",
        "strategy": "independent",
        "on_verifier_error": "votes",
        "on_drift": "votes",
        "return": "best",
        "dry_run": False,
        "progress": False,
    }
)


class Alias(Config):
    model: str
    policy: str = SUFFIX


class LimitsConfig(Config):
    concurrency: int = Field(default=64, ge=1)  # draws that are at the upstreams at once
    requests: int = Field(default=1024, ge=1)  # at work at once; more are answered with 429
    max_samples: int = Field(default=64, ge=1, le=4096)  # that a request may ask for
    deadline_s: FiniteFloat = Field(default=600.0, gt=0)  # the longest, and that of a request that says nothing
    body_mb: FiniteFloat = Field(default=64.0, gt=0)
    connect_s: FiniteFloat = Field(default=5.0, gt=0)
    read_s: FiniteFloat = Field(default=600.0, gt=0)  # between two pieces of an answer
    retries: int = Field(default=2, ge=0, le=10)  # of a draw
    backoff_s: FiniteFloat = Field(default=0.25, gt=0)  # before the first retry; doubles
    health_s: FiniteFloat = Field(default=5.0, gt=0)  # between looks at the upstreams
    keepalive_s: FiniteFloat = Field(default=10.0, gt=0)  # between comments in a stream that has nothing to say yet
    decisions: int = Field(default=1000, ge=0)  # records that are kept


class GatewayConfig(Config):
    upstreams: list[UpstreamConfig] = Field(min_length=1)
    verifiers: dict[Name, VerifierConfig] = {}
    strategies: dict[Name, StrategyConfig] = {}
    policies: dict[Name, Wishes] = {}
    aliases: dict[Name, Alias] = {}
    extractors: dict[Name, str] = {}
    calibrations: Path | None = None  # a folder
    limits: LimitsConfig = LimitsConfig()

    @field_validator("extractors")
    @classmethod
    def _compile(cls, patterns: dict[str, str]) -> dict[str, str]:
        for pattern in patterns.values():
            compiling(pattern)
        return patterns

    def checked(self) -> Self:
        """With what is always there, if all names that are used are there. Raises InvalidInput."""
        self.verifiers.setdefault(LOG_PROBABILITY, LogProbability())
        for made in STRATEGIES:
            usual = made()
            self.strategies.setdefault(usual.type, usual)
        self.policies.setdefault(SUFFIX, Wishes())
        for name, alias in self.aliases.items():
            if alias.policy not in self.policies:
                raise InvalidInput(f"aliases.{name}.policy", f"one of {', '.join(self.policies)}", alias.policy)
        for name, policy in self.policies.items():
            try:
                self.check(policy.over(DEFAULTS))
            except InvalidInput as error:
                raise error.under(f"policies.{name}") from None
        return self

    def check(self, wishes: Wishes) -> None:
        """Raises InvalidInput for names that are not there, settings that make no sense, and what is over a limit."""
        if wishes.max_samples is not None and wishes.max_samples > self.limits.max_samples:
            raise InvalidInput("max_samples", f"at most {self.limits.max_samples}", wishes.max_samples)
        if (wishes.min_samples or 1) > (wishes.max_samples or 1):
            raise InvalidInput("min_samples", f"at most max_samples ({wishes.max_samples})", wishes.min_samples)
        if wishes.deadline_ms is not None and wishes.deadline_ms > 1e3 * self.limits.deadline_s:
            raise InvalidInput("deadline_ms", f"at most {1e3 * self.limits.deadline_s:g}", wishes.deadline_ms)
        if wishes.verifier not in (None, "none", *self.verifiers):
            raise InvalidInput("verifier", f"none or one of {', '.join(self.verifiers)}", wishes.verifier)
        how = self.strategies.get(wishes.strategy or "independent")
        if how is None:
            raise InvalidInput("strategy", f"one of {', '.join(self.strategies)}", wishes.strategy)
        if isinstance(how, Steps) and wishes.verifier in (None, "none"):
            raise InvalidInput("verifier", f"one that judges the steps of {wishes.strategy}", wishes.verifier)
        if wishes.extract is not None:
            extractor(wishes.extract, self.extractors)
        if wishes.features is not None:
            self._check_features(wishes)
        elif wishes.calibration is not None and wishes.rule != "suffice":
            raise InvalidInput("calibration", f"none, with the rule {wishes.rule}", wishes.calibration)
        if sampling_of(wishes).scored and wishes.verifier in (None, "none"):
            looks = f"{wishes.rule} {wishes.settings or ''}".strip()
            raise InvalidInput(
                "verifier", f"one of {', '.join(self.verifiers)}: {looks} looks at scores", wishes.verifier
            )

    def _check_features(self, wishes: Wishes) -> None:
        if wishes.calibration is None:
            raise InvalidInput("features", "none, without a calibration that learns from them", wishes.features)
        if wishes.rule not in EXPECTING:
            raise InvalidInput("features", f"none, with any rule but {' and '.join(EXPECTING)}", wishes.rule)
        if (wishes.max_samples or 1) > MOST_WITH_PRIOR:
            raise InvalidInput("max_samples", f"at most {MOST_WITH_PRIOR} with features", wishes.max_samples)

    @classmethod
    def read(cls, file: Path) -> Self:
        """The configuration in a YAML file. Raises InvalidInput."""
        try:
            document = yaml.safe_load(file.read_text())
        except OSError as error:
            raise InvalidInput("config", "a file that can be read", f"{file} ({error.strerror})") from None
        except yaml.YAMLError as error:
            raise InvalidInput("config", f"YAML ({error})", str(file)) from None
        return cls.of(document)

    @classmethod
    def of(cls, document: Any) -> Self:
        """The configuration that a document holds. Raises InvalidInput."""
        try:
            return cls.model_validate(document).checked()
        except ValidationError as error:
            raise InvalidInput.of(from_pydantic(error.errors())) from None

    @classmethod
    def brief(cls, upstream: str, verifier: str | None = None) -> Self:
        """From the command line: upstreams separated by commas; a verifier's URL, or log_probability."""
        document: dict[str, Any] = {"upstreams": [{"url": url.strip()} for url in upstream.split(",") if url.strip()]}
        if verifier is not None:
            name = "reward" if "://" in verifier else verifier
            if name == "reward":
                document["verifiers"] = {name: {"type": "reward", "url": verifier}}
            document["policies"] = {SUFFIX: {"verifier": name}}
        return cls.of(document)


def wishes_of(document: Any) -> Wishes:
    """What a request's ``optscale`` says. Raises InvalidInput, with fields as the client wrote them."""
    if document is None:
        return Wishes()
    if not isinstance(document, Mapping):
        raise InvalidInput("optscale", "an object", document)
    try:
        return Wishes.model_validate(document)
    except ValidationError as error:
        raise InvalidInput.of(from_pydantic(error.errors())).under("optscale") from None


def sampling_of(wishes: Wishes, expected: Expected = NOTHING, **more: Any) -> Sampling:
    """The sampling that complete wishes describe, of a prompt of which something is expected. Raises InvalidInput."""
    rule = wishes.rule or "suffice"
    return Sampling(
        rule,
        max_samples=wishes.max_samples or 1,
        target=wishes.target,
        price=wishes.price,
        token_price=wishes.token_price,
        **expected.options(rule, wishes.settings or {}, wishes.expected_tokens),
        **more,
    )
