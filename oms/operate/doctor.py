"""`oms doctor`: whether Kafka and the databases are as this release needs them, and what to do where they are not."""

import asyncio
from collections.abc import AsyncIterator, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Any

import asyncpg
import typer
from aiokafka.errors import ClusterAuthorizationFailedError
from rich.console import Console
from rich.table import Table

from libs.events.topics import TOPICS
from libs.runtime import checkup, preflight
from libs.runtime.checkup import DatabaseNeeds
from libs.runtime.configuration import check_links
from libs.runtime.diagnosis import kafka_fault, postgres_fault
from libs.runtime.errors import Unavailable
from libs.runtime.link import postgres_link
from libs.runtime.migrate import rights_of
from libs.runtime.preflight import Finding
from libs.runtime.schema import migrations
from libs.runtime.settings import Settings, Unsafe
from libs.runtime.surroundings import acl_facts, database_facts, postgres_facts, topic_facts
from oms.catalogue import catalogue, kafka_access
from oms.operate.doors import DoorError, state_of_cluster
from oms.operate.telling import Json, failing, print_json

KAFKA_SECONDS = 15.0
console = Console(highlight=False)


@dataclass(frozen=True, kw_only=True)
class Target:
    """`services` are the settings under which each service's database is looked at."""

    kafka: Settings
    services: Mapping[str, Settings]
    allowed: Collection[Unsafe]
    with_access: bool


@dataclass(frozen=True)
class Diagnosis:
    where: str
    finding: Finding
    allowed: bool

    @property
    def counts(self) -> bool:
        return not self.finding.note and not self.allowed


def access(as_json: Json = False) -> None:
    """Every Kafka user of the system and the ACLs that it needs: all that it needs, and no more.

    Derived from the topic table and from what the services subscribe to. An ACL allows, from any host, on the
    resource of exactly this name.
    """
    rows = [
        {"user": user, "resource": one.resource, "name": one.name, "operations": list(one.operations)}
        for user, granted in kafka_access().items()
        for one in granted
    ]
    if as_json:
        print_json(rows)
        return
    table = Table("user", "resource", "name", "operations")
    for row in rows:
        table.add_row(str(row["user"]), str(row["resource"]), str(row["name"]), ", ".join(row["operations"]))
    console.print(table)


def doctor(
    dsn: Annotated[
        list[str] | None,
        typer.Option(
            "--dsn",
            envvar="OMS_DOCTOR_DSNS",
            help="SERVICE=DSN of the role that the service uses, repeatable; better in the variable than in view.",
        ),
    ] = None,
    kafka: Annotated[str, typer.Option("--kafka", help="Kafka's address, instead of OMS_KAFKA_BOOTSTRAP.")] = "",
    with_access: Annotated[
        bool, typer.Option("--access/--no-access", help="Look at Kafka's ACLs, too. The local cluster has none.")
    ] = True,
    as_json: Json = False,
) -> None:
    """Examine a target environment and say for each finding what to do. Only reads.

    - **Kafka**: reachable under the link that OMS_KAFKA_* describes (as `oms-operator`, who may see all of it); every
    topic with its partitions, replicas, min.insync.replicas, retention and cleanup policy; the ACLs of `oms access`;

    - **each database**: reachable, its version and durability, standbys, its clock against this machine's; migrations,
    tables and columns of this release; the role's rights, powers and limits.

    Without options it looks at the local cluster. Findings that OMS_ALLOW_UNSAFE allows are told and do not count.
    Exits with 0 if nothing is found, with 1 if something is.
    """
    with failing():
        found = asyncio.run(_examined(target(dsn or [], kafka, with_access=with_access)))
    counting = [one for one in found if one.counts]
    if as_json:
        print_json({"sound": not counting, "findings": [_as_data(one) for one in found]})
    else:
        _print(found, sound=not counting)
    if counting:
        raise typer.Exit(1)


def target(dsns: Sequence[str], kafka: str, *, with_access: bool) -> Target:
    """What is named, or the local cluster. Raises DoorError."""
    settings = Settings()
    allowed: set[Unsafe] = set(settings.allow_unsafe)
    named = dict(one.split("=", 1) for one in dsns if "=" in one)
    if not dsns:
        state = state_of_cluster()
        named = {name: service.dsn["app"] for name, service in state.services.items() if service.dsn}
        kafka = kafka or state.kafka_bootstrap
        # One broker without an authorizer, as `oms up` starts it, is good enough for a laptop.
        allowed |= {"single_replica"}
        with_access = with_access and state.kafka_external
    known = catalogue()
    if unknown := [name for name in named if name not in known]:
        raise DoorError(f"There is no service {', '.join(unknown)}; there are {', '.join(known)}.")
    here = settings.model_copy(update={"kafka_bootstrap": kafka or settings.kafka_bootstrap, "postgres_dsn": ""})
    # A password comes with each DSN: the file of this process is one service's.
    each = {"postgres_owner_dsn": "", "postgres_password_file": None}
    services = {name: here.model_copy(update={**each, "postgres_dsn": one}) for name, one in named.items()}
    return Target(kafka=here, services=services, allowed=allowed, with_access=with_access)


