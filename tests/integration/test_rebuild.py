"""A view's table migrated, and the view rebuilt from the log, on real PostgreSQL, while writers write."""

import asyncio
import os
import sys
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import replace

import asyncpg
import pytest

from libs.events.base import Event
from libs.events.codec import encode, partition_key
from libs.events.envelope import to_headers
from libs.events.order import OrderAccepted, OrderCancelled, OrderConfirmed
from libs.events.topics import ORDER_EVENTS
from libs.runtime import migrate as migration
from libs.runtime.event_store import PostgresStorage
from libs.runtime.handler import Handler
from libs.runtime.intake import Record
from libs.runtime.migrate import migrate
from libs.runtime.rebuild import RebuildRefused, differences, rebuild
from libs.runtime.schema import unmigrated
from libs.runtime.settings import Settings
from libs.runtime.storage import Partition
from libs.testing.database import in_database
from libs.testing.deadline import eventually
from libs.testing.scenario import NOW, history
from oms.cluster.cluster import LocalCluster
from oms.cluster.state import pick_ports
from services.tracking.service import service
from services.tracking.views.order import ORDER_TRACKING

pytestmark = pytest.mark.integration

PARTITION = Partition(ORDER_EVENTS.name, 0)
TRACKING = service()


def silent(_done: int, _total: int) -> None:
    pass


@pytest.fixture
def settings(servers: LocalCluster) -> Settings:
    return Settings(
        postgres_dsn=servers.dsn("tracking", "app"),
        postgres_owner_dsn=servers.dsn("tracking", "owner"),
        postgres_read_dsn=servers.dsn("tracking", "read"),
    )


@pytest.fixture
async def owner(settings: Settings) -> AsyncIterator[asyncpg.Connection]:
    await migrate(TRACKING, settings)
    connection = await asyncpg.connect(settings.postgres_owner_dsn)
    await connection.execute("TRUNCATE events, seen, consumer_position, view_order_tracking, view_open_exceptions")
    yield connection
    await connection.close()


@pytest.fixture
async def handler(settings: Settings, owner: asyncpg.Connection) -> AsyncIterator[Handler]:
    async with asyncpg.create_pool(settings.postgres_dsn, min_size=1, max_size=2) as pool:
        storage = PostgresStorage(pool, "/tracking-service")
        handler = Handler(TRACKING, storage)
        await storage.ensure_positions(handler.consumer, {PARTITION: 0})
        yield handler


def records_of(events: Sequence[Event], offset: int = 0) -> list[Record]:
    return [
        Record(PARTITION, offset + place, partition_key(item.event).encode(), to_headers(item), encode(item.event), NOW)
        for place, item in enumerate(history(events))
    ]


async def hear(handler: Handler, events: Sequence[Event], offset: int = 0) -> None:
    records = records_of(events, offset)
    handled = await handler.handle_records(records)
    assert handled.counts == {"processed": len(records)}


def story(order_id: str) -> list[Event]:
    confirmed = OrderConfirmed(order_id=order_id, payment_id="p", auth_id="a", amount=1, release_at=NOW)
    return [OrderAccepted(order_id=order_id), confirmed, OrderCancelled(order_id=order_id, reason="MANUAL")]


async def rows(owner: asyncpg.Connection) -> list[tuple[str, bytes, bytes]]:
    found = await owner.fetch("SELECT key, data, versions FROM view_order_tracking ORDER BY key")
    return [tuple(row) for row in found]


async def test_rebuilt_view_equals_the_one_built_event_by_event(
    handler: Handler, owner: asyncpg.Connection, settings: Settings
) -> None:
    await hear(handler, [event for number in range(40) for event in story(f"o-{number}")])
    before = await rows(owner)
    assert len(before) == 40
    done = await rebuild(TRACKING, settings, "order_tracking", silent)
    assert (done.events, done.rows, done.differing) == (120, 40, 0)
    assert await rows(owner) == before


