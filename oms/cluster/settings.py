"""Where the cluster keeps its things, and which outside servers stand in for its own."""

import os
from pathlib import Path

from pydantic import Field, SecretStr
from pydantic_settings import BaseSettings, SettingsConfigDict


def default_state_dir() -> Path:
    # Root's PostgreSQL runs as another account, which could not enter root's home.
    if os.geteuid() == 0:
        return Path("/var/lib/orderloom")
    return Path(os.environ.get("XDG_STATE_HOME") or Path.home() / ".local" / "state") / "orderloom"


def default_cache_dir() -> Path:
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "orderloom"


class ClusterSettings(BaseSettings):
    """Read from OMS_* once per command; tests build it with arguments."""

    model_config = SettingsConfigDict(env_prefix="OMS_", extra="ignore", env_ignore_empty=True)

    state_dir: Path = Field(default_factory=default_state_dir)
    cache_dir: Path = Field(default_factory=default_cache_dir)
    maven_mirror: str | None = None
    pg_bin: Path | None = None
    pg_account: str | None = None
    kafka_bootstrap: str | None = None
    postgres_host: str | None = None
    postgres_port: int = 5432
    postgres_user: str = "postgres"
    postgres_password: SecretStr = SecretStr("")
    postgres_sslmode: str = "prefer"
    seed: int = 1
