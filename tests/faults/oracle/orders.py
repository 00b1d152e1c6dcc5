"""I-1, I-2, I-13 and I-24: what callers were told, held against what was done."""

import json
import re
from collections import Counter, defaultdict
from collections.abc import Iterator
from typing import Any

from tests.faults.oracle.history import Attempt, Fact, History, Violation


def received(history: History) -> Iterator[Violation]:
    """I-1: what was accepted is an order, once; of what nobody knows there is one or none, never two."""
    found = Counter((f.data["channel"], f.data["external_order_id"]) for f in history.of("order", "OrderReceived"))
    refused = {(f.data["channel"], f.data["external_order_id"]) for f in history.of("order", "OrderRejected")}
    promised: dict[tuple[str, str], set[str]] = defaultdict(set)
    for attempt in history.attempts_made:
        if attempt.about["do"] == "place":
            placed = (attempt.about["channel"], attempt.about["external"])
            promised[placed].add(attempt.outcome)
            if attempt.outcome == "ok" and attempt.about["expect"] == "rejection" and placed not in refused:
                yield Violation("I-1", str(placed), "was sent with a fault and is neither rejected nor heard of")
            if attempt.outcome == "ok" and attempt.about["expect"] == "order" and found[placed] != 1:
                yield Violation("I-1", str(placed), f"was accepted and received {found[placed]} times")
    for placed, times in found.items():
        if times > 1:
            yield Violation("I-1", str(placed), f"received {times} times")
        if placed not in promised:
            yield Violation("I-1", str(placed), "received, and nobody sent it")


def idempotent(history: History) -> Iterator[Violation]:
    """I-2: under one key one effect and one answer; another body under it is refused and has none."""
    effects: dict[tuple[str, str], list[Fact]] = defaultdict(list)
    for fact in history.all():
        if key := fact.meta.get("idempotency_key"):
            effects[fact.service, str(key)].append(fact)
    attempts: dict[tuple[str, str], list[Attempt]] = defaultdict(list)
    for attempt in history.attempts_made:
        if attempt.about["door"] == "http":
            attempts[attempt.about["service"], attempt.key].append(attempt)
    for (service, key), made in attempts.items():
        subject = f"{service} {key}"
        done = effects[service, key]
        causes = {str(fact.meta["causation_id"]) for fact in done}
        if len(causes) > 1:
            yield Violation("I-2", subject, f"{len(causes)} effects: {[fact.name for fact in done]}")
        yield from _answers(subject, made, done)


def _answers(subject: str, made: list[Attempt], done: list[Fact]) -> Iterator[Violation]:
    first = next((attempt for attempt in made if attempt.answered), None)
    if first is None:
        return
    for attempt in made:
        if not attempt.answered:
            continue
        if attempt.about["digest"] != first.about["digest"]:
            if attempt.status != 422 or _code(attempt) != "idempotency_mismatch":
                yield Violation("I-2", subject, f"another body was answered {attempt.status} {_code(attempt)}")
        elif (attempt.status, attempt.done["body"]) != (first.status, first.done["body"]):
            yield Violation("I-2", subject, f"answered {_said(first)} and then {_said(attempt)}")
    told = _events(first)
    names = Counter(fact.name for fact in done)
    if told is not None and Counter(told) != names:
        yield Violation("I-2", subject, f"answered with {dict(Counter(told))}, and the store has {dict(names)}")


def _said(attempt: Attempt) -> str:
    return f"{attempt.status} {attempt.done['body'][:200]!r}"


def _json(attempt: Attempt) -> dict[str, Any]:
    try:
        body = json.loads(attempt.done["body"])
    except ValueError:
        return {}
    return body if isinstance(body, dict) else {}


def _code(attempt: Attempt) -> str:
    return str(_json(attempt).get("code", ""))


def _events(attempt: Attempt) -> list[str] | None:
    """The types that a receipt says were appended."""
    return _json(attempt).get("events") if attempt.outcome == "ok" else None


def one_end(history: History) -> Iterator[Violation]:
    """I-13: an order that was begun is completed or compensated in full: never both, and never neither."""
    ends: dict[str, set[str]] = defaultdict(set)
    for fact in history.of("order", "OrderCompleted", "OrderCancelled"):
        ends[fact.order_id].add(fact.name)
    live = _live_authorisations(history)
    shipped = {fact.order_id for fact in history.of("fulfillment", "ShipmentDispatched")}
    captured = {fact.order_id for fact in history.of("payment", "PaymentCaptured")}
    for order_id, how in ends.items():
        if len(how) > 1:
            yield Violation("I-13", order_id, "is both completed and cancelled")
        if how == {"OrderCancelled"}:
            if order_id in shipped or order_id in captured:
                yield Violation("I-13", order_id, "is cancelled, and was shipped or captured")
            if live[order_id]:
                yield Violation("I-13", order_id, f"is cancelled and holds the authorisations {live[order_id]}")
        if how == {"OrderCompleted"}:
            if order_id not in shipped or order_id not in captured:
                yield Violation("I-13", order_id, "is completed, and was not shipped and captured")
            if len(live[order_id]) > 1:
                yield Violation("I-13", order_id, f"is completed and holds the authorisations {live[order_id]}")


def _live_authorisations(history: History) -> dict[str, list[str]]:
    live: dict[str, list[str]] = defaultdict(list)
    for fact in history.of("payment", "PaymentAuthorized", "PaymentAuthorizationVoided"):
        if fact.name == "PaymentAuthorized":
            live[fact.order_id].append(fact.data["auth_id"])
        elif fact.data["auth_id"] in live[fact.order_id]:
            live[fact.order_id].remove(fact.data["auth_id"])
    return live


def in_contract(history: History) -> Iterator[Violation]:
    """I-24: every answer is one that the service's openapi.json has; an error of a server says when to come back."""
    for attempt in history.attempts_made:
        if attempt.about["door"] != "http" or attempt.status is None:
            continue
        subject = f"{attempt.about['method']} {attempt.about['path']} #{attempt.about['n']}"
        headers = {name.lower(): value for name, value in attempt.done["headers"].items()}
        problem = headers.get("content-type") == "application/problem+json" and re.fullmatch(
            "[A-Za-z_]+", _code(attempt)
        )
        if attempt.status >= 400 and not problem:
            yield Violation("I-24", subject, f"{_said(attempt)} is no problem+json with a code")
        if attempt.status >= 500 and (attempt.status not in (503, 504) or "retry-after" not in headers):
            yield Violation("I-24", subject, f"{_said(attempt)}, {headers}")
        documented = _documented(history.openapi.get(attempt.about["service"], {}), attempt)
        if documented is not None and str(attempt.status) not in documented:
            yield Violation("I-24", subject, f"{_said(attempt)} is not in openapi.json: {sorted(documented)}")


def _documented(openapi: dict[str, Any], attempt: Attempt) -> set[str] | None:
    method, path = attempt.about["method"].lower(), attempt.about["path"]
    for pattern, operations in sorted(openapi.get("paths", {}).items(), key=lambda item: str(item[0]).count("{")):
        if method in operations and re.fullmatch(re.sub(r"\{[^}]+\}", "[^/]+", pattern), path):
            return set(operations[method]["responses"])
    return set()


CHECKS = (received, idempotent, one_end, in_contract)
