"""All settings of a process, read from the environment in this one place: `OMS_*`, secrets from files."""

from pathlib import Path
from typing import Annotated, Literal, TypeVar

from pydantic import BaseModel, BeforeValidator, Field
from pydantic_settings import BaseSettings, EnvSettingsSource, NoDecode, SettingsConfigDict

M = TypeVar("M", bound=BaseModel)

Unsafe = Literal[
    "plaintext_kafka",
    "anonymous_kafka",
    "unverified_postgres",
    "password_in_dsn",
    "no_api_keys",
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
    """What every process of a service takes. Times are in seconds unless the name says otherwise."""

    model_config = SettingsConfigDict(env_prefix="OMS_", frozen=True, extra="ignore", use_attribute_docstrings=True)

    kafka_bootstrap: str = "127.0.0.1:9092"
    """Addresses of some of Kafka's brokers, `host:port` with commas between."""
    kafka_security_protocol: Literal["PLAINTEXT", "SSL", "SASL_PLAINTEXT", "SASL_SSL"] = "PLAINTEXT"
    """How Kafka is spoken to. Beyond this machine `SASL_SSL`, or `SSL` with a client certificate."""
    kafka_sasl_mechanism: Literal["SCRAM-SHA-512", "SCRAM-SHA-256"] = "SCRAM-SHA-512"
    """How the password is proven, under the two protocols with SASL."""
    kafka_sasl_username: str = ""
    """Whom Kafka knows this service as: one user a service, with no more rights than `oms access` lists."""
    kafka_sasl_password_file: Path | None = None
    """A file with the password of `OMS_KAFKA_SASL_USERNAME`. Read when the process starts."""
    kafka_ca_file: Path | None = None
    """PEM file of the authorities that may sign the brokers' certificates; without it those of the system."""
    kafka_cert_file: Path | None = None
    """PEM file of this service's own certificate, where brokers know it by that; needs `OMS_KAFKA_KEY_FILE`."""
    kafka_key_file: Path | None = None
    """PEM file of the private key of `OMS_KAFKA_CERT_FILE`, not encrypted."""
    kafka_session_ms: int = 6_000
    """A consumer that is silent for so long has lost its partitions."""
    kafka_heartbeat_ms: int = 2_000
    """How often a consumer says that it is alive."""
    kafka_rebalance_ms: int = 20_000
    """How long the others wait for a consumer that is in the middle of a batch when partitions are dealt anew."""
    kafka_fetch_ms: Annotated[int, Field(ge=1, le=500)] = 20
    """How long a broker may gather records for a consumer before it answers."""

    postgres_dsn: str = ""
    """`postgresql://<application role>@<host>/<database>` of this service. The password is better in a file."""
    postgres_password_file: Path | None = None
    """A file with the password of the application role. Read at every new connection: replacing it is enough."""
    postgres_owner_dsn: str = ""
    """The same for the owner role. Only `migrate` and `rebuild` use it."""
    postgres_owner_password_file: Path | None = None
    """A file with the password of the owner role."""
    postgres_read_dsn: str = ""
    """The same for the role of dashboards: `migrate` lets it read `reporting`. No password is needed."""
    postgres_ca_file: Path | None = None
    """PEM file of the authorities that may sign the database's certificate. With it every connection is TLS, and
    certificate and host name are checked (`verify-full`); without it the DSN's own `sslmode` decides."""
    postgres_pool: Annotated[int, Field(ge=2)] = 8
    """Connections of a process to its database."""

    http_host: str = "127.0.0.1"
    """The address that HTTP is served on."""
    http_port: int = 8080
    """The port that HTTP is served on."""
    api_keys_file: Path | None = None
    """The file of `oms keys`: who may use HTTP, and for what. Read anew when it changes. Needed beyond loopback."""

    psp_url: str = "http://127.0.0.1:7101"
    """Where the payment service reaches its PSP."""
    carrier_url: str = "http://127.0.0.1:7102"
    """Where the fulfillment service reaches its carrier."""
    warehouse_url: str = "http://127.0.0.1:7103"
    """Where the fulfillment service reaches its warehouse."""
    callback_secret_file: Path | None = None
    """A file with the `whsec_…` secret that partners sign their callbacks with."""

    batch_records: Annotated[int, Field(ge=1, le=5_000)] = 500
    """The most records or commands of one transaction."""
    relay_pointers: Annotated[int, Field(ge=1, le=10_000)] = 1_000
    """The most events that the relay publishes in one round."""
    poll_ms: int = 200
    """How often a loop looks for work that nobody woke it for."""
    lease_seconds: float = 5.0
    """After so long without a word of it another relay takes over."""
    effect_lease_seconds: float = 12.0
    """After so long a call to the outside that has not been answered is made again, under the same key."""
    answer_days: float = 7.0
    """How long the answer to an Idempotency-Key is kept."""
    snapshot_every: Annotated[int, Field(ge=1)] = 100
    """A stream's state is stored every so many events."""
    cached_states: Annotated[int, Field(ge=0)] = 5_000
    """How many streams' states a process keeps in memory."""
    park_ratio: float = 0.02
    """The share of bad records at which a partition stops instead of parking more."""
    park_ratio_over: int = 1_000
    """Over how many records `OMS_PARK_RATIO` is counted."""
    park_keys_in_a_row: int = 20
    """So many different keys parked one after the other stop the partition."""

    allow_unsafe: Annotated[frozenset[Unsafe], NoDecode, BeforeValidator(_named)] = frozenset()
    """Findings of the preflight under which the process starts all the same: names with commas between."""

    log_level: str = "INFO"
    """The least level that is logged."""
    trace_ratio: Annotated[float, Field(ge=0, le=1)] = 0.01
    """The share of journeys that are traced."""
    otlp_endpoint: str = ""
    """Where traces are sent by OTLP over HTTP, `http://host:4318`; empty: nowhere."""
    stop_seconds: float = 20.0
    """How long a process may take to finish what it has begun when it is told to stop."""

    def read(self, model: type[M], prefix: str) -> M:
        """Another settings model of this process (a service's timers, a gateway's time-outs) under its own prefix."""
        return model.model_validate(EnvSettingsSource(model, env_prefix=prefix)())  # type: ignore[arg-type]

    def callback_secret(self) -> str:
        """The `whsec_…` secret that callbacks are signed with; empty where none is set (callbacks are refused)."""
        return self.callback_secret_file.read_text().strip() if self.callback_secret_file else ""
