"""Kafka under TLS, SCRAM and ACLs: the right link works, every wrong one says what to do, and nobody may do more than
the topic table gives (an authorisation matrix of every user, topic and act)."""

import os
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from aiokafka import AIOKafkaProducer
from aiokafka.admin import AIOKafkaAdminClient, NewTopic
from aiokafka.admin.config_resource import ConfigResource, ConfigResourceType
from aiokafka.errors import (
    GroupAuthorizationFailedError,
    GroupCoordinatorNotAvailableError,
    TopicAuthorizationFailedError,
)
from aiokafka.protocol.fetch import FetchRequest

from libs.events.topics import TOPICS
from libs.runtime.access import Access
from libs.runtime.configuration import check_links
from libs.runtime.diagnosis import kafka_fault
from libs.runtime.kafka import new_admin, new_producer
from libs.runtime.link import kafka_link
from libs.runtime.surroundings import topic_facts
from libs.testing.deadline import eventually
from oms.cluster.kafka import create_topics
from oms.operate.doctor import Target, examine
from tests.secure import ADMIN, SecureBroker, allow, deny, needs_openssl, secure_broker

pytestmark = [
    pytest.mark.integration,
    needs_openssl,
    pytest.mark.skipif(
        os.environ.get("OMS_TEST_CLUSTER") == "docker", reason="starts its own broker: OMS_TEST_CLUSTER=local runs it"
    ),
]

CHANNEL, ORDER, EVENTS, STOCK = "oms.channel.orders", "oms.order.events", "oms.inventory.events", "oms.inventory.stock"
PAYMENT, FULFILLMENT = "oms.payment.events", "oms.fulfillment.events"
# Said once more by hand, so that a mistake in the derivation is seen.
WRITES = {
    "oms-channel": {CHANNEL},
    "oms-order": {ORDER},
    "oms-inventory": {EVENTS, STOCK},
    "oms-payment": {PAYMENT},
    "oms-fulfillment": {FULFILLMENT},
    "oms-tracking": set(),
    "oms-operator": set(),
}
READS = {
    "oms-channel": set(),
    "oms-order": {CHANNEL, EVENTS, PAYMENT, FULFILLMENT},
    "oms-inventory": {ORDER},
    "oms-payment": {ORDER},
    "oms-fulfillment": {ORDER},
    "oms-tracking": {ORDER, EVENTS, PAYMENT, FULFILLMENT},
    "oms-operator": {topic.name for topic in TOPICS},
}
GROUPS = {
    "oms-order": "oms.order.policy",
    "oms-inventory": "oms.inventory.policy",
    "oms-payment": "oms.payment.policy",
    "oms-fulfillment": "oms.fulfillment.policy",
    "oms-tracking": "oms.tracking.views",
}
REFUSED = {29, 30, 31}
"""Kafka's codes for a topic, a group and a cluster that one may not use so."""


@pytest.fixture(scope="module")
def broker() -> Iterator[SecureBroker]:
    with secure_broker() as broker:
        yield broker


# --- the link --------------------------------------------------------------------------------------------------------


async def test_right_link_works_and_shows_the_topics(broker: SecureBroker) -> None:
    settings = broker.settings("oms-order")
    assert check_links(settings) == []
    assert await kafka_fault(settings) is None
    facts = await topic_facts(settings, TOPICS, 10)
    assert set(facts) == WRITES["oms-order"] | READS["oms-order"], "what it has nothing to do with it does not see"
    assert all(fact.min_insync_replicas == 1 for fact in facts.values())


def _other_password(broker: SecureBroker) -> dict[str, Any]:
    file = broker.certificates.folder / "other_password"
    file.write_text("hunter3")
    return {"kafka_sasl_password_file": file}


