"""What can be set, by argument or by an environment variable with the prefix SUFFICE_."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from pydantic import Field
from pydantic_settings import BaseSettings, SettingsConfigDict


class Settings(BaseSettings):
    model_config = SettingsConfigDict(env_prefix="SUFFICE_", extra="forbid")

    host: str = "127.0.0.1"
    port: int = Field(default=8000, ge=0, le=65535)  # 0: any free one
    database: str = "sqlite:///suffice.db"
    workers: int = Field(default=1, ge=0, le=64)  # engine processes
    worker_threads: int = Field(default=1, ge=1)  # for linear algebra, in each; small matrices are slower with more
    sweep_seconds: float = Field(default=2.0, gt=0)  # how often expired leases are looked for between asks
    upstream: str | None = None  # inference servers' addresses, separated by commas: the gateway goes before them
    verifier: str | None = None  # of the gateway: a reward model's address, or log_probability
    gateway_config: Path | None = None  # the gateway's YAML file, in place of both
    log_level: Literal["critical", "error", "warning", "info", "debug"] = "info"