async def test_wrong_row_is_counted_and_mended(handler: Handler, owner: asyncpg.Connection, settings: Settings) -> None:
    await hear(handler, story("o-1"))
    before = await rows(owner)
    wrong = "convert_to(replace(convert_from(data, 'UTF8'), '\"CANCELLED\"', '\"COMPLETED\"'), 'UTF8')"
    await owner.execute(f"UPDATE view_order_tracking SET data = {wrong}")
    done = await rebuild(TRACKING, settings, "order_tracking", silent)
    assert done.differing == 1
    assert await rows(owner) == before


async def test_row_that_a_rebuild_corrected_is_not_made_wrong_again_by_who_had_it_in_memory(
    handler: Handler, owner: asyncpg.Connection, settings: Settings
) -> None:
    await hear(handler, story("o-1")[:1])
    wrong = """convert_to(replace(convert_from(data, 'UTF8'), '"currency":""', '"currency":"XXX"'), 'UTF8')"""
    await owner.execute(f"UPDATE view_order_tracking SET data = {wrong}")
    await handler.handle_records(records_of(story("o-1"))[1:2])  # reads the wrong row, and keeps it in memory
    assert (await rebuild(TRACKING, settings, "order_tracking", silent)).differing == 1
    await handler.handle_records(records_of(story("o-1"))[2:])
    assert (await rebuild(TRACKING, settings, "order_tracking", silent)).differing == 0


async def test_new_column_holds_what_the_documents_say(
    handler: Handler, owner: asyncpg.Connection, settings: Settings
) -> None:
    await hear(handler, story("o-1"))
    await without_status(owner)
    await migrate(TRACKING, settings)
    assert await page(handler, "CANCELLED") == ["o-1"]


async def test_table_made_before_views_were_bytes_keeps_its_rows(
    handler: Handler, owner: asyncpg.Connection, settings: Settings
) -> None:
    await hear(handler, story("o-1"))
    derived = [
        f"DROP COLUMN {name}, ADD COLUMN {name} text GENERATED ALWAYS AS (data->>'{name}') STORED"
        for name in ORDER_TRACKING.indexed
    ]
    documents = [
        f"ALTER COLUMN {name} TYPE jsonb USING convert_from({name}, 'UTF8')::jsonb" for name in ("data", "versions")
    ]
    await owner.execute("DROP VIEW reporting.order_tracking")
    await owner.execute(f"ALTER TABLE view_order_tracking {', '.join(documents)}")
    await owner.execute(f"ALTER TABLE view_order_tracking {', '.join(derived)}")
    await migrate(TRACKING, settings)
    assert (await handler.handle_records(records_of([*story("o-1"), *story("o-2")])[3:])).counts == {"processed": 3}
    assert await page(handler, "CANCELLED") == ["o-1", "o-2"]
    assert (await rebuild(TRACKING, settings, "order_tracking", silent)).differing == 0


async def test_view_is_written_and_read_after_its_rebuild(
    handler: Handler, owner: asyncpg.Connection, settings: Settings
) -> None:
    await hear(handler, story("o-1")[:1])
    await rebuild(TRACKING, settings, "order_tracking", silent)
    await rebuild(TRACKING, settings, "order_tracking", silent)
    later = records_of([*story("o-1"), *story("o-2")])[1:]
    assert (await handler.handle_records(later)).counts == {"processed": 5}
    assert await page(handler, "CANCELLED") == ["o-1", "o-2"]
    reader = await asyncpg.connect(settings.postgres_read_dsn)
    assert await reader.fetchval("SELECT count(*) FROM reporting.order_tracking") == 2
    await reader.close()


