"""What a process needs of its settings, PostgreSQL and Kafka, so that its promises can hold at all.

Pure: facts in, findings out (`surroundings.py` gathers the facts). A process does not start while there is a finding
that `OMS_ALLOW_UNSAFE` does not allow by its name.
"""

import ssl
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass

from libs.events.topics import Topic
from libs.runtime.keys import KeysUnreadable, read_keys
from libs.runtime.link import has_password, is_here, is_verified, kafka_hosts, kafka_link, postgres_hosts
from libs.runtime.settings import Settings, Unsafe

OLDEST_POSTGRES = 14
MOST_SKEW_SECONDS = 2.0
SAFE_COPIES = 2

LINK_FILES = (
    "kafka_sasl_password_file",
    "kafka_ca_file",
    "kafka_cert_file",
    "kafka_key_file",
    "postgres_password_file",
    "postgres_owner_password_file",
    "postgres_ca_file",
)

_WAIT_FOR_NO_STANDBY = frozenset({"local", "off"})


@dataclass(frozen=True, kw_only=True)
class PostgresFacts:
    """As a session of the application's own role sees it. `skew_seconds`: this process's clock minus the database's,
    less what the asking took; `standbys`: physical ones that are attached."""

    version_num: int
    fsync: str
    full_page_writes: str
    synchronous_commit: str
    synchronous_standby_names: str
    standbys: int
    skew_seconds: float


@dataclass(frozen=True, kw_only=True)
class TopicFacts:
    """A topic as the broker has it. Its settings are None where we may not read them; -1 ms of retention: for ever."""

    partitions: int
    replicas: int
    min_insync_replicas: int | None
    retention_ms: int | None = None
    cleanup_policy: str | None = None


@dataclass(frozen=True, kw_only=True)
class Finding:
    """`name` is what OMS_ALLOW_UNSAFE calls it: None where the process cannot run so. A `note` is only told."""

    name: Unsafe | None
    what: str
    remedy: str
    note: bool = False

    def __str__(self) -> str:
        allow = f" Or allow it: OMS_ALLOW_UNSAFE={self.name}." if self.name and not self.note else ""
        return f"{self.name or 'not configured'}: {self.what}. {self.remedy}.{allow}"


class Refused(Exception):
    """The process does not start; the message lists everything that is wrong and what to do about it."""

    def __init__(self, findings: Sequence[Finding]) -> None:
        super().__init__("\n".join(f"  {finding}" for finding in findings))
        self.findings = findings


def unsafe(findings: Sequence[Finding], allowed: Collection[Unsafe]) -> list[Finding]:
    """Those that keep the process from starting."""
    return [finding for finding in findings if not finding.note and finding.name not in allowed]


def check_settings(settings: Settings) -> list[Finding]:
    return [*_check_dsn(settings), *_check_secret(settings), *_check_keys(settings), *check_links(settings)]


def _check_dsn(settings: Settings) -> Iterator[Finding]:
    if not settings.postgres_dsn:
        yield Finding(
            name=None,
            what="OMS_POSTGRES_DSN is not set",
            remedy="Set it to postgresql://<application role>@<host>/<database of the service>",
        )


def _check_secret(settings: Settings) -> Iterator[Finding]:
    file = settings.callback_secret_file
    if file is None:
        fault = "OMS_CALLBACK_SECRET_FILE is not set: no callback could be believed"
    else:
        try:
            fault = "" if settings.callback_secret().startswith("whsec_") else f"{file} holds no whsec_… secret"
        except (OSError, UnicodeDecodeError) as error:
            fault = f"OMS_CALLBACK_SECRET_FILE cannot be read ({type(error).__name__}: {file})"
    if fault:
        yield Finding(
            # Without one every callback is refused, which is safe; with a wrong one somebody has made a mistake.
            name="missing_secret" if file is None else None,
            what=fault,
            remedy="Let it name a file with the secret that partners sign with, whsec_ and its base64",
        )


def _check_keys(settings: Settings) -> Iterator[Finding]:
    file = settings.api_keys_file
    if file is None:
        if not is_here(settings.http_host):
            yield Finding(
                name="no_api_keys",
                what=f"HTTP is served on {settings.http_host} to whoever can reach it: OMS_API_KEYS_FILE is not set",
                remedy="Let it name the file that 'oms keys create' writes, or set OMS_HTTP_HOST=127.0.0.1",
            )
        return
    try:
        read_keys(file)
    except KeysUnreadable as error:
        yield Finding(
            name=None,
            what=f"OMS_API_KEYS_FILE cannot be used ({error})",
            remedy="Let it name the file that 'oms keys create' writes, readable by this process",
        )


