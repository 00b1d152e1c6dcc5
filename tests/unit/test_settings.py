"""Settings, and what the Kafka clients really run with: aiokafka's defaults would lose orders."""

from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from libs.runtime.kafka import new_consumer, new_producer, partition_of
from libs.runtime.settings import Settings
from services.order.domain.timers import OrderTimers


@pytest.fixture
def settings() -> Settings:
    return Settings(kafka_bootstrap="127.0.0.1:1")


async def test_producer_waits_for_all_replicas_and_is_idempotent(settings: Settings) -> None:
    producer: Any = new_producer(settings)
    sender = producer._sender
    assert sender._acks == -1, "acks=all"
    assert producer._txn_manager is not None, "idempotence"
    assert producer._txn_manager.transactional_id is None, "no Kafka transactions"
    assert producer._request_timeout_ms == 10_000
    assert producer._max_request_size > producer._message_accumulator._batch_size == 1024 * 1024
    await producer.stop()


async def test_consumer_keeps_no_position_in_kafka_and_begins_at_the_beginning(settings: Settings) -> None:
    consumer: Any = new_consumer(settings, "oms.order.policy")
    assert consumer._enable_auto_commit is False
    assert consumer._auto_offset_reset == "earliest"
    assert consumer._group_id == "oms.order.policy"
    assert consumer._group_instance_id is None, "dynamic membership"
    assert (consumer._session_timeout_ms, consumer._heartbeat_interval_ms) == (6_000, 2_000)
    assert consumer._rebalance_timeout_ms == 20_000
    assert consumer._fetch_max_wait_ms == 20, "a partition waits for the fetch that is under way"
    assert consumer._check_crcs is True
    assert consumer._key_deserializer is consumer._value_deserializer is None, "one that raises is an endless loop"
    await consumer.stop()


def test_partition_of_a_key_is_kafkas_own() -> None:
    """Known answers of Kafka's Java client (Utils.murmur2), over the configured count."""
    java = {b"21": -973932308, b"foobar": -790332482, b"a-little-bit-long-string": -985981536}
    for key, murmur in java.items():
        assert partition_of(key, 6) == (murmur & 0x7FFFFFFF) % 6


def test_defaults_are_those_of_the_design(monkeypatch: pytest.MonkeyPatch) -> None:
    settings = Settings()
    assert (settings.batch_records, settings.relay_pointers, settings.poll_ms) == (500, 1_000, 200)
    assert (settings.kafka_session_ms, settings.kafka_heartbeat_ms, settings.lease_seconds) == (6_000, 2_000, 5.0)
    assert (settings.snapshot_every, settings.park_ratio) == (100, 0.02)
    assert (settings.park_ratio_over, settings.park_keys_in_a_row) == (1_000, 20)


def test_environment_names_settings_and_other_models_under_their_own_prefix(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OMS_POLL_MS", "17")
    monkeypatch.setenv("OMS_ORDER_PAYMENT_ATTEMPTS", "5")
    settings = Settings()
    assert settings.poll_ms == 17
    assert settings.read(OrderTimers, "OMS_ORDER_").payment_attempts == 5


@pytest.mark.parametrize(("name", "value"), [("BATCH_RECORDS", "0"), ("POSTGRES_POOL", "1"), ("TRACE_RATIO", "1.5")])
def test_setting_out_of_range_refuses_to_start(monkeypatch: pytest.MonkeyPatch, name: str, value: str) -> None:
    monkeypatch.setenv(f"OMS_{name}", value)
    with pytest.raises(ValidationError):
        Settings()


def test_callback_secret_comes_from_its_file(tmp_path: Path) -> None:
    assert Settings().callback_secret() == ""
    (tmp_path / "secret").write_text("whsec_abc\n")
    assert Settings(callback_secret_file=tmp_path / "secret").callback_secret() == "whsec_abc"
