"""One idempotent operation: a key has one body, one effect and one answer, whatever becomes of the connection."""

import hashlib
import sqlite3
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import orjson

from simulators.behaviour import BEFORE_EFFECT, Verdict


@dataclass(frozen=True, kw_only=True)
class Answer:
    """`kept` is false for a question that could not be one (unknown id): nothing is recorded under its key."""

    status_code: int
    body: bytes
    subject: str | None = None
    amount: int | None = None
    currency: str | None = None
    kept: bool = True

    @property
    def succeeded(self) -> bool:
        return self.status_code < 300


def answer(
    status_code: int,
    body: dict[str, Any],
    *,
    subject: str | None = None,
    amount: int | None = None,
    currency: str | None = None,
    kept: bool = True,
) -> Answer:
    text = orjson.dumps(body)
    return Answer(status_code=status_code, body=text, subject=subject, amount=amount, currency=currency, kept=kept)


@dataclass(frozen=True, kw_only=True)
class Request:
    key: str
    operation: str
    reference: str
    fingerprint: str


def request(key: str, operation: str, reference: str, body: dict[str, Any]) -> Request:
    text = orjson.dumps([operation, body], option=orjson.OPT_SORT_KEYS)
    return Request(key=key, operation=operation, reference=reference, fingerprint=hashlib.sha256(text).hexdigest())


@dataclass(frozen=True, kw_only=True)
class Outcome:
    verdict: Verdict
    answer: Answer | None


Effect = Callable[[sqlite3.Connection, Verdict], Answer]


def attempt(connection: sqlite3.Connection, asked: Request, verdict: Verdict, effect: Effect) -> Outcome:
    """Runs inside a ledger transaction: the attempt, the effect and its answer are recorded together or not at all."""
    known = connection.execute(
        "SELECT fingerprint, count FROM attempts WHERE idempotency_key = ?", (asked.key,)
    ).fetchone()
    if known is not None and known["fingerprint"] != asked.fingerprint:
        return Outcome(verdict="answer", answer=answer(422, {"code": "idempotency_mismatch"}, kept=False))
    connection.execute(
        "INSERT INTO attempts VALUES (?, ?, 1) ON CONFLICT (idempotency_key) DO UPDATE SET count = count + 1",
        (asked.key, asked.fingerprint),
    )
    stored = recorded(connection, asked.key)
    if stored is not None:
        return Outcome(verdict="answer", answer=Answer(status_code=stored["status_code"], body=stored["body"].encode()))
    if known is not None:
        verdict = "answer"
    if verdict in BEFORE_EFFECT:
        return Outcome(verdict=verdict, answer=None)
    given = effect(connection, verdict)
    if given.kept:
        connection.execute(
            "INSERT INTO operations"
            " (idempotency_key, operation, reference, subject, amount, currency, status_code, body)"
            " VALUES (?, ?, ?, ?, ?, ?, ?, ?)",
            (
                asked.key,
                asked.operation,
                asked.reference,
                given.subject,
                given.amount,
                given.currency,
                given.status_code,
                given.body.decode(),
            ),
        )
    return Outcome(verdict=verdict, answer=given)


def recorded(connection: sqlite3.Connection, key: str) -> sqlite3.Row | None:
    row: sqlite3.Row | None = connection.execute(
        "SELECT operation, status_code, body FROM operations WHERE idempotency_key = ?", (key,)
    ).fetchone()
    return row


def operations(connection: sqlite3.Connection, after: int, limit: int, reference: str | None) -> list[dict[str, Any]]:
    rows = connection.execute(
        "SELECT o.*, a.count AS attempts FROM operations o JOIN attempts a USING (idempotency_key)"
        " WHERE o.rowid > ? AND (? IS NULL OR o.reference = ?) ORDER BY o.rowid LIMIT ?",
        (after, reference, reference, limit),
    )
    return [dict(row) | {"body": orjson.loads(row["body"])} for row in rows]


def summary(connection: sqlite3.Connection) -> dict[str, Any]:
    by_outcome = connection.execute(
        "SELECT operation, status_code, count(*) AS count, sum(amount) AS amount, currency FROM operations"
        " GROUP BY operation, status_code, currency ORDER BY operation, status_code, currency"
    ).fetchall()
    attempts = connection.execute(
        "SELECT coalesce(sum(a.count), 0) AS requests, count(*) AS keys,"
        " count(*) FILTER (WHERE o.rowid IS NULL) AS without_effect"
        " FROM attempts a LEFT JOIN operations o USING (idempotency_key)"
    ).fetchone()
    states = connection.execute("SELECT state, count(*) AS count FROM callbacks GROUP BY state ORDER BY state")
    return {
        "operations": [dict(row) for row in by_outcome],
        "attempts": dict(attempts),
        "callbacks": {row["state"]: row["count"] for row in states},
    }
