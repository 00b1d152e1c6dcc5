"""`oms topics` and `oms databases`: what servers of your own need before the services start. Both may be repeated."""

import asyncio
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from libs.events.topics import TOPICS
from libs.runtime.link import link_to
from oms.cluster import databases as provisioning
from oms.cluster import kafka as brokers
from oms.cluster.apps import SERVICES
from oms.cluster.postgres import roles_of
from oms.cluster.settings import ClusterSettings
from oms.operate.doors import DoorError
from oms.operate.telling import failing

console = Console(highlight=False)


def topics(
    kafka: Annotated[str, typer.Option("--kafka", envvar="OMS_KAFKA_BOOTSTRAP", help="Kafka's address.")],
) -> None:
    """Make the topics that are missing on a Kafka of your own.

    Each gets three copies, or as many as there are brokers. What is there stays as it is. TLS and login are set as
    for a service (OMS_KAFKA_SECURITY_PROTOCOL and what belongs to it).
    """
    with failing():
        made = asyncio.run(_make_topics(kafka))
    for topic in TOPICS:
        console.print(f"  {topic.name}: {'made' if topic.name in made else 'was there'}")


async def _make_topics(bootstrap: str) -> list[str]:
    link = link_to(bootstrap)
    await brokers.wait_ready(bootstrap, _keep_waiting, link=link)
    return await brokers.create_topics(bootstrap, TOPICS, link=link)


def databases(
    passwords: Annotated[
        Path,
        typer.Option(
            "--passwords",
            exists=True,
            file_okay=False,
            help="A folder with the password of each role, in a file named like it: oms_order_owner, oms_order_app, …",
        ),
    ],
) -> None:
    """Make a database and the roles owner, app and read for each service on a PostgreSQL of your own.

    OMS_POSTGRES_HOST and _PORT name the server; _USER and _PASSWORD (or _PASSWORD_FILE) a role of it that may make
    databases and roles. Passwords, limits and rights are set again each time; nothing is ever dropped.
    """
    with failing():
        settings = ClusterSettings()
        if not settings.postgres_host:
            raise DoorError("OMS_POSTGRES_HOST is not set: it names the server.")
        asyncio.run(_make_databases(provisioning.outside(settings, settings.postgres_host), _read(passwords)))
    console.print("\n".join(f"  oms_{service}: ready" for service in SERVICES))


async def _make_databases(server: provisioning.PostgresAddress, passwords: Mapping[str, str]) -> None:
    await provisioning.wait_ready(server.dsn(), _keep_waiting)
    await provisioning.provision(server, SERVICES, passwords)


def _read(folder: Path) -> dict[str, str]:
    """Raises DoorError where one is missing or empty: a role without a password could not log in."""
    files = {role: folder / role for service in SERVICES for role in roles_of(service)}
    found = {role: file.read_text().strip() for role, file in files.items() if file.exists()}
    if missing := [role for role in files if not found.get(role)]:
        raise DoorError(f"{folder} has no password for {', '.join(missing)}.")
    return found


def _keep_waiting() -> None:
    """Nothing here can tell that waiting has become pointless."""
