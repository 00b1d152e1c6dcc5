"""What a process needs of its settings, PostgreSQL and Kafka, so that its promises can hold at all.

Pure: facts in, findings out (`surroundings.py` gathers the facts). A process does not start while there is a finding
that `OMS_ALLOW_UNSAFE` does not allow by its name.
"""

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass

from libs.events.topics import Topic
from libs.runtime.settings import Unsafe

OLDEST_POSTGRES = 14
MOST_SKEW_SECONDS = 2.0
SAFE_COPIES = 2

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
