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
    """Of `oms up`, `oms demo` and the other commands that look at the local cluster, and of `oms databases`."""

    model_config = SettingsConfigDict(
        env_prefix="OMS_", extra="ignore", env_ignore_empty=True, use_attribute_docstrings=True
    )

    state_dir: Path = Field(default_factory=default_state_dir)
    """Where its data and logs are. By default ~/.local/state/orderloom; as root /var/lib/orderloom."""
    cache_dir: Path = Field(default_factory=default_cache_dir)
    """Where Kafka's jars are kept. By default ~/.cache/orderloom."""
    maven_mirror: str | None = None
    """Another Maven repository to fetch Kafka's jars from."""
    pg_bin: Path | None = None
    """A directory with `initdb` and `postgres`, instead of those that were installed with Orderloom."""
    pg_account: str | None = None
    """The account that PostgreSQL runs as when you are root."""
    kafka_bootstrap: str | None = None
    """An outside Kafka to use instead of one of the cluster's own, under the links of the settings above."""
    postgres_host: str | None = None
    """An outside PostgreSQL to use instead of one of the cluster's own."""
    postgres_port: int = 5432
    """The port of `OMS_POSTGRES_HOST`."""
    postgres_user: str = "postgres"
    """A role there that may make databases and roles."""
    postgres_password: SecretStr = SecretStr("")
    """Its password. For a laptop: better in a file."""
    postgres_password_file: Path | None = None
    """A file with that password. Also what `oms databases` takes."""
    postgres_sslmode: str = "prefer"
    """How it is connected to, as in a DSN."""
    seed: int = 1
    """The simulators' chances: the same seed, the same faults."""

    def admin_password(self) -> str:
        """Of `postgres_user`. Raises OSError when its file cannot be read."""
        file = self.postgres_password_file
        return file.read_text().strip() if file else self.postgres_password.get_secret_value()
