"""What keeps a process from starting, and what it says then. The running processes are in test_bad_input_config.py."""

import os
from dataclasses import replace
from pathlib import Path
from typing import Any, get_args

import pytest
from pydantic import ValidationError

from libs.events.topics import ORDER_EVENTS
from libs.runtime.configuration import check_links, check_settings
from libs.runtime.keys import new_key, write_keys
from libs.runtime.link import owner_dsn, postgres_link
from libs.runtime.preflight import (
    Finding,
    PostgresFacts,
    Refused,
    TopicFacts,
    check_postgres,
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
        found = check_settings(Settings(postgres_dsn="postgresql://localhost/x", callback_secret_file=file))
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


KAFKA = {"kafka_bootstrap": "kafka-0.example:9093,127.0.0.1:9092"}
LOGIN = {"kafka_security_protocol": "SASL_SSL", "kafka_sasl_username": "oms-order"}
LINKS: list[tuple[dict[str, Any], list[Unsafe | None]]] = [
    ({}, []),
    ({"kafka_bootstrap": "[::1]:9092,localhost:9092"}, []),
    (KAFKA, ["plaintext_kafka"]),
    (KAFKA | {"kafka_security_protocol": "SSL"}, ["anonymous_kafka"]),
    (KAFKA | LOGIN, [None]),
    (KAFKA | LOGIN | {"kafka_sasl_password_file": "secret"}, []),
    (KAFKA | LOGIN | {"kafka_sasl_password_file": "absent"}, [None]),
    (KAFKA | LOGIN | {"kafka_sasl_password_file": "empty"}, [None]),
    (KAFKA | LOGIN | {"kafka_sasl_password_file": "secret", "kafka_ca_file": "secret"}, [None]),
    (KAFKA | LOGIN | {"kafka_sasl_password_file": "secret", "kafka_security_protocol": "SASL_PLAINTEXT"},
     ["plaintext_kafka"]),
    ({"postgres_dsn": "postgresql://app:secret@localhost/x"}, []),
    ({"postgres_dsn": "postgresql://app@/x?host=/run/postgresql"}, []),
    ({"postgres_dsn": "postgresql://app@db.example/x"}, ["unverified_postgres"]),
    ({"postgres_dsn": "postgresql://app@localhost,db.example:5433/x?sslmode=require"}, ["unverified_postgres"]),
    ({"postgres_dsn": "postgresql://app@db.example/x?sslmode=verify-full&sslrootcert=/ca"}, []),
    ({"postgres_dsn": "postgresql://app:hunter2@db.example/x"}, ["unverified_postgres", "password_in_dsn"]),
    ({"postgres_owner_dsn": "postgresql://owner:hunter2@db.example/x"}, ["unverified_postgres", "password_in_dsn"]),
]  # fmt: skip


@pytest.mark.parametrize(("fields", "names"), LINKS)
def test_link_that_others_can_hear_or_that_cannot_come_up_is_found(
    fields: dict[str, Any], names: list[Unsafe | None], tmp_path: Path
) -> None:
    (tmp_path / "secret").write_text("hunter2\n")
    (tmp_path / "empty").write_text("\n")
    placed = {name: tmp_path / value if name.endswith("_file") else value for name, value in fields.items()}
    found = check_links(Settings(**placed))
    assert [finding.name for finding in found] == names
    assert "hunter2" not in "".join(map(str, found))


def test_authority_of_the_database_makes_every_connection_verified_whatever_the_dsn_says(tmp_path: Path) -> None:
    (tmp_path / "password").write_text("p@ss/word\n")
    settings = Settings(
        postgres_dsn="postgresql://app@db.example/x?sslmode=disable",
        postgres_password_file=tmp_path / "password",
        postgres_owner_dsn="postgresql://owner@db.example:5433/x",
        postgres_owner_password_file=tmp_path / "password",
        postgres_ca_file=Path("/ca.pem"),
    )
    link = postgres_link(settings)
    assert link["dsn"] == "postgresql://app@db.example/x?sslmode=verify-full&sslrootcert=%2Fca.pem"
    assert link["password"]() == "p@ss/word"
    (tmp_path / "password").write_text("rotated")
    assert link["password"]() == "rotated"
    assert owner_dsn(settings).startswith("postgresql://owner:rotated@db.example:5433/x?sslmode=verify-full")


def test_http_beyond_this_machine_needs_keys(tmp_path: Path) -> None:
    (tmp_path / "secret").write_text("whsec_c2VjcmV0")
    write_keys(tmp_path / "keys", [new_key("web-eu", ["channel"])[0]])
    for host, file, names in (
        ("127.0.0.1", None, []),
        ("::1", None, []),
        ("0.0.0.0", None, ["no_api_keys"]),
        ("::", None, ["no_api_keys"]),
        ("10.0.0.7", tmp_path / "keys", []),
        ("0.0.0.0", tmp_path / "absent", [None]),
        ("127.0.0.1", tmp_path / "secret", [None]),
    ):
        found = check_settings(
            Settings(
                postgres_dsn="postgresql://localhost/x",
                callback_secret_file=tmp_path / "secret",
                http_host=host,
                api_keys_file=file,
            )
        )
        assert [finding.name for finding in found] == names, (host, file)
        assert "c2VjcmV0" not in "".join(map(str, found))
