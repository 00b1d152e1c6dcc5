"""The one table of topics and stream categories: who owns a topic, how it is keyed, how long it is kept."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

DAY_MS = 24 * 3600 * 1000


@dataclass(frozen=True, kw_only=True)
class Topic:
    """A Kafka topic with its only writer. `versioned` records carry a stream and version; a channel's do not."""

    name: str
    owner: str
    key: str
    partitions: int = 6
    retention_ms: int | None = 7 * DAY_MS
    cleanup_policy: Literal["delete", "compact"] = "delete"
    versioned: bool = True


CHANNEL_ORDERS = Topic(name="oms.channel.orders", owner="channel", key="{channel}:{external_order_id}", versioned=False)
ORDER_EVENTS = Topic(name="oms.order.events", owner="order", key="order_id")
INVENTORY_EVENTS = Topic(name="oms.inventory.events", owner="inventory", key="order_id")
INVENTORY_STOCK = Topic(name="oms.inventory.stock", owner="inventory", key="sku")
PAYMENT_EVENTS = Topic(name="oms.payment.events", owner="payment", key="order_id")
FULFILLMENT_EVENTS = Topic(name="oms.fulfillment.events", owner="fulfillment", key="order_id")

TOPICS = (CHANNEL_ORDERS, ORDER_EVENTS, INVENTORY_EVENTS, INVENTORY_STOCK, PAYMENT_EVENTS, FULFILLMENT_EVENTS)
TOPIC_BY_NAME: Mapping[str, Topic] = {topic.name: topic for topic in TOPICS}


@dataclass(frozen=True)
class Category:
    """What streams of one kind share: their topic, and the field of an event that is its Kafka key.

    All events of one stream have the same key: that keeps their order, and lets a consumer see a gap.
    """

    topic: Topic
    key_field: str


CATEGORIES: Mapping[str, Category] = {
    "order": Category(ORDER_EVENTS, "order_id"),
    "reservation": Category(INVENTORY_EVENTS, "order_id"),
    "stock": Category(INVENTORY_STOCK, "sku"),
    "network": Category(INVENTORY_STOCK, "stream_id"),
    "payment": Category(PAYMENT_EVENTS, "order_id"),
    "release": Category(FULFILLMENT_EVENTS, "order_id"),
    "shipment": Category(FULFILLMENT_EVENTS, "order_id"),
}
