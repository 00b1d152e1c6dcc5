"""The money rules of the PSP: what may be captured, voided and refunded of an authorisation, and the books of it."""

import sqlite3
import time
from datetime import UTC, datetime
from typing import Any

from simulators.operation import Answer, answer

SCHEMA = """
CREATE TABLE IF NOT EXISTS authorizations (
    rowid            INTEGER PRIMARY KEY AUTOINCREMENT,
    authorization_id TEXT NOT NULL UNIQUE,
    reference        TEXT NOT NULL,
    token            TEXT NOT NULL,
    currency         TEXT NOT NULL,
    authorised       INTEGER NOT NULL CHECK (authorised > 0),
    captured         INTEGER NOT NULL DEFAULT 0 CHECK (captured BETWEEN 0 AND authorised),
    refunded         INTEGER NOT NULL DEFAULT 0 CHECK (refunded BETWEEN 0 AND captured),
    voided           INTEGER NOT NULL DEFAULT 0 CHECK (voided IN (0, authorised) AND (voided = 0 OR captured = 0)),
    expires_at       REAL NOT NULL
);
CREATE INDEX IF NOT EXISTS authorizations_by_reference ON authorizations (reference);
"""


def authorise(
    connection: sqlite3.Connection,
    authorization_id: str,
    reference: str,
    token: str,
    money: tuple[int, str],
    ttl_s: float,
) -> Answer:
    amount, currency = money
    expires_at = time.time() + ttl_s
    connection.execute(
        "INSERT INTO authorizations (authorization_id, reference, token, currency, authorised, expires_at)"
        " VALUES (?, ?, ?, ?, ?, ?)",
        (authorization_id, reference, token, currency, amount, expires_at),
    )
    until = datetime.fromtimestamp(expires_at, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
    body = {"id": authorization_id, "status": "authorized", "amount": amount, "currency": currency, "expires_at": until}
    return answer(201, body, subject=authorization_id, amount=amount, currency=currency)


def capture(connection: sqlite3.Connection, capture_id: str, held: sqlite3.Row, money: tuple[int, str]) -> Answer:
    amount, currency = money
    if held["currency"] != currency:
        return _failed(409, "currency_mismatch", held, money)
    if held["voided"] or held["expires_at"] < time.time():
        return _failed(409, "authorization_closed", held, money)
    if amount > held["authorised"] - held["captured"]:
        return _failed(409, "amount_too_large", held, money)
    return _moved(connection, "captured", capture_id, held, money)


def refund(connection: sqlite3.Connection, refund_id: str, held: sqlite3.Row, money: tuple[int, str]) -> Answer:
    amount, currency = money
    if held["currency"] != currency:
        return _failed(409, "currency_mismatch", held, money)
    if amount > held["captured"] - held["refunded"]:
        return _failed(409, "amount_too_large", held, money)
    return _moved(connection, "refunded", refund_id, held, money)


def void(connection: sqlite3.Connection, held: sqlite3.Row) -> Answer:
    """Voiding what is voided succeeds and moves nothing: the sum of the voids stays the sum of what was let go."""
    released = 0 if held["voided"] else held["authorised"]
    if held["captured"]:
        return _failed(409, "already_captured", held, (held["authorised"], held["currency"]))
    connection.execute("UPDATE authorizations SET voided = authorised WHERE rowid = ?", (held["rowid"],))
    body = {"id": held["authorization_id"], "status": "voided"}
    return answer(200, body, subject=held["authorization_id"], amount=released, currency=held["currency"])


def declined_capture(held: sqlite3.Row, money: tuple[int, str]) -> Answer:
    return _failed(402, "capture_declined", held, money)


def held(connection: sqlite3.Connection, authorization_id: str) -> sqlite3.Row | None:
    row: sqlite3.Row | None = connection.execute(
        "SELECT * FROM authorizations WHERE authorization_id = ?", (authorization_id,)
    ).fetchone()
    return row


def balances(connection: sqlite3.Connection, after: int, limit: int, reference: str | None) -> list[dict[str, Any]]:
    rows = connection.execute(
        "SELECT * FROM authorizations WHERE rowid > ? AND (? IS NULL OR reference = ?) ORDER BY rowid LIMIT ?",
        (after, reference, reference, limit),
    )
    return [dict(row) for row in rows]


def books(connection: sqlite3.Connection) -> dict[str, Any]:
    """The balances and, reckoned a second way, the sums of the operations they came from."""
    kept = connection.execute(
        "SELECT currency, sum(authorised) AS authorised, sum(captured) AS captured, sum(refunded) AS refunded,"
        " sum(voided) AS voided FROM authorizations GROUP BY currency ORDER BY currency"
    ).fetchall()
    moved = connection.execute(
        "SELECT currency, coalesce(sum(amount) FILTER (WHERE operation = 'authorize'), 0) AS authorised,"
        " coalesce(sum(amount) FILTER (WHERE operation = 'capture'), 0) AS captured,"
        " coalesce(sum(amount) FILTER (WHERE operation = 'refund'), 0) AS refunded,"
        " coalesce(sum(amount) FILTER (WHERE operation = 'void'), 0) AS voided"
        " FROM operations WHERE status_code < 300 GROUP BY currency ORDER BY currency"
    ).fetchall()
    balances = [dict(row) for row in kept]
    return {"balances": balances, "balanced": balances == [dict(row) for row in moved]}


def _moved(
    connection: sqlite3.Connection, column: str, operation_id: str, held: sqlite3.Row, money: tuple[int, str]
) -> Answer:
    amount, currency = money
    connection.execute(f"UPDATE authorizations SET {column} = {column} + ? WHERE rowid = ?", (amount, held["rowid"]))
    body = {"id": operation_id, "status": column, "amount": amount, "currency": currency}
    return answer(201, body, subject=held["authorization_id"], amount=amount, currency=currency)


def _failed(status_code: int, code: str, held: sqlite3.Row, money: tuple[int, str]) -> Answer:
    body = {"status": "failed", "code": code}
    return answer(status_code, body, subject=held["authorization_id"], amount=money[0], currency=money[1])
