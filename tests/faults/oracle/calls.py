"""I-18, I-19, I-20 and I-23: views, calls to the outside, and what the processes use."""

from collections import Counter
from collections.abc import Iterator
from typing import Any

from tests.faults.oracle.history import History, Violation

ROOM = 160 * 1024 * 1024
"""A process may grow by this, or to twice of what it had: caches fill, allocators keep."""

FILES = 40 + 2 * 32
"""Two doors to the outside keep up to 32 connections each: one that idles is closed when its door is used next."""


def views_are_folds(history: History) -> Iterator[Violation]:
    """I-18: each read model, compared both ways with what a rebuild made of the log."""
    for service, views in history.views.items():
        for view, before in views.items():
            after = history.rebuilt.get(service, {}).get(view)
            if after is None:
                yield Violation("I-18", f"{service}.{view}", "could not be rebuilt")
                continue
            for key in before.keys() | after.keys():
                if before.get(key) != after.get(key):
                    says = f"{_difference(before.get(key), after.get(key))}"
                    yield Violation("I-18", f"{service}.{view} {key}", says)


def _difference(before: Any, after: Any) -> str:
    if not isinstance(before, dict) or not isinstance(after, dict):
        return f"was {before}, rebuilt {after}"
    names = [name for name in before.keys() | after.keys() if before.get(name) != after.get(name)]
    return "; ".join(f"{name} was {before.get(name)}, rebuilt {after.get(name)}" for name in names)


def rebuild_does_nothing(history: History) -> Iterator[Violation]:
    """I-19: while the views were rebuilt nothing was appended and nobody was called."""
    for service, appended in history.appended_by_rebuild.items():
        if appended:
            yield Violation("I-19", service, f"the rebuild appended {appended} events")
    for simulator, before in history.attempts.items():
        made = history.attempts_after.get(simulator, before) - before
        if made:
            yield Violation("I-19", simulator, f"the rebuild made {made} calls")


def called_once(history: History) -> Iterator[Violation]:
    """I-20: of each label, release and capture the outside accepted one, and only what one of our events asks for."""
    done: Counter[tuple[str, str]] = Counter()
    keys: dict[str, set[str]] = {}
    for simulator, rows in history.ledgers.items():
        for row in rows:
            keys.setdefault(simulator, set()).add(row["idempotency_key"])
            if row["status_code"] < 300 and row["operation"] in ("label", "release"):
                done[row["operation"], row["reference"]] += 1
    packages = Counter[str]()
    for fact in history.of("fulfillment", "ShipmentCreated"):
        packages[fact.data["shipment_id"]] = len(fact.data["packages"])
    releases = {fact.data["release_id"] for fact in history.of("fulfillment", "FulfillmentOrderCreated")}
    for (operation, reference), times in done.items():
        allowed = packages[reference] if operation == "label" else int(reference in releases)
        if times > allowed:
            yield Violation("I-20", reference, f"{times} {operation}s, {allowed} wanted")
    intended = {fact.data["idempotency_key"] for fact in history.of("payment") if "idempotency_key" in fact.data}
    for key in keys.get("psp", set()) - intended:
        yield Violation("I-20", key, "the PSP was called under a key that no event intends")
    for service, left in history.effects.items():
        if left:
            yield Violation("I-20", service, f"{left} effects are still open at rest")


def bounded(history: History) -> Iterator[Violation]:
    """I-23: memory, files, connections and the outbox are back where they were when the system was warm."""
    warm = {use.name: use for use in history.usage if use.warm}
    for use in history.usage:
        if use.warm or use.name not in warm:
            continue
        before = warm[use.name]
        if use.rss > max(2 * before.rss, before.rss + ROOM):
            yield Violation("I-23", use.name, f"{use.rss >> 20} MiB, was {before.rss >> 20}")
        if use.fds > before.fds + FILES:
            yield Violation("I-23", use.name, f"{use.fds} open files, was {before.fds}: {use.sockets}")
        if use.connections > before.connections + 8:
            yield Violation("I-23", use.name, f"{use.connections} connections to PostgreSQL, was {before.connections}")
        if use.outbox:
            yield Violation("I-23", use.name, f"{use.outbox} events wait in the outbox at rest")


CHECKS = (views_are_folds, rebuild_does_nothing, called_once, bounded)
