"""The facts that a preflight judges, asked of PostgreSQL and Kafka: one round trip and three."""

import asyncio
import time
from collections.abc import Mapping, Sequence

import asyncpg
from aiokafka.admin import AIOKafkaAdminClient
from aiokafka.admin.config_resource import ConfigResource, ConfigResourceType
from aiokafka.errors import KafkaError

from libs.events.topics import Topic
from libs.runtime.errors import Unavailable, sorted_error
from libs.runtime.kafka import new_admin
from libs.runtime.preflight import PostgresFacts, TopicFacts
from libs.runtime.settings import Settings

_IN_SYNC = "min.insync.replicas"

# A base backup streams too, but is no standby. Who may not read pg_stat_replication in full (pg_read_all_stats) sees
# a standby by its slot alone.
_POSTGRES_FACTS = """
SELECT current_setting('server_version_num')::int AS version_num,
       current_setting('fsync') AS fsync,
       current_setting('full_page_writes') AS full_page_writes,
       current_setting('synchronous_commit') AS synchronous_commit,
       current_setting('synchronous_standby_names') AS synchronous_standby_names,
       greatest(
           (SELECT count(*) FROM pg_stat_replication
             WHERE state IN ('streaming', 'catchup') AND application_name NOT LIKE 'pg_basebackup%'),
           (SELECT count(*) FROM pg_replication_slots WHERE slot_type = 'physical' AND active AND NOT temporary)
       )::int AS standbys,
       extract(epoch FROM clock_timestamp())::float8 AS now
"""


async def postgres_facts(pool: asyncpg.Pool) -> PostgresFacts:
    """Raises Unavailable."""
    try:
        async with pool.acquire(timeout=5) as connection:
            before = time.time()
            answer = await connection.fetchrow(_POSTGRES_FACTS)
            after = time.time()
    except Exception as error:
        raise sorted_error(error) from error
    assert answer is not None
    row = dict(answer)
    now = row.pop("now")
    # The database read its clock somewhere in between: only what lies outside is skew, however slow the answer was.
    return PostgresFacts(**row, skew_seconds=max(before - now, 0.0) + min(after - now, 0.0))


async def topic_facts(settings: Settings, wanted: Sequence[Topic], seconds: float) -> Mapping[str, TopicFacts]:
    """Of those that are there. Raises Unavailable when Kafka does not answer within `seconds`."""
    admin = new_admin(settings, seconds)
    try:
        async with asyncio.timeout(seconds):
            await admin.start()
            return await _topic_facts(admin, {topic.name for topic in wanted})
    except (KafkaError, OSError, TimeoutError) as error:
        raise Unavailable(f"{type(error).__name__}: {error}") from error
    finally:
        await admin.close()


async def _topic_facts(admin: AIOKafkaAdminClient, names: set[str]) -> Mapping[str, TopicFacts]:
    # All topics, and not these by name: a broker may make a topic because it was asked for. One that is only being made
    # has no partitions yet.
    rows = await admin.describe_topics()
    found = {row["topic"]: row["partitions"] for row in rows if row["topic"] in names and row["partitions"]}
    resources = [ConfigResource(ConfigResourceType.TOPIC, name, {_IN_SYNC: ""}) for name in found]
    in_sync = {
        resource: int(entry[1])
        for answer in (await admin.describe_configs(resources) if resources else [])
        for code, _, _, resource, entries in answer.resources
        if not code
        for entry in entries
        if entry[0] == _IN_SYNC and entry[1]
    }
    return {
        name: TopicFacts(
            partitions=len(partitions),
            replicas=min(len(partition["replicas"]) for partition in partitions),
            min_insync_replicas=in_sync.get(name),
        )
        for name, partitions in found.items()
    }
