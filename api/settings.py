"""What can be set: by argument, by an environment variable with the prefix SUFFICE_, or in a TOML file."""

from __future__ import annotations

import os
import tomllib
from pathlib import Path
from typing import Any, Literal, Self, cast

from pydantic import Field, ValidationError
from pydantic_settings import BaseSettings, InitSettingsSource, SettingsConfigDict
from pydantic_settings import PydanticBaseSettingsSource as Source

from suffice.optimizer import InvalidInput

from .errors import from_pydantic

ELSEWHERE = {"SUFFICE_SETTINGS", "SUFFICE_URL", "SUFFICE_API_KEY"}  # variables that are no settings of the service


class Settings(BaseSettings):
    model_config = SettingsConfigDict(env_prefix="SUFFICE_", extra="forbid")

    host: str = "127.0.0.1"
    port: int = Field(default=8000, ge=0, le=65535)  # 0: any free one
    allow_unauthenticated: bool = False  # listen beyond this machine although there are no keys
    database: str = "sqlite:///suffice.db"
    workers: int = Field(default=1, ge=0, le=64)  # engine processes
    worker_threads: int = Field(default=1, ge=1)  # for linear algebra, in each; small matrices are slower with more
    engine: Literal["local", "ray"] = "local"  # where the workers are: processes here, or actors on a cluster
    ray_address: str | None = None  # of the cluster; None: a Ray of this machine
    sweep_seconds: float = Field(default=2.0, gt=0)  # how often expired leases are looked for between asks
    learn_seconds: float = Field(default=300.0, ge=0)  # how often features of prompts are learned from; 0: on request
    upstream: str | None = None  # inference servers' addresses, separated by commas: the gateway goes before them
    verifier: str | None = None  # of the gateway: a reward model's address, or log_probability
    gateway_config: Path | None = None  # the gateway's YAML file, in place of both
    body_mb: float = Field(default=64.0, gt=0)  # the largest body of a request; the gateway has a limit of its own
    drain_seconds: float = Field(default=0.0, ge=0)  # after SIGTERM: still answering, but not ready for more
    stop_seconds: int = Field(default=5, ge=0)  # then: that requests get to end
    open_metrics: bool = False  # /metrics without a key
    traces: bool = False  # OpenTelemetry, as the OTEL_ variables say where to
    log_level: Literal["critical", "error", "warning", "info", "debug"] = "info"
    log_format: Literal["text", "json"] = "text"
    log_requests: bool = False

    @classmethod
    def read(cls, file: Path | None, **given: Any) -> Self:
        """What is ``given``, else in the environment, else in the file. Raises InvalidInput."""
        try:
            return cls(**given) if file is None else cls._filed(file, given)
        except ValidationError as error:
            raise InvalidInput.of(from_pydantic(error.errors())) from None

    @classmethod
    def _filed(cls, file: Path, given: dict[str, Any]) -> Self:
        try:
            document = tomllib.loads(file.read_text())
        except OSError as error:
            raise InvalidInput("settings", "a file that can be read", f"{file} ({error.strerror})") from None
        except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
            raise InvalidInput("settings", f"TOML ({error})", str(file)) from None

        class Filed(cls):  # type: ignore[valid-type,misc]
            @classmethod
            def settings_customise_sources(
                cls,
                settings_cls: type[BaseSettings],
                init_settings: Source,
                env_settings: Source,
                dotenv_settings: Source,
                file_secret_settings: Source,
            ) -> tuple[Source, ...]:
                return init_settings, env_settings, InitSettingsSource(settings_cls, document)

        return cast("Self", Filed(**given))


def unknown_variables() -> list[str]:
    """Variables of the environment that look like settings and are none: misspelled ones, or Kubernetes' own."""
    known = {f"SUFFICE_{name.upper()}" for name in Settings.model_fields} | ELSEWHERE
    return sorted(name for name in os.environ if name.startswith("SUFFICE_") and name.upper() not in known)