def check_links(settings: Settings) -> list[Finding]:
    """What would be said in the clear, or cannot be proven, beyond this machine; and files that are not there."""
    unreadable = list(_check_files(settings))
    certificates = [] if unreadable else _check_certificates(settings)
    return [*unreadable, *certificates, *_check_kafka_link(settings), *_check_postgres_links(settings)]


def _check_files(settings: Settings) -> Iterator[Finding]:
    for name in LINK_FILES:
        file = getattr(settings, name)
        variable = f"OMS_{name.upper()}"
        try:
            if file is None or file.read_text().strip():
                continue
            fault = f"{variable} names an empty file ({file})"
        except (OSError, UnicodeDecodeError) as error:
            fault = f"{variable} cannot be read ({type(error).__name__}: {file})"
        yield Finding(name=None, what=fault, remedy="Let it name the right file, readable by this process")


def _check_certificates(settings: Settings) -> Iterator[Finding]:
    variables = {
        "OMS_KAFKA_CA_FILE, OMS_KAFKA_CERT_FILE or OMS_KAFKA_KEY_FILE": lambda: kafka_link(settings),
        "OMS_POSTGRES_CA_FILE": lambda: ssl.create_default_context(cafile=settings.postgres_ca_file),
    }
    for names, load in variables.items():
        try:
            load()
        except (OSError, ValueError) as error:  # OpenSSL's own are OSErrors
            yield Finding(
                name=None,
                what=f"{names} holds no certificate or key that can be used ({type(error).__name__}: {error})",
                remedy="Let it name a PEM file; a key belongs to its certificate and is not encrypted",
            )


def _check_kafka_link(settings: Settings) -> Iterator[Finding]:
    protocol = settings.kafka_security_protocol
    if protocol.startswith("SASL_") and not (settings.kafka_sasl_username and settings.kafka_sasl_password_file):
        yield Finding(
            name=None,
            what=f"OMS_KAFKA_SECURITY_PROTOCOL is {protocol}, without a user or its password",
            remedy="Set OMS_KAFKA_SASL_USERNAME and OMS_KAFKA_SASL_PASSWORD_FILE",
        )
    away = [host for host, _ in kafka_hosts(settings) if not is_here(host)]
    if away and not protocol.endswith("SSL"):
        yield Finding(
            name="plaintext_kafka",
            what=f"everything goes to Kafka at {', '.join(away)} in the clear (OMS_KAFKA_SECURITY_PROTOCOL={protocol})",
            remedy="Set OMS_KAFKA_SECURITY_PROTOCOL=SASL_SSL",
        )
    elif away and protocol == "SSL" and settings.kafka_cert_file is None:
        yield Finding(
            name="anonymous_kafka",
            what="Kafka is not told who this service is, and so cannot hold it to its own topics",
            remedy="Set OMS_KAFKA_SECURITY_PROTOCOL=SASL_SSL with a user, or name a client certificate",
        )


def _check_postgres_links(settings: Settings) -> Iterator[Finding]:
    for name, dsn in (("POSTGRES", settings.postgres_dsn), ("POSTGRES_OWNER", settings.postgres_owner_dsn)):
        away = [host for host in postgres_hosts(dsn) if not is_here(host)]
        if away and not is_verified(dsn, settings.postgres_ca_file):
            yield Finding(
                name="unverified_postgres",
                what=f"OMS_{name}_DSN leads to {', '.join(away)} without TLS or without checking the certificate",
                remedy="Let OMS_POSTGRES_CA_FILE name the authority of its certificate",
            )
        if away and has_password(dsn):
            yield Finding(
                name="password_in_dsn",
                what=f"OMS_{name}_DSN has a password in it, which whoever sees the environment can read",
                remedy=f"Take it out and name its file in OMS_{name}_PASSWORD_FILE",
            )


def refused_by_postgres(error: Exception) -> Finding:
    """A login that will not be accepted later either."""
    return Finding(
        name=None,
        what=f"PostgreSQL refuses the login ({type(error).__name__})",
        remedy="Correct role, password (OMS_POSTGRES_PASSWORD_FILE) and database in OMS_POSTGRES_DSN; a server that"
        " takes nobody without TLS needs OMS_POSTGRES_CA_FILE",
    )


