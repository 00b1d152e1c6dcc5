"""What each user may do on Kafka, derived from the topic table and a service's own declarations: the least it needs.

The one source of every ACL: `oms access` prints it, and whatever makes Kafka users (Kubernetes, tests) takes it from
here. A topic has one owner, so the right to write is what keeps a service from speaking for another.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

from libs.events.topics import TOPICS
from libs.runtime.service import Service

Operation = Literal["Read", "Write", "Describe", "DescribeConfigs", "Create", "Delete"]


@dataclass(frozen=True, slots=True)
class Access:
    """An ACL of type allow, from any host, on the resource of exactly this name. Operations as Kafka spells them."""

    resource: Literal["topic", "group", "cluster"]
    name: str
    operations: tuple[Operation, ...]


def kafka_user(service: str) -> str:
    """The name that Kafka knows a service by."""
    return f"oms-{service}"


CHANNEL_USER = kafka_user("channel")
OPERATOR_USER = kafka_user("operator")
_SEEN: tuple[Operation, ...] = ("Describe", "DescribeConfigs")  # the preflight looks at partitions and min.insync


def service_access(service: Service[Any]) -> Sequence[Access]:
    """Writes its own topics, reads those it subscribes to, and is in its own consumer group. Nothing else."""
    owned = [topic.name for topic in TOPICS if topic.owner == service.name]
    access = [Access("topic", name, ("Write", *_SEEN)) for name in owned]
    access += [Access("topic", topic.name, ("Read", *_SEEN)) for topic in service.subscribes]
    if service.subscribes:
        access.append(Access("group", service.consumer, ("Read",)))
    return sorted(access, key=lambda one: (one.resource, one.name))


def channel_access() -> Sequence[Access]:
    """A sales channel publishes orders and cancellations, and reads nothing: its answers come by HTTP."""
    return [Access("topic", topic.name, ("Write", "Describe")) for topic in TOPICS if topic.owner == "channel"]


def operator_access() -> Sequence[Access]:
    """For `oms verify`, `oms doctor` and `oms republish`, and for making the topics: no writing of records."""
    everything: tuple[Operation, ...] = ("Read", *_SEEN, "Create", "Delete")
    return [Access("cluster", "kafka-cluster", ("Describe",)), *(Access("topic", t.name, everything) for t in TOPICS)]
