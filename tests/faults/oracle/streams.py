"""I-3 and I-4: every stream is a legal path without a gap, and at rest no order is left standing."""

import json
from collections.abc import Iterable, Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any

from tests.faults.oracle.history import Fact, History, Violation

PATHS: dict[str, Any] = json.loads(Path(__file__).with_name("paths.json").read_text())
STANDING = timedelta(minutes=15)
"""Longer than any limit of a state under the campaign's settings."""

CALLS = {
    "PaymentAuthorizationSubmitted": ("AUTHORIZE", "asked"),
    "PaymentAuthorized": ("AUTHORIZE", "done"),
    "PaymentDeclined": ("AUTHORIZE", "refused"),
    "PaymentCaptureSubmitted": ("CAPTURE", "asked"),
    "PaymentCaptured": ("CAPTURE", "done"),
    "PaymentCaptureFailed": ("CAPTURE", "refused"),
    "PaymentVoidSubmitted": ("VOID", "asked"),
    "PaymentAuthorizationVoided": ("VOID", "done"),
    "PaymentVoidFailed": ("VOID", "refused"),
    "RefundSubmitted": ("REFUND", "asked"),
    "PaymentRefunded": ("REFUND", "done"),
    "RefundFailed": ("REFUND", "refused"),
    "PaymentOutcomeUnknown": ("", "lost"),
    "PaymentOutcomeResolved": ("", "resolved"),
}
ID_OF = {"AUTHORIZE": "attempt", "CAPTURE": "capture_id", "VOID": "auth_id", "REFUND": "refund_id"}


class Illegal(Exception):
    pass


def walk(path: str, names: Iterable[str]) -> str:
    """Where these events lead. Raises Illegal at the first that the table does not know there."""
    table = PATHS[path]
    at: str = table["start"]
    for place, name in enumerate(names, start=1):
        if name in table["anywhere"]:
            continue
        after = table["moves"].get(at, {}).get(name)
        if after is None:
            raise Illegal(f"{name} at {at}, event {place}")
        at = after
    return at


def versions(history: History) -> Iterator[Violation]:
    """I-4: 1 to n with no gap, in the order of position, and the head says n."""
    for stream, facts in history.streams.items():
        got = [fact.version for fact in facts]
        if got != list(range(1, len(got) + 1)):
            yield Violation("I-4", stream, f"versions {_shown(got)} are not 1 to {len(got)}")
    for service, heads in history.heads.items():
        for head in heads:
            last = len(history.streams.get(head.stream, []))
            if head.version != last:
                yield Violation("I-4", head.stream, f"the head in {service} says {head.version}, the log {last}")


def _shown(numbers: list[int]) -> str:
    return str(numbers if len(numbers) < 20 else [*numbers[:10], "…", *numbers[-5:]])


def paths(history: History) -> Iterator[Violation]:
    """I-4: each stream is accepted by its automaton; a payment is one path for each of its calls."""
    for stream, facts in history.streams.items():
        category = facts[0].category
        if category == "payment":
            yield from _payment(stream, facts)
        elif category not in PATHS:
            yield Violation("I-4", stream, "a stream of no known category")
        else:
            yield from _judged(category, stream, [fact.name for fact in facts])


def _judged(path: str, subject: str, names: list[str]) -> Iterator[Violation]:
    try:
        walk(path, names)
    except Illegal as illegal:
        yield Violation("I-4", subject, f"{illegal} of {names}")


def _payment(stream: str, facts: list[Fact]) -> Iterator[Violation]:
    calls: dict[tuple[str, str], list[str]] = {}
    keys: dict[str, tuple[str, str]] = {}
    for fact in facts:
        if fact.name not in CALLS:
            yield Violation("I-4", stream, f"{fact.name} is no event of a payment")
            continue
        operation, step = CALLS[fact.name]
        if step in ("lost", "resolved"):
            call = keys.get(fact.data["idempotency_key"], ("?", fact.data["idempotency_key"]))
        else:
            call = (operation, str(fact.data[ID_OF[operation]]))
        if step == "asked":
            known = keys.setdefault(fact.data["idempotency_key"], call)
            if known != call:
                yield Violation("I-4", stream, f"{known} and {call} share the key {fact.data['idempotency_key']}")
        calls.setdefault(call, []).append(step)
    for call, steps in calls.items():
        yield from _judged("call", f"{stream} {call}", steps)


def standing(history: History) -> Iterator[Violation]:
    """I-3: at rest an order has ended, or somebody was told (an open hold), or its own timer will wake it."""
    due = {head.stream: head.due_at for heads in history.heads.values() for head in heads}
    for stream, facts in history.streams.items():
        if facts[0].category != "order":
            continue
        try:
            at = walk("order", [fact.name for fact in facts])
        except Illegal:
            continue  # told above
        if at in (*PATHS["order"]["ends"], "AHEAD_REJECTED") or _held(facts):
            continue
        timer = due.get(stream)
        if timer is None or timer < history.now:
            yield Violation("I-3", stream, f"stands at {at}, due {timer}, last {facts[-1].recorded_at}")
        elif history.now - facts[-1].recorded_at > STANDING:
            yield Violation("I-3", stream, f"stands at {at} since {facts[-1].recorded_at}")


def _held(facts: list[Fact]) -> bool:
    holds: set[str] = set()
    for fact in facts:
        if fact.name == "OrderHoldPlaced":
            holds.add(fact.data["hold_id"])
        elif fact.name == "OrderHoldReleased":
            holds.discard(fact.data["hold_id"])
    return bool(holds)


CHECKS = (versions, paths, standing)
