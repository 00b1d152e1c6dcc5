"""What happened, as raw rows, raw records, ledgers and a journal say it. No code of the product is used to read it."""

import json
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import datetime
from functools import cached_property
from typing import Any, NamedTuple

OWNERS = ("order", "inventory", "payment", "fulfillment")
LISTENERS = (*OWNERS, "tracking")

TOPIC_OF = {
    "order": "oms.order.events",
    "reservation": "oms.inventory.events",
    "stock": "oms.inventory.stock",
    "network": "oms.inventory.stock",
    "payment": "oms.payment.events",
    "release": "oms.fulfillment.events",
    "shipment": "oms.fulfillment.events",
}
OWN_TOPICS = tuple(dict.fromkeys(TOPIC_OF.values()))
CHANNEL_TOPIC = "oms.channel.orders"
MARK = b"campaign"
READ_HEADERS = {"ce_id", "ce_type", "ce_subject", "ce_aggregateversion"}


@dataclass(frozen=True)
class Fact:
    """One row of a service's `events`."""

    service: str
    position: int
    stream: str
    version: int
    id: str
    type: str
    raw: bytes
    meta: dict[str, Any]
    recorded_at: datetime

    @cached_property
    def data(self) -> dict[str, Any]:
        data: dict[str, Any] = json.loads(self.raw)
        return data

    @property
    def name(self) -> str:
        return self.type.rpartition(".")[2]

    @property
    def category(self) -> str:
        return self.stream.partition("-")[0]

    @property
    def order_id(self) -> str:
        return str(self.data.get("order_id", ""))


@dataclass(frozen=True)
class Sent:
    """One record of a topic, as the broker keeps it."""

    topic: str
    partition: int
    offset: int
    key: bytes | None
    value: bytes | None
    headers: tuple[tuple[str, bytes], ...]

    def header(self, name: str) -> str:
        return next((value.decode(errors="replace") for key, value in self.headers if key == name), "")

    @property
    def place(self) -> tuple[str, int, int]:
        return self.topic, self.partition, self.offset

    @property
    def marked(self) -> bool:
        """Carries the campaign's mark, which no service writes."""
        return MARK in (self.key or b"") or any(MARK in value for _, value in self.headers)

    @property
    def stream(self) -> str:
        return self.header("ce_subject")

    @property
    def version(self) -> int:
        version = self.header("ce_aggregateversion")
        return int(version) if version.isdigit() else 0


class Counters(NamedTuple):
    next_offset: int
    processed: int
    duplicate: int
    parked: int
    skipped: int


@dataclass(frozen=True)
class Head:
    stream: str
    version: int
    due_at: datetime | None


@dataclass(frozen=True)
class Parked:
    topic: str
    partition: int
    offset: int
    key: bytes
    reason: str


@dataclass(frozen=True)
class Usage:
    """What a process used at some time; `warm` marks the measure that later ones are held against."""

    name: str
    rss: int
    fds: int
    connections: int
    outbox: int
    warm: bool
    sockets: str = ""  # for people: what the open files are


@dataclass
class History:
    now: datetime
    facts: dict[str, list[Fact]] = field(default_factory=dict)
    heads: dict[str, list[Head]] = field(default_factory=dict)
    outbox: dict[str, set[int]] = field(default_factory=dict)
    effects: dict[str, int] = field(default_factory=dict)
    counters: dict[str, dict[tuple[str, int], Counters]] = field(default_factory=dict)
    seen: dict[str, dict[str, int]] = field(default_factory=dict)
    parked: dict[str, list[Parked]] = field(default_factory=dict)
    views: dict[str, dict[str, dict[str, Any]]] = field(default_factory=dict)
    rebuilt: dict[str, dict[str, dict[str, Any]]] = field(default_factory=dict)
    heard: dict[tuple[str, int], bytes] = field(default_factory=dict)  # tracking's own copy, by stream and version
    records: list[Sent] = field(default_factory=list)
    ends: dict[tuple[str, int], int] = field(default_factory=dict)
    ledgers: dict[str, list[dict[str, Any]]] = field(default_factory=dict)
    balances: list[dict[str, Any]] = field(default_factory=list)
    attempts: dict[str, int] = field(default_factory=dict)  # calls that a simulator heard, before the rebuild
    attempts_after: dict[str, int] = field(default_factory=dict)
    appended_by_rebuild: dict[str, int] = field(default_factory=dict)
    journal: list[dict[str, Any]] = field(default_factory=list)
    operator: list[tuple[str, str, str]] = field(default_factory=list)  # service, action, topic
    samples: list[dict[tuple[str, str, int], int]] = field(default_factory=list)
    usage: list[Usage] = field(default_factory=list)
    openapi: dict[str, dict[str, Any]] = field(default_factory=dict)

    def all(self) -> Iterator[Fact]:
        for service in OWNERS:
            yield from self.facts.get(service, [])

    def of(self, service: str, *names: str) -> Iterator[Fact]:
        """In order of position: the order in which the service decided."""
        return (fact for fact in self.facts.get(service, []) if not names or fact.name in names)

    @cached_property
    def streams(self) -> dict[str, list[Fact]]:
        found: dict[str, list[Fact]] = {}
        for fact in self.all():
            found.setdefault(fact.stream, []).append(fact)
        return found

    @cached_property
    def totals(self) -> dict[str, int]:
        """What each order is worth, as its channel said."""
        return {fact.order_id: fact.data["total"] for fact in self.of("order", "OrderReceived")}

    @cached_property
    def ended(self) -> dict[str, str]:
        names = {"OrderCompleted": "COMPLETED", "OrderCancelled": "CANCELLED"}
        return {fact.order_id: names[fact.name] for fact in self.of("order", *names)}

    @cached_property
    def injected(self) -> set[tuple[str, int, int]]:
        """Records that the campaign itself put on a topic that is not its own."""
        noted = {(e["topic"], e["partition"], e["offset"]) for e in self.journal if e["e"] == "injected"}
        return noted | {sent.place for sent in self.records if sent.marked}  # whose sending was not seen to succeed

    @cached_property
    def rewound(self) -> set[tuple[str, str]]:
        """Services and topics whose positions an operator put back, as the services themselves wrote down."""
        return {(service, topic) for service, action, topic in self.operator if "position" in action}

    @cached_property
    def attempts_made(self) -> list["Attempt"]:
        """The journal's entries, each about-to with what became of it; without an end nobody knows."""
        done = {entry["n"]: entry for entry in self.journal if entry["e"] == "done"}
        lost: dict[str, Any] = {"outcome": "unknown", "status": None, "body": "", "headers": {}, "t": float("inf")}
        return [Attempt(e, done.get(e["n"], lost)) for e in self.journal if e["e"] == "about"]


@dataclass(frozen=True)
class Attempt:
    about: dict[str, Any]
    done: dict[str, Any]

    @property
    def key(self) -> str:
        return str(self.about.get("key", ""))

    @property
    def outcome(self) -> str:
        return str(self.done["outcome"])

    @property
    def status(self) -> int | None:
        status: int | None = self.done.get("status")
        return status

    @property
    def answered(self) -> bool:
        """With an answer that is final: an error of the server invites to repeat."""
        return self.status is not None and self.status < 500


@dataclass(frozen=True)
class Violation:
    invariant: str
    subject: str
    says: str

    def __str__(self) -> str:
        return f"{self.invariant} {self.subject}: {self.says}"