def check_postgres(facts: PostgresFacts) -> list[Finding]:
    return [*_check_version(facts), *_check_clock(facts), *_check_durability(facts), *_check_standbys(facts)]


def _check_version(facts: PostgresFacts) -> Iterator[Finding]:
    if facts.version_num < OLDEST_POSTGRES * 10_000:
        yield Finding(
            name="old_postgres",
            what=f"PostgreSQL is {facts.version_num // 10_000}, and {OLDEST_POSTGRES} is the oldest that is supported",
            remedy=f"Upgrade the server to {OLDEST_POSTGRES} or newer",
        )


def _check_clock(facts: PostgresFacts) -> Iterator[Finding]:
    if abs(facts.skew_seconds) > MOST_SKEW_SECONDS:
        side = "ahead of" if facts.skew_seconds > 0 else "behind"
        yield Finding(
            name="clock_skew",
            what=f"This machine's clock is {abs(facts.skew_seconds):.1f} s {side} the database's",
            remedy=f"Let NTP keep both within {MOST_SKEW_SECONDS:.0f} s",
        )


def _check_durability(facts: PostgresFacts) -> Iterator[Finding]:
    lost = "an order that was accepted can be lost when the database's machine goes down"
    if facts.synchronous_commit == "off":
        yield Finding(
            name="synchronous_commit",
            what=f"synchronous_commit is off for this role: {lost}",
            remedy="Set it to on, in the server and for the role",
        )
    for name, setting in (("fsync", facts.fsync), ("full_page_writes", facts.full_page_writes)):
        if setting == "off":
            yield Finding(
                name="fsync", what=f"PostgreSQL runs with {name}=off: {lost}", remedy=f"Set {name}=on and restart it"
            )


def _check_standbys(facts: PostgresFacts) -> Iterator[Finding]:
    """A standby that commits do not wait for loses accepted orders when it is promoted."""
    waited_for = facts.synchronous_standby_names.strip() and facts.synchronous_commit not in _WAIT_FOR_NO_STANDBY
    if facts.standbys and not waited_for:
        yield Finding(
            name="asynchronous_standby",
            what=f"{facts.standbys} standby servers are attached and commits wait for none of them"
            f" (synchronous_standby_names='{facts.synchronous_standby_names}',"
            f" synchronous_commit={facts.synchronous_commit})",
            remedy="Name at least one in synchronous_standby_names, with synchronous_commit=on",
        )


def check_topics(wanted: Sequence[Topic], found: Mapping[str, TopicFacts]) -> list[Finding]:
    """A topic that is not there is no finding: it may be about to be made anew, and is waited for."""
    return [
        finding
        for topic in wanted
        if topic.name in found
        for finding in (*_check_copies(topic, found[topic.name]), *_check_partitions(topic, found[topic.name]))
    ]


def _check_copies(topic: Topic, facts: TopicFacts) -> Iterator[Finding]:
    in_sync = facts.min_insync_replicas
    if facts.replicas < SAFE_COPIES:
        yield Finding(
            name="single_replica",
            what=f"{topic.name} has {facts.replicas} replica: it is lost with its broker",
            remedy="Give it 3 replicas and min.insync.replicas=2",
        )
    if in_sync is not None and in_sync > facts.replicas:
        yield Finding(
            name="in_sync_replicas",
            what=f"{topic.name} asks for {in_sync} replicas in sync and has {facts.replicas}: nothing can be written",
            remedy=f"Give it more than {in_sync} replicas, or lower min.insync.replicas",
        )
    elif in_sync is not None and in_sync < SAFE_COPIES <= facts.replicas:
        yield Finding(
            name="in_sync_replicas",
            what=f"{topic.name} has min.insync.replicas={in_sync}: a record may be acknowledged by one broker alone",
            remedy="Set min.insync.replicas=2 on it",
        )


def _check_partitions(topic: Topic, facts: TopicFacts) -> Iterator[Finding]:
    if facts.partitions < topic.partitions:
        yield Finding(
            name="few_partitions",
            what=f"{topic.name} has {facts.partitions} partitions, and records are written to {topic.partitions}",
            remedy=f"Give it {topic.partitions} partitions (`oms republish` makes a topic of ours anew)",
        )
    elif facts.partitions > topic.partitions:
        yield Finding(
            name="more_partitions",
            what=f"{topic.name} has {facts.partitions} partitions, and only {topic.partitions} are written to",
            remedy="Others who write to it by key may use the rest: those are read as well",
            note=True,
        )
