"""All settings of a process, read from the environment in this one place: `OMS_*`, secrets from files."""

from pathlib import Path
from typing import Annotated, Literal, TypeVar

from pydantic import BaseModel, BeforeValidator, Field
from pydantic_settings import BaseSettings, EnvSettingsSource, NoDecode, SettingsConfigDict

M = TypeVar("M", bound=BaseModel)

Unsafe = Literal[
    "missing_secret",
    "old_postgres",
    "clock_skew",
    "synchronous_commit",
    "fsync",
    "asynchronous_standby",
    "single_replica",
    "in_sync_replicas",
    "few_partitions",
    "more_partitions",
]
"""What a preflight may find. All but `more_partitions`, which is only told, keep a process from starting."""


def _named(text: object) -> object:
    return [name.strip() for name in text.split(",") if name.strip()] if isinstance(text, str) else text


class Settings(BaseSettings):
    """Times in seconds unless the name says `_ms`. Defaults are those of design section 7."""

    model_config = SettingsConfigDict(env_prefix="OMS_", frozen=True, extra="ignore")

    kafka_bootstrap: str = "127.0.0.1:9092"
    kafka_session_ms: int = 6_000
    kafka_heartbeat_ms: int = 2_000
    kafka_rebalance_ms: int = 20_000
    kafka_fetch_ms: Annotated[int, Field(ge=1, le=500)] = 20

    postgres_dsn: str = ""
    postgres_owner_dsn: str = ""
    postgres_read_dsn: str = ""
    postgres_pool: Annotated[int, Field(ge=2)] = 8

    http_host: str = "127.0.0.1"
    http_port: int = 8080

    psp_url: str = "http://127.0.0.1:7101"
    carrier_url: str = "http://127.0.0.1:7102"
    warehouse_url: str = "http://127.0.0.1:7103"
    callback_secret_file: Path | None = None

    batch_records: Annotated[int, Field(ge=1, le=5_000)] = 500
    relay_pointers: Annotated[int, Field(ge=1, le=10_000)] = 1_000
    poll_ms: int = 200
    lease_seconds: float = 5.0
    effect_lease_seconds: float = 12.0
    answer_days: float = 7.0
    snapshot_every: Annotated[int, Field(ge=1)] = 100
    cached_states: Annotated[int, Field(ge=0)] = 5_000
    park_ratio: float = 0.02
    park_ratio_over: int = 1_000
    park_keys_in_a_row: int = 20

    allow_unsafe: Annotated[frozenset[Unsafe], NoDecode, BeforeValidator(_named)] = frozenset()
    """Findings of the preflight under which the process starts all the same: names with commas between."""

    log_level: str = "INFO"
    trace_ratio: Annotated[float, Field(ge=0, le=1)] = 0.01
    otlp_endpoint: str = ""
    stop_seconds: float = 20.0

    def read(self, model: type[M], prefix: str) -> M:
        """Another settings model of this process (a service's timers, a gateway's time-outs) under its own prefix."""
        return model.model_validate(EnvSettingsSource(model, env_prefix=prefix)())  # type: ignore[arg-type]

    def callback_secret(self) -> str:
        """The `whsec_…` secret that callbacks are signed with; empty where none is set (callbacks are refused)."""
        return self.callback_secret_file.read_text().strip() if self.callback_secret_file else ""
