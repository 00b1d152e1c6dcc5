"""Who may do what on Kafka, as topic table and services say it. A real broker holds it: test_secure_kafka.py."""

from libs.events.topics import TOPICS
from libs.runtime.access import CHANNEL_USER, OPERATOR_USER, Access, kafka_user
from libs.runtime.handler import Handler
from libs.testing.memory import MemoryStorage
from oms.catalogue import catalogue, kafka_access
from oms.cluster.apps import SERVICES

ACCESS = kafka_access()


def may(user: str, operation: str) -> set[str]:
    return {one.name for one in ACCESS[user] if operation in one.operations}


def test_every_service_writes_its_own_topics_and_nobody_elses() -> None:
    assert {user.removeprefix("oms-") for user in ACCESS} == {*SERVICES, "channel", "operator"}
    for name in (*SERVICES, "channel"):
        assert may(kafka_user(name), "Write") == {topic.name for topic in TOPICS if topic.owner == name}
    assert may(OPERATOR_USER, "Write") == set()


def test_every_service_reads_what_it_subscribes_to_in_its_own_group() -> None:
    for name, service in catalogue().items():
        topics = {topic.name for topic in service.subscribes}
        assert may(kafka_user(name), "Read") == {*topics, service.consumer}
        groups = [one for one in ACCESS[kafka_user(name)] if one.resource == "group"]
        assert groups == [Access("group", Handler(service, MemoryStorage()).consumer, ("Read",))]
    assert may(CHANNEL_USER, "Read") == set()


def test_only_operators_make_topics() -> None:
    for operation in ("Create", "Delete"):
        assert {user for user in ACCESS if may(user, operation)} == {OPERATOR_USER}
