"""What `oms doctor` finds beside the preflight: an environment that is not as this release makes and wants it.

Pure: facts in, findings out. The preflight keeps a process from starting; this here tells before it is tried.
"""

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass

from libs.events.topics import Topic
from libs.runtime.access import Access
from libs.runtime.preflight import Finding, TopicFacts

_FOR_EVER = -1
LIMITS = ("statement_timeout", "lock_timeout", "idle_in_transaction_session_timeout")

Acl = tuple[str, str, str, str]
"""User (without `User:`), resource, name and operation of an ACL that allows."""


def check_presence(wanted: Sequence[Topic], found: Mapping[str, TopicFacts]) -> Iterator[Finding]:
    for topic in wanted:
        if topic.name not in found:
            yield _finding(
                f"Kafka has no topic {topic.name}, or this user may not see it",
                f"Make it with {topic.partitions} partitions ('oms republish' makes a lost one of ours anew)",
            )


def check_configs(wanted: Sequence[Topic], found: Mapping[str, TopicFacts]) -> Iterator[Finding]:
    for topic in wanted:
        facts = found.get(topic.name)
        if facts is None:
            continue
        if facts.cleanup_policy not in (None, topic.cleanup_policy):
            yield _finding(
                f"{topic.name} has cleanup.policy={facts.cleanup_policy}, and records must not vanish otherwise than by"
                f" {topic.cleanup_policy}",
                f"Set cleanup.policy={topic.cleanup_policy} on it",
            )
        kept, least = facts.retention_ms, topic.retention_ms or _FOR_EVER
        if kept is not None and kept != _FOR_EVER and (least == _FOR_EVER or kept < least):
            yield _finding(
                f"{topic.name} keeps records for {kept} ms, less than the {least} ms that readers may be away",
                f"Set retention.ms={least} on it",
            )


def check_access(wanted: Mapping[str, Sequence[Access]], found: Collection[Acl] | None) -> Iterator[Finding]:
    """`found` is None where the broker has no authorizer."""
    if found is None:
        yield Finding(
            name="anonymous_kafka",
            what="Kafka holds nobody to anything: it has no authorizer",
            remedy="Give it one (StandardAuthorizer) with the ACLs of 'oms access'",
        )
        return
    needed: set[Acl] = {
        (user, access.resource, access.name, operation)
        for user, granted in wanted.items()
        for access in granted
        for operation in access.operations
    }
    have = set(found)
    for user, kind, name, may in sorted(needed - have):
        if (user, kind, name, "All") not in have:
            yield _finding(f"{user} may not {may} {kind} {name}", "Add this ACL ('oms access' lists all)")
    for user, kind, name, may in sorted(have - needed):
        if user in wanted or user == "*":
            yield _finding(
                f"{'Everybody' if user == '*' else user} may {may} {kind} {name}, and need not",
                "Delete this ACL: a topic's owner alone may write it, and what is not needed helps only a thief",
            )


@dataclass(frozen=True, kw_only=True)
class DatabaseFacts:
    """A service's database as a session of the application's role sees it.

    `powers` are attributes that it must not have (superuser, …); `tables` say what it may do with each table;
    `columns` are those of tables; `migrations` is None where it may not read which were applied.
    """

    role: str
    powers: Sequence[str]
    owned: Sequence[str]
    public_may_connect: bool
    limits: Mapping[str, str]
    tables: Mapping[str, frozenset[str]]
    columns: Mapping[str, frozenset[str]]
    migrations: Collection[str] | None


@dataclass(frozen=True, kw_only=True)
class DatabaseNeeds:
    """As this release makes it: rights and indexed columns by table, and the migrations in order."""

    rights: Mapping[str, frozenset[str]]
    columns: Mapping[str, frozenset[str]]
    migrations: Sequence[str]


def check_database(needs: DatabaseNeeds, facts: DatabaseFacts) -> list[Finding]:
    schema = list(_check_schema(needs, facts))
    # The rights on tables that are not there yet, or not yet this release's, come with the migration.
    return [*schema, *([] if schema else _check_rights(needs, facts)), *_check_role(facts)]


def _check_schema(needs: DatabaseNeeds, facts: DatabaseFacts) -> Iterator[Finding]:
    applied = facts.migrations or ()
    missing = [number for number in needs.migrations if number not in applied]
    newer = [number for number in applied if number not in needs.migrations]
    tables = [table for table in needs.rights if table not in facts.tables]
    lacking = [
        f"{table}.{column}"
        for table, columns in needs.columns.items()
        if table in facts.tables
        for column in sorted(columns - facts.columns.get(table, frozenset()))
    ]
    if missing or tables or lacking:
        what = [f"migration {', '.join(missing)}"] if missing else []
        what += [f"the table {', '.join(tables)}"] if tables else []
        what += [f"the column {', '.join(lacking)}"] if lacking else []
        yield _finding(f"The database lacks {'; '.join(what)}", "Run `python -m services.<name> migrate` as its owner")
    if newer:
        yield Finding(
            name=None,
            what=f"The database is of a newer release: migration {', '.join(newer)}",
            remedy="Nothing, if you are in the middle of an upgrade or go back",
            note=True,
        )


def _check_rights(needs: DatabaseNeeds, facts: DatabaseFacts) -> Iterator[Finding]:
    for table, rights in needs.rights.items():
        has = facts.tables[table]
        if lacking := sorted(rights - has):
            yield _finding(
                f"{facts.role} may not {', '.join(lacking)} {table}",
                "Run `python -m services.<name> migrate` with OMS_POSTGRES_DSN of this role set, which grants it",
            )
        if excess := sorted(has - rights):
            yield _finding(
                f"{facts.role} may {', '.join(excess)} {table}, and need not: history could be rewritten",
                f"REVOKE {', '.join(excess)} ON {table} FROM {facts.role}",
            )


def _check_role(facts: DatabaseFacts) -> Iterator[Finding]:
    if facts.powers:
        yield _finding(
            f"{facts.role} is {', '.join(facts.powers)}, and so nothing holds it to its rights",
            "Let the service log in as a role of its own without such powers",
        )
    elif facts.owned:
        yield _finding(
            f"{facts.role} owns {', '.join(facts.owned)}, and so may change history",
            "Let the owner's role own the tables, and the service log in as another",
        )
    if facts.public_may_connect:
        yield _finding(
            "Every role of the server may connect to this database", "REVOKE ALL ON DATABASE … FROM PUBLIC, and grant"
        )
    if unlimited := [name for name in LIMITS if facts.limits.get(name) in (None, "0")]:
        yield _finding(
            f"{facts.role} has no {', '.join(unlimited)}: one forgotten transaction holds up the whole service",
            f"ALTER ROLE {facts.role} SET statement_timeout = '5s', lock_timeout = '2s' and"
            " idle_in_transaction_session_timeout = '5s', each by its own statement",
        )


def _finding(what: str, remedy: str) -> Finding:
    return Finding(name=None, what=what, remedy=remedy)
