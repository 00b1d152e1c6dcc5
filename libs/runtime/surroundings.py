"""The facts that a preflight and `oms doctor` judge, asked of PostgreSQL and Kafka. Only reads."""

import asyncio
import time
from collections.abc import Collection, Mapping, Sequence
from typing import Any

import asyncpg
from aiokafka.admin import AIOKafkaAdminClient
from aiokafka.admin.config_resource import ConfigResource, ConfigResourceType
from aiokafka.client import AIOKafkaClient
from aiokafka.errors import KafkaError, SecurityDisabled, for_code
from aiokafka.protocol.admin import DescribeAclsRequest

from libs.events.topics import Topic
from libs.runtime.checkup import LIMITS, Acl, DatabaseFacts
from libs.runtime.errors import Unavailable, sorted_error
from libs.runtime.kafka import new_admin
from libs.runtime.link import kafka_link
from libs.runtime.preflight import PostgresFacts, TopicFacts
from libs.runtime.settings import Settings

_IN_SYNC, _RETENTION, _CLEANUP = "min.insync.replicas", "retention.ms", "cleanup.policy"
_CONFIGS = (_IN_SYNC, _RETENTION, _CLEANUP)

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


_ROLE_FACTS = """
SELECT current_user::text AS role,
       ARRAY(SELECT unnest(ARRAY[
           CASE WHEN rolsuper THEN 'SUPERUSER' END, CASE WHEN rolcreaterole THEN 'CREATEROLE' END,
           CASE WHEN rolcreatedb THEN 'CREATEDB' END, CASE WHEN rolreplication THEN 'REPLICATION' END,
           CASE WHEN rolbypassrls THEN 'BYPASSRLS' END]) FROM pg_roles WHERE rolname = current_user) AS powers,
       ARRAY(SELECT relname::text FROM pg_class WHERE relnamespace = 'public'::regnamespace AND relkind IN ('r', 'v')
              AND pg_has_role(current_user, relowner, 'USAGE') ORDER BY 1) AS owned,
       has_database_privilege('public', current_database(), 'CONNECT') AS public_may_connect,
       current_setting('statement_timeout') AS statement_timeout,
       current_setting('lock_timeout') AS lock_timeout,
       current_setting('idle_in_transaction_session_timeout') AS idle_in_transaction_session_timeout
"""
_TABLE_FACTS = """
SELECT relname::text AS name,
       ARRAY(SELECT may FROM unnest(ARRAY['SELECT', 'INSERT', 'UPDATE', 'DELETE', 'TRUNCATE', 'REFERENCES', 'TRIGGER'])
              AS may WHERE has_table_privilege(oid, may)) AS rights,
       ARRAY(SELECT attname::text FROM pg_attribute WHERE attrelid = pg_class.oid AND attnum > 0 AND NOT attisdropped)
              AS columns
  FROM pg_class WHERE relnamespace = 'public'::regnamespace AND relkind IN ('r', 'v', 'p')
"""

_ANY, _ALLOW = 1, 3
_LITERAL = 3
_RESOURCES = {2: "topic", 3: "group", 4: "cluster"}
_OPERATIONS = {
    2: "All",
    3: "Read",
    4: "Write",
    5: "Create",
    6: "Delete",
    7: "Alter",
    8: "Describe",
    9: "ClusterAction",
    10: "DescribeConfigs",
    11: "AlterConfigs",
    12: "IdempotentWrite",
}


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
    resources = [ConfigResource(ConfigResourceType.TOPIC, name, dict.fromkeys(_CONFIGS, "")) for name in found]
    configs: dict[str, dict[str, str]] = {
        resource: {entry[0]: entry[1] for entry in entries if entry[1]}
        for answer in (await admin.describe_configs(resources) if resources else [])
        for code, _, _, resource, entries in answer.resources
        if not code
    }
    return {name: _facts_of(partitions, configs.get(name, {})) for name, partitions in found.items()}


def _facts_of(partitions: Sequence[Mapping[str, Any]], configs: Mapping[str, str]) -> TopicFacts:
    return TopicFacts(
        partitions=len(partitions),
        replicas=min(len(partition["replicas"]) for partition in partitions),
        min_insync_replicas=int(configs[_IN_SYNC]) if _IN_SYNC in configs else None,
        retention_ms=int(configs[_RETENTION]) if _RETENTION in configs else None,
        cleanup_policy=configs.get(_CLEANUP),
    )


async def database_facts(pool: asyncpg.Pool) -> DatabaseFacts:
    """As the role that the pool is of sees its database. Raises asyncpg's errors."""
    role = dict(await pool.fetchrow(_ROLE_FACTS) or {})
    tables = await pool.fetch(_TABLE_FACTS)
    applied = None
    if any(row["name"] == "schema_migrations" and "SELECT" in row["rights"] for row in tables):
        applied = [row["version"] for row in await pool.fetch("SELECT version FROM schema_migrations ORDER BY 1")]
    return DatabaseFacts(
        role=role["role"],
        powers=[power for power in role["powers"] if power],
        owned=role["owned"],
        public_may_connect=role["public_may_connect"],
        limits={name: role[name] for name in LIMITS},
        tables={row["name"]: frozenset(row["rights"]) for row in tables},
        columns={row["name"]: frozenset(row["columns"]) for row in tables},
        migrations=applied,
    )


async def acl_facts(settings: Settings, seconds: float) -> Collection[Acl] | None:
    """Every ACL that allows something; None where the broker has no authorizer. Raises Unavailable, and
    ClusterAuthorizationFailedError where this user may not see them."""
    client = AIOKafkaClient(**kafka_link(settings), request_timeout_ms=int(seconds * 1000))
    try:
        async with asyncio.timeout(seconds):
            await client.bootstrap()
            request = DescribeAclsRequest(_ANY, None, _ANY, None, None, _ANY, _ANY)
            answer = await client.send(client.get_random_node(), request)
    except (KafkaError, OSError, TimeoutError) as error:
        raise Unavailable(f"{type(error).__name__}: {error}") from error
    finally:
        await client.close()
    refusal = for_code(answer.error_code)
    if refusal is SecurityDisabled:
        return None
    if answer.error_code:
        raise refusal(answer.error_message)
    return [
        (principal.removeprefix("User:"), _RESOURCES.get(kind, str(kind)), shown, _OPERATIONS.get(may, str(may)))
        for kind, name, pattern, acls in answer.resources
        for shown in [name if pattern == _LITERAL else f"{name}*"]
        for principal, _host, may, permission in acls
        if permission == _ALLOW
    ]