async def _examined(where: Target) -> list[Diagnosis]:
    return [one async for one in examine(where)]


async def examine(where: Target) -> AsyncIterator[Diagnosis]:
    """Every finding, with the place that it was made at."""
    async for finding in _kafka(where):
        yield _diagnosis(where, "kafka", finding)
    for name, settings in where.services.items():
        async for finding in _database(name, settings):
            yield _diagnosis(where, name, finding)


def _diagnosis(where: Target, place: str, finding: Finding) -> Diagnosis:
    return Diagnosis(place, finding, allowed=finding.name in where.allowed)


async def _kafka(where: Target) -> AsyncIterator[Finding]:
    links = check_links(where.kafka)
    for finding in links:
        yield finding
    if any(finding.name is None for finding in links):
        return  # what cannot be read cannot be tried
    try:
        found = await topic_facts(where.kafka, TOPICS, KAFKA_SECONDS)
    except Unavailable as error:
        yield await kafka_fault(where.kafka) or _away(f"Kafka at {where.kafka.kafka_bootstrap}", error)
        return
    for finding in _topics(found):
        yield finding
    if where.with_access:
        async for finding in _access(where):
            yield finding


def _topics(found: Mapping[str, preflight.TopicFacts]) -> Iterator[Finding]:
    yield from checkup.check_presence(TOPICS, found)
    yield from preflight.check_topics(TOPICS, found)
    yield from checkup.check_configs(TOPICS, found)


async def _access(where: Target) -> AsyncIterator[Finding]:
    try:
        acls = await acl_facts(where.kafka, KAFKA_SECONDS)
    except Unavailable as error:
        yield _away(f"Kafka at {where.kafka.kafka_bootstrap}", error)
        return
    except ClusterAuthorizationFailedError:
        yield Finding(
            name=None,
            what=f"{where.kafka.kafka_sasl_username or 'This user'} may not see Kafka's ACLs",
            remedy="Ask as oms-operator, who may Describe the cluster, or leave them out: --no-access",
        )
        return
    for finding in checkup.check_access(kafka_access(), acls):
        yield finding


async def _database(name: str, settings: Settings) -> AsyncIterator[Finding]:
    for finding in check_links(settings.model_copy(update={"kafka_bootstrap": "localhost"})):
        if finding.name != "password_in_dsn":  # ours is one for looking
            yield finding
    try:
        async with asyncpg.create_pool(**postgres_link(settings), min_size=1, max_size=1, timeout=10) as pool:
            facts, database = await postgres_facts(pool), await database_facts(pool)
    except (Unavailable, OSError, TimeoutError, asyncpg.PostgresError, asyncpg.InterfaceError) as error:
        yield postgres_fault(error) or _away("PostgreSQL", error)
        return
    for finding in (*preflight.check_postgres(facts), *checkup.check_database(needs(name), database)):
        yield finding


def needs(name: str) -> DatabaseNeeds:
    """Of a service's database."""
    service = catalogue()[name]
    rights = {table: frozenset(right.split(", ")) for table, right in rights_of(service).items()}
    columns = {f"view_{one.name}": frozenset(("key", "data", "versions", *one.indexed)) for one in service.projections}
    return DatabaseNeeds(rights=rights, columns=columns, migrations=list(migrations()))


def _away(what: str, error: Exception) -> Finding:
    return Finding(
        name=None,
        what=f"{what} does not answer ({type(error).__name__}: {error})",
        remedy="Start it, or correct its address; a firewall or a network policy may be in between",
    )


def _as_data(one: Diagnosis) -> dict[str, Any]:
    finding = one.finding
    return {
        "where": one.where,
        "name": finding.name,
        "what": finding.what,
        "remedy": finding.remedy,
        "counts": one.counts,
    }


def _print(found: Sequence[Diagnosis], *, sound: bool) -> None:
    for one in found:
        sign = "[red]✗[/]" if one.counts else "[yellow]·[/]"
        allowed = " (allowed)" if one.allowed else ""
        console.print(f"  {sign} {one.where}: ", end="")
        console.print(f"{one.finding.what}{allowed}", markup=False, soft_wrap=True)
        console.print(f"      {one.finding.remedy}", markup=False, soft_wrap=True)
    console.print("[green]All is as it should be.[/]" if sound else "[red]Not all is as it should be.[/]")