FAULTS: dict[str, tuple[Any, str, str]] = {
    "wrong password": (_other_password, "refuses the user oms-order", "OMS_KAFKA_SASL_PASSWORD_FILE"),
    "unknown user": (lambda _: {"kafka_sasl_username": "nobody"}, "refuses the user nobody", "OMS_KAFKA_SASL_USERNAME"),
    "wrong authority": (
        lambda broker: {"kafka_ca_file": broker.certificates.other_authority},
        "not of an authority that we trust",
        "OMS_KAFKA_CA_FILE",
    ),
    "system's authorities": (lambda _: {"kafka_ca_file": None}, "not of an authority", "OMS_KAFKA_CA_FILE"),
    "wrong host name": (
        lambda broker: {"kafka_bootstrap": f"127.0.0.1:{broker.port}"},
        "is of another host",
        "Connect by a name that is in the certificate",
    ),
    "plaintext to a TLS port": (
        lambda _: {"kafka_security_protocol": "PLAINTEXT"},
        "speaks TLS, and OMS_KAFKA_SECURITY_PROTOCOL is PLAINTEXT",
        "OMS_KAFKA_SECURITY_PROTOCOL=SASL_SSL",
    ),
    "login in the clear to a TLS port": (
        lambda _: {"kafka_security_protocol": "SASL_PLAINTEXT"},
        "speaks TLS",
        "OMS_KAFKA_SECURITY_PROTOCOL=SASL_SSL",
    ),
    "TLS to a plaintext port": (
        lambda broker: {"kafka_bootstrap": f"localhost:{broker.controller_port}"},
        "does not speak TLS",
        "TLS listener",
    ),
    "no login": (
        lambda _: {"kafka_security_protocol": "SSL"},
        "hangs up on who does not log in",
        "OMS_KAFKA_SASL_USERNAME",
    ),
    "another mechanism": (
        lambda _: {"kafka_sasl_mechanism": "SCRAM-SHA-256"},
        "knows no SCRAM-SHA-256",
        "OMS_KAFKA_SASL_MECHANISM",
    ),
}


@pytest.mark.parametrize("name", FAULTS)
async def test_wrong_link_says_what_is_wrong_and_what_to_do(broker: SecureBroker, name: str) -> None:
    fields, what, remedy = FAULTS[name]
    found = await kafka_fault(broker.settings("oms-order", **fields(broker)))
    assert found is not None
    assert what in found.what
    assert remedy in found.remedy
    assert found.name is None, "nothing allows it"
    assert "hunter" not in str(found)


async def test_broker_that_is_away_is_no_fault(broker: SecureBroker) -> None:
    assert await kafka_fault(broker.settings(kafka_bootstrap="localhost:1")) is None


# --- the matrix ------------------------------------------------------------------------------------------------------


@asynccontextmanager
async def admin_of(broker: SecureBroker, user: str) -> AsyncIterator[AIOKafkaAdminClient]:
    admin = new_admin(broker.settings(user), 10)
    await admin.start()
    try:
        yield admin
    finally:
        await admin.close()


async def written(broker: SecureBroker, user: str) -> set[str]:
    """The topics that a record of this user gets into."""
    done = set()
    producer = new_producer(broker.settings(user))
    await producer.start()
    try:
        for topic in TOPICS:
            try:
                await producer.send_and_wait(topic.name, b"{}", partition=0)
                done.add(topic.name)
            except TopicAuthorizationFailedError:
                pass
    finally:
        await producer.stop()
    return done


async def read(admin: AIOKafkaAdminClient) -> set[str]:
    """The topics whose first partition this user gets an answer from."""
    done = set()
    for topic in TOPICS:
        request = FetchRequest(10, 1, 1024, 0, [(topic.name, [(0, 0, 1024)])])
        answer = await admin._send_request(request)
        ((_, ((_, code, *_),)),) = answer.topics
        assert code in {0, *REFUSED}, code
        if not code:
            done.add(topic.name)
    return done


@pytest.mark.parametrize("user", WRITES)
async def test_user_writes_and_reads_its_own_topics_only(broker: SecureBroker, user: str) -> None:
    if WRITES[user]:
        assert await written(broker, user) == WRITES[user]
    async with admin_of(broker, user) as admin:
        assert await read(admin) == READS[user]


@pytest.mark.parametrize("user", ["oms-tracking", "oms-operator"])
async def test_user_without_a_topic_of_its_own_writes_nowhere(broker: SecureBroker, user: str) -> None:
    """Without idempotence, which a broker gives only to who may write somewhere."""
    settings = broker.settings(user)
    producer = AIOKafkaProducer(**kafka_link(settings), acks="all")
    await producer.start()
    try:
        for topic in TOPICS:
            with pytest.raises(TopicAuthorizationFailedError):
                await producer.send_and_wait(topic.name, b"{}", partition=0)
    finally:
        await producer.stop()