async def test_event_that_commits_while_the_log_is_read_is_not_lost(
    handler: Handler, owner: asyncpg.Connection, settings: Settings
) -> None:
    """A writer that was under way takes an early position and commits late: the rebuild must wait for it."""
    await hear(handler, story("o-1"))
    late = await asyncpg.connect(settings.postgres_dsn)
    writing = late.transaction()
    await writing.start()
    await late.execute(
        """INSERT INTO events
               (stream_id, stream_version, event_id, event_type, schema_version, data, metadata, recorded_at)
           SELECT 'order-o-9', 1, event_id, event_type, schema_version,
                  replace(convert_from(data, 'UTF8'), 'o-1', 'o-9')::bytea, metadata, recorded_at
           FROM events WHERE stream_id = 'order-o-1' AND stream_version = 1"""
    )
    await hear(handler, story("o-2"), offset=3)
    log_read = asyncio.Event()
    rebuilding = asyncio.create_task(rebuild(TRACKING, settings, "order_tracking", lambda _at, _of: log_read.set()))
    await asyncio.wait_for(log_read.wait(), 10)
    await writing.commit()
    await late.close()
    done = await rebuilding
    assert (done.events, done.rows) == (7, 3)


async def test_rebuild_of_an_unknown_view_says_which_there_are(settings: Settings) -> None:
    with pytest.raises(RebuildRefused, match="order_tracking"):
        await rebuild(TRACKING, settings, "orders", silent)


# --- migrate beside writers ------------------------------------------------------------------------------------------


@asynccontextmanager
async def writing(settings: Settings) -> AsyncIterator[None]:
    """A batch of the application that is under way: it has written to a view and not committed."""
    application = await asyncpg.connect(settings.postgres_dsn)
    try:
        async with application.transaction():
            await application.execute("UPDATE view_order_tracking SET versions = versions")
            yield
    finally:
        await application.close()


async def test_migration_that_changes_nothing_waits_for_no_batch(
    handler: Handler, owner: asyncpg.Connection, settings: Settings
) -> None:
    await hear(handler, story("o-1"))
    async with writing(settings):
        await asyncio.wait_for(migrate(TRACKING, settings), 20)


async def test_new_column_keeps_batches_waiting_no_longer_than_they_bear(
    handler: Handler, owner: asyncpg.Connection, settings: Settings
) -> None:
    await hear(handler, story("o-1"))
    await without_status(owner)
    old = replace(
        TRACKING, projections=[replace(ORDER_TRACKING, indexed=("channel", "external_order_id", "placed_day"))]
    )
    async with asyncio.TaskGroup() as group, writing(settings):
        group.create_task(migrate(TRACKING, settings))
        queued = "SELECT count(*) > 0 FROM pg_locks WHERE NOT granted AND mode = 'AccessExclusiveLock'"
        await eventually(lambda: owner.fetchval(queued), "the migration queues for the table")
        await hear(Handler(old, handler.storage), story("o-2"), offset=3)  # behind it
    assert await page(handler, "CANCELLED") == ["o-1", "o-2"]


async def test_numbered_migration_gives_up_its_place_in_the_queue(
    owner: asyncpg.Connection, settings: Settings
) -> None:
    async with owner.transaction():
        await owner.execute("LOCK TABLE schema_migrations")
        with pytest.raises(migration._LockTimeout):
            await asyncio.to_thread(migration._run_numbered, migration._impatient(settings.postgres_owner_dsn))


@pytest.mark.parametrize("left", ["no index", "an index that is not complete"])
async def test_column_whose_filling_was_interrupted_is_filled(
    handler: Handler, owner: asyncpg.Connection, settings: Settings, servers: LocalCluster, left: str
) -> None:
    await hear(handler, story("o-1"))
    await owner.execute("UPDATE view_order_tracking SET status = NULL")
    if left == "no index":
        await owner.execute("DROP INDEX view_order_tracking_status")
    else:
        admin = await asyncpg.connect(in_database(servers.admin_dsn, "oms_tracking"))
        await admin.execute(
            "UPDATE pg_index SET indisvalid = false WHERE indexrelid = 'view_order_tracking_status'::regclass"
        )
        await admin.close()
    await migrate(TRACKING, settings)
    assert await page(handler, "CANCELLED") == ["o-1"]
    complete = "SELECT indisvalid FROM pg_index WHERE indexrelid = 'view_order_tracking_status'::regclass"
    assert await owner.fetchval(complete) is True


