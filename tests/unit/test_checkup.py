"""What `oms doctor` finds, fact by fact. Real servers with something broken are in test_doctor.py."""

from dataclasses import replace
from typing import Any

import pytest

from libs.events.topics import CHANNEL_ORDERS, DAY_MS, ORDER_EVENTS
from libs.runtime.access import Access
from libs.runtime.checkup import (
    Acl,
    DatabaseFacts,
    DatabaseNeeds,
    check_access,
    check_configs,
    check_database,
    check_presence,
)
from libs.runtime.preflight import TopicFacts
from oms.catalogue import kafka_access

TOPIC = TopicFacts(
    partitions=6, replicas=3, min_insync_replicas=2, retention_ms=ORDER_EVENTS.retention_ms, cleanup_policy="delete"
)


def test_topic_that_is_not_there_is_named() -> None:
    (found,) = check_presence([CHANNEL_ORDERS, ORDER_EVENTS], {ORDER_EVENTS.name: TOPIC})
    assert CHANNEL_ORDERS.name in found.what
    assert "6 partitions" in found.remedy


@pytest.mark.parametrize(
    ("facts", "says"),
    [
        ({}, []),
        ({"retention_ms": None, "cleanup_policy": None}, []),
        ({"retention_ms": -1}, []),
        ({"retention_ms": 8 * DAY_MS}, []),
        ({"retention_ms": 6 * DAY_MS}, [f"retention.ms={7 * DAY_MS}"]),
        ({"cleanup_policy": "compact"}, ["cleanup.policy=delete"]),
        ({"cleanup_policy": "compact,delete"}, ["cleanup.policy=delete"]),
    ],
)
def test_topic_that_forgets_too_early_is_found(facts: dict[str, Any], says: list[str]) -> None:
    found = check_configs([ORDER_EVENTS], {ORDER_EVENTS.name: replace(TOPIC, **facts)})
    assert [says_it in one.remedy for says_it, one in zip(says, found, strict=True)] == [True] * len(says)


WANTED = {"oms-order": [Access("topic", "a", ("Write", "Describe"))]}
ACLS: list[Acl] = [("oms-order", "topic", "a", "Write"), ("oms-order", "topic", "a", "Describe")]


@pytest.mark.parametrize(
    ("found", "says"),
    [
        (ACLS, []),
        ([*ACLS, ("somebody", "topic", "b", "All")], []),
        (ACLS[:1], ["oms-order may not Describe topic a"]),
        ([("oms-order", "topic", "a", "All")], ["oms-order may All topic a, and need not"]),
        ([*ACLS, ("oms-order", "topic", "oms.*", "Read")], ["oms-order may Read topic oms.*"]),
        ([*ACLS, ("*", "topic", "a", "Write")], ["Everybody may Write topic a"]),
    ],
)
def test_access_that_is_missing_or_too_much_is_found(found: list[Acl], says: list[str]) -> None:
    told = list(check_access(WANTED, found))
    assert len(told) == len(says)
    assert all(part in one.what for part, one in zip(says, told, strict=True))


def test_broker_without_an_authorizer_is_found_by_name() -> None:
    assert [one.name for one in check_access(kafka_access(), None)] == ["anonymous_kafka"]


NEEDS = DatabaseNeeds(
    rights={"events": frozenset({"SELECT", "INSERT"}), "view_x": frozenset({"SELECT"})},
    columns={"view_x": frozenset({"key", "status"})},
    migrations=["0001", "0002"],
)
GOOD = DatabaseFacts(
    role="app",
    powers=[],
    owned=[],
    public_may_connect=False,
    limits={"statement_timeout": "5s", "lock_timeout": "2s", "idle_in_transaction_session_timeout": "5s"},
    tables=dict(NEEDS.rights),
    columns={"view_x": frozenset({"key", "status", "data"})},
    migrations=["0001", "0002"],
)
ALL = frozenset({"SELECT", "INSERT", "UPDATE"})
DATABASES: list[tuple[dict[str, Any], list[str]]] = [
    ({}, []),
    ({"migrations": ["0001"]}, ["lacks migration 0002"]),
    ({"migrations": None}, ["lacks migration 0001, 0002"]),
    ({"tables": {"events": ALL}, "migrations": ["0001"]}, ["migration 0002; the table view_x"]),
    ({"columns": {"view_x": frozenset({"key"})}}, ["the column view_x.status"]),
    ({"migrations": ["0001", "0002", "0003"]}, ["of a newer release: migration 0003"]),
    ({"tables": {**NEEDS.rights, "events": frozenset({"SELECT"})}}, ["app may not INSERT events"]),
    ({"tables": {**NEEDS.rights, "events": ALL}}, ["app may UPDATE events"]),
    ({"powers": ["SUPERUSER"], "owned": ["events"]}, ["app is SUPERUSER"]),
    ({"owned": ["events"]}, ["app owns events"]),
    ({"public_may_connect": True}, ["Every role of the server may connect"]),
    ({"limits": {**GOOD.limits, "lock_timeout": "0"}}, ["app has no lock_timeout"]),
]


@pytest.mark.parametrize(("facts", "says"), DATABASES)
def test_database_that_is_not_as_this_release_makes_it_is_found(facts: dict[str, Any], says: list[str]) -> None:
    told = check_database(NEEDS, replace(GOOD, **facts))
    assert len(told) == len(says), told
    assert all(part in one.what for part, one in zip(says, told, strict=True))
    assert [one.note for one in told] == ["newer release" in one.what for one in told]