@pytest.mark.parametrize("user", WRITES)
async def test_user_is_in_no_group_but_its_own(broker: SecureBroker, user: str) -> None:
    async with admin_of(broker, user) as admin:
        allowed = {group for group in (*GROUPS.values(), "oms.order.policy.2") if await may_use(admin, group)}
        assert allowed == {group for name, group in GROUPS.items() if name == user}


async def may_use(admin: AIOKafkaAdminClient, group: str) -> bool:
    try:
        await admin.find_coordinator(group)
    except GroupAuthorizationFailedError:
        return False
    except GroupCoordinatorNotAvailableError:  # allowed, and the topic of positions is only being made
        return True
    return True


@pytest.mark.parametrize("user", WRITES)
async def test_only_the_operator_makes_and_deletes_topics_and_nobody_alters_them(
    broker: SecureBroker, user: str
) -> None:
    async with admin_of(broker, user) as admin:
        (made,) = (await admin.create_topics([NewTopic("oms.spare", 1, 1)])).topic_errors
        assert made[1] in REFUSED, "a name that is not in the table, for nobody"
        for topic in TOPICS:
            (made,) = (await admin.create_topics([NewTopic(topic.name, 1, 1)])).topic_errors
            assert (made[1] not in REFUSED) is (user == "oms-operator")
            resource = ConfigResource(ConfigResourceType.TOPIC, topic.name, {"retention.ms": "1"})
            (altered,) = await admin.alter_configs([resource])
            assert {code for code, *_ in altered.resources} <= REFUSED
            if user != "oms-operator":
                (deleted,) = (await admin.delete_topics([topic.name])).topic_error_codes
                assert deleted[1] in REFUSED


def test_secrets_are_only_in_files(broker: SecureBroker) -> None:
    assert not any("hunter2" in value for value in broker.env("oms-order").values())
    assert Path(broker.env("oms-order")["OMS_KAFKA_SASL_PASSWORD_FILE"]).read_text().strip() == "hunter2"


# --- oms doctor ------------------------------------------------------------------------------------------------------


async def examined(broker: SecureBroker, user: str = "oms-operator") -> list[str]:
    where = Target(kafka=broker.settings(user), services={}, allowed={"single_replica"}, with_access=True)
    return [one.finding.what async for one in examine(where) if one.counts]


async def test_doctor_finds_acls_as_needed_and_names_those_that_are_not(broker: SecureBroker) -> None:
    assert await examined(broker) == []
    needed, excess = Access("group", "oms.order.policy", ("Read",)), Access("topic", PAYMENT, ("Write",))
    async with admin_of(broker, ADMIN) as admin:
        await deny(admin, "oms-order", needed)
        await allow(admin, "oms-order", excess)
        try:
            assert await examined(broker) == [
                "oms-order may not Read group oms.order.policy",
                f"oms-order may Write topic {PAYMENT}, and need not",
            ]
        finally:
            await allow(admin, "oms-order", needed)
            await deny(admin, "oms-order", excess)


async def test_doctor_that_may_not_see_says_as_whom_to_ask(broker: SecureBroker) -> None:
    found = await examined(broker, "oms-order")
    assert f"Kafka has no topic {STOCK}, or this user may not see it" in found
    assert any("oms-order may not see Kafka's ACLs" in one for one in found)


async def test_doctor_finds_a_topic_that_is_not_there(broker: SecureBroker) -> None:
    settings = broker.settings("oms-operator")
    async with admin_of(broker, "oms-operator") as admin:
        await admin.delete_topics([STOCK])
        try:

            async def gone() -> bool:
                return STOCK not in await admin.list_topics()

            await eventually(gone, "the topic is deleted")
            assert await examined(broker) == [f"Kafka has no topic {STOCK}, or this user may not see it"]
        finally:
            await create_topics(settings.kafka_bootstrap, TOPICS, link=kafka_link(settings))
