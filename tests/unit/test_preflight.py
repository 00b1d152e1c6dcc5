"""What keeps a process from starting, and what it says then. The running processes are in test_bad_input_config.py."""

import os
from dataclasses import replace
from pathlib import Path
from typing import Any, get_args

import pytest
from pydantic import ValidationError

from libs.events.topics import ORDER_EVENTS
from libs.runtime.preflight import (
    Finding,
    PostgresFacts,
    Refused,
    TopicFacts,
    check_postgres,
    check_settings,
    check_topics,
    unsafe,
)
from libs.runtime.settings import Settings, Unsafe

GOOD = PostgresFacts(
    version_num=140_000,
    fsync="on",
    full_page_writes="on",
    synchronous_commit="on",
    synchronous_standby_names="",
    standbys=0,
    skew_seconds=0.0,
)
STANDBYS = {"standbys": 2, "synchronous_standby_names": "ANY 1 (a, b)"}

POSTGRES: list[tuple[dict[str, Any], list[Unsafe]]] = [
    ({}, []),
    ({"version_num": 180_001}, []),
    ({"version_num": 130_023}, ["old_postgres"]),
    ({"version_num": 90_624}, ["old_postgres"]),
    ({"skew_seconds": 2.0}, []),
    ({"skew_seconds": 2.1}, ["clock_skew"]),
    ({"skew_seconds": -2.1}, ["clock_skew"]),
    ({"synchronous_commit": "off"}, ["synchronous_commit"]),
    ({"synchronous_commit": "local"}, []),
    ({"fsync": "off"}, ["fsync"]),
    ({"full_page_writes": "off"}, ["fsync"]),
    (STANDBYS, []),
    ({"standbys": 1}, ["asynchronous_standby"]),
    ({"standbys": 1, "synchronous_standby_names": " "}, ["asynchronous_standby"]),
    (STANDBYS | {"synchronous_commit": "remote_apply"}, []),
    (STANDBYS | {"synchronous_commit": "local"}, ["asynchronous_standby"]),
    (STANDBYS | {"synchronous_commit": "off"}, ["synchronous_commit", "asynchronous_standby"]),
    ({"version_num": 120_000, "fsync": "off", "skew_seconds": 9.0}, ["old_postgres", "clock_skew", "fsync"]),
]


@pytest.mark.parametrize(("facts", "names"), POSTGRES)
def test_postgres_that_cannot_keep_the_promises_is_found(facts: dict[str, Any], names: list[Unsafe]) -> None:
    assert [finding.name for finding in check_postgres(replace(GOOD, **facts))] == names


TOPIC = TopicFacts(partitions=ORDER_EVENTS.partitions, replicas=3, min_insync_replicas=2)
TOPICS: list[tuple[dict[str, Any], list[Unsafe]]] = [
    ({}, []),
    ({"min_insync_replicas": None}, []),
    ({"replicas": 1, "min_insync_replicas": 1}, ["single_replica"]),
    ({"replicas": 1, "min_insync_replicas": 2}, ["single_replica", "in_sync_replicas"]),
    ({"min_insync_replicas": 1}, ["in_sync_replicas"]),
    ({"min_insync_replicas": 4}, ["in_sync_replicas"]),
    ({"partitions": ORDER_EVENTS.partitions - 1}, ["few_partitions"]),
    ({"partitions": ORDER_EVENTS.partitions + 1}, ["more_partitions"]),
]


@pytest.mark.parametrize(("facts", "names"), TOPICS)
def test_topic_that_cannot_keep_the_promises_is_found(facts: dict[str, Any], names: list[Unsafe]) -> None:
    found = check_topics([ORDER_EVENTS], {ORDER_EVENTS.name: replace(TOPIC, **facts)})
    assert [finding.name for finding in found] == names


def test_topic_that_is_not_there_is_waited_for() -> None:
    assert check_topics([ORDER_EVENTS], {}) == []


def test_more_partitions_are_only_told_and_the_rest_must_be_allowed_by_name() -> None:
    topics = {ORDER_EVENTS.name: replace(TOPIC, partitions=99, replicas=1, min_insync_replicas=1)}
    found = [*check_topics([ORDER_EVENTS], topics), *check_postgres(replace(GOOD, fsync="off"))]
    assert [finding.name for finding in unsafe(found, ())] == ["single_replica", "fsync"]
    assert [finding.name for finding in unsafe(found, {"fsync"})] == ["single_replica"]
    assert unsafe(found, {"fsync", "single_replica"}) == []


def test_refusal_says_everything_that_is_wrong_what_to_do_and_what_would_allow_it() -> None:
    nothing = Finding(name=None, what="No database", remedy="Name one")
    text = str(Refused([nothing, *check_postgres(replace(GOOD, fsync="off", skew_seconds=-7200.0))]))
    assert "not configured: No database. Name one." in text.splitlines()[0]
    assert "OMS_ALLOW_UNSAFE" not in text.splitlines()[0]
    assert "7200.0 s behind the database's" in text
    assert "OMS_ALLOW_UNSAFE=clock_skew" in text
    assert "Set fsync=on" in text
    assert "OMS_ALLOW_UNSAFE=fsync" in text


def test_settings_without_database_or_secret_are_found(tmp_path: Path) -> None:
    good, other = tmp_path / "good", tmp_path / "other"
    good.write_text("whsec_c2VjcmV0\n")
    other.write_text("c2VjcmV0")
    for file, names in ((good, []), (None, ["missing_secret"]), (other, [None]), (tmp_path / "absent", [None])):
        found = check_settings(Settings(postgres_dsn="postgresql://x", callback_secret_file=file))
        assert [finding.name for finding in found] == names
        assert "c2VjcmV0" not in "".join(map(str, found))
    assert [finding.name for finding in check_settings(Settings(callback_secret_file=good))] == [None]


def test_allowances_are_names_with_commas_between(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(os.environ, "OMS_ALLOW_UNSAFE", "clock_skew, fsync,")
    assert Settings().allow_unsafe == {"clock_skew", "fsync"}
    monkeypatch.setitem(os.environ, "OMS_ALLOW_UNSAFE", ",".join(get_args(Unsafe)))
    assert Settings().allow_unsafe == set(get_args(Unsafe))
    monkeypatch.setitem(os.environ, "OMS_ALLOW_UNSAFE", "everything")
    with pytest.raises(ValidationError, match="clock_skew"):
        Settings()