async def test_row_of_an_old_worker_lacks_the_new_column_until_it_is_rebuilt(
    handler: Handler, owner: asyncpg.Connection, settings: Settings
) -> None:
    """What docs/operations.md tells an operator: migrate, roll out, then rebuild what `oms verify` names."""
    await without_status(owner)
    await migrate(TRACKING, settings)
    old = replace(
        TRACKING, projections=[replace(ORDER_TRACKING, indexed=("channel", "external_order_id", "placed_day"))]
    )
    await hear(Handler(old, handler.storage), story("o-1"))
    assert await page(handler, "CANCELLED") == []
    found = await differences(settings.postgres_dsn, "/tracking-service", ORDER_TRACKING, silent)
    assert found.differing == [("o-1", "its columns status are not as its document")]
    await rebuild(TRACKING, settings, "order_tracking", silent)
    assert await page(handler, "CANCELLED") == ["o-1"]


VERSIONS = "schema_migrations"
STATUS = "ALTER TABLE view_order_tracking RENAME COLUMN"


@pytest.mark.parametrize(
    ("change", "undo", "lacking"),
    [
        (f"INSERT INTO {VERSIONS} VALUES ('9999')", f"DELETE FROM {VERSIONS} WHERE version = '9999'", []),
        (
            f"DELETE FROM {VERSIONS} WHERE version = '0002'",
            f"INSERT INTO {VERSIONS} VALUES ('0002')",
            ["0002_operator_action.sql"],
        ),
        (f"{STATUS} status TO state", f"{STATUS} state TO status", ["view_order_tracking.status"]),
        (
            f"REVOKE SELECT ON {VERSIONS} FROM oms_tracking_app",
            f"GRANT SELECT ON {VERSIONS} TO oms_tracking_app",
            ["0001_event_store.sql", "0002_operator_action.sql"],
        ),
    ],
    ids=["what a newer release adds", "a migration", "a column", "the right to see it"],
)
async def test_what_a_database_lacks_is_named(
    owner: asyncpg.Connection, settings: Settings, change: str, undo: str, lacking: list[str]
) -> None:
    application = await asyncpg.connect(settings.postgres_dsn)
    await owner.execute(change)
    try:
        assert await unmigrated(application, TRACKING) == lacking
    finally:
        await owner.execute(undo)
        await application.close()


async def test_process_waits_for_its_migration(
    owner: asyncpg.Connection, settings: Settings, servers: LocalCluster
) -> None:
    await owner.execute("DELETE FROM schema_migrations WHERE version = '0002'")
    port = pick_ports(["http"])["http"]
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "services.tracking", "api"),
        env={
            **os.environ,
            "OMS_POSTGRES_DSN": settings.postgres_dsn,
            "OMS_KAFKA_BOOTSTRAP": servers.kafka_bootstrap,
            "OMS_HTTP_PORT": str(port),
            "OMS_ALLOW_UNSAFE": "missing_secret,single_replica",
        },
        stdout=asyncio.subprocess.PIPE,
    )
    try:
        assert process.stdout is not None
        lines = process.stdout
        await eventually(lambda: said(lines, b"migration.waiting"), "the process waits")
        await owner.execute("INSERT INTO schema_migrations VALUES ('0002')")
        await eventually(lambda: said(lines, b"process.started"), "the process has started")
        process.terminate()
        await asyncio.wait_for(process.communicate(), 25)
        assert process.returncode == 0
    finally:
        if process.returncode is None:
            process.kill()


async def said(lines: asyncio.StreamReader, what: bytes) -> bool:
    return what in await lines.readline()


async def without_status(owner: asyncpg.Connection) -> None:
    """The table as a release had it that did not list by status."""
    await owner.execute("DROP VIEW IF EXISTS reporting.order_tracking")
    await owner.execute("ALTER TABLE view_order_tracking DROP COLUMN status")


async def page(handler: Handler, status: str) -> list[str]:
    return [key for key, _ in await handler.storage.page_view("order_tracking", {"status": status}, "", 10)]
