"""Whether a database has been brought to this release, as its application's role sees it."""

from collections.abc import Mapping
from importlib.resources import files
from typing import Any

import asyncpg

from libs.runtime.service import Service


def migrations() -> Mapping[str, str]:
    """This release's numbered migrations in order: the file's name by its number."""
    names = sorted(file.name for file in (files("libs.runtime") / "sql").iterdir() if file.name.endswith(".sql"))
    return {name.partition("_")[0]: name for name in names}


async def unmigrated(connection: Any, service: Service[Any]) -> list[str]:
    """What `migrate` has yet to do here; empty where the schema is this release's, or that of a newer one."""
    try:
        done = {row["version"] for row in await connection.fetch("SELECT version FROM schema_migrations")}
    except (asyncpg.UndefinedTableError, asyncpg.InsufficientPrivilegeError):
        done = set()
    known = await connection.fetch(
        """SELECT table_name || '.' || column_name AS place FROM information_schema.columns
           WHERE table_schema = 'public' AND table_name = ANY($1)""",
        [f"view_{projection.name}" for projection in service.projections],
    )
    places = {row["place"] for row in known}
    wanted = [f"view_{one.name}.{column}" for one in service.projections for column in ("key", *one.indexed)]
    return [name for number, name in migrations().items() if number not in done] + [
        w for w in wanted if w not in places
    ]
