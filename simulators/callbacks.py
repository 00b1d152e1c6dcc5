"""The courier: sends signed callbacks when they fall due, from a schedule that outlives the process."""

import asyncio
import math
import sqlite3
import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import Any

import httpx
import orjson
import structlog
from standardwebhooks import Webhook

from simulators.chance import draw
from simulators.ledger import Ledger

LOG = structlog.get_logger()

CONCURRENCY = 32
WINDOW = 4 * CONCURRENCY
TIMEOUT_S = 10.0
IDLE_S = 3600.0
LATE_S = 0.2
FIRST_BACKOFF_S = 0.2
LONGEST_BACKOFF_S = 10.0
LONGEST_WAIT_S = 60.0  # whatever a Retry-After asks
LONGEST_PROBE_S = 2.0  # a receiver that came back is found within this
REPEATABLE = frozenset({408, 409, 429})


@dataclass(frozen=True, kw_only=True)
class Callback:
    id: str
    due_at: float
    body: dict[str, Any]


@dataclass(frozen=True, kw_only=True)
class Settled:
    rowid: int
    subject: str
    state: str
    due_at: float
    answer: str


def schedule(connection: sqlite3.Connection, subject: str, callbacks: Sequence[Callback]) -> None:
    """All callbacks of one subject, in one call. They go out one after another in order of `due_at`, so that only the
    behaviours disorder them and not a slow receiver; a row waits until the one before it is settled."""
    ordered = sorted(callbacks, key=lambda callback: callback.due_at)
    connection.executemany(
        "INSERT INTO callbacks (id, subject, body, state, due_at, first_due_at) VALUES (?, ?, ?, ?, ?, ?)",
        [
            (c.id, subject, orjson.dumps(c.body).decode(), "waiting" if place else "due", c.due_at, c.due_at)
            for place, c in enumerate(ordered)
        ],
    )


def repeated(callbacks: Sequence[Callback], seed: int, rate: float) -> list[Callback]:
    """Adds second copies under the same id, some of them later than what came after the first."""
    last = max(callback.due_at for callback in callbacks)
    again = [callback for callback in callbacks if draw(seed, "repeat", callback.id) < rate]
    late = {c.id: c.due_at + draw(seed, "repeat_delay", c.id) * (last - c.due_at + LATE_S) for c in again}
    return [*callbacks, *(replace(callback, due_at=late[callback.id]) for callback in again)]


def turn(connection: sqlite3.Connection, settled: Sequence[Settled], limit: int) -> list[sqlite3.Row]:
    """Writes down what was sent and reads what is next: one transaction a turn."""
    for one in settled:
        connection.execute(
            "UPDATE callbacks SET state = ?, due_at = ?, last_answer = ?, attempts = attempts + 1 WHERE rowid = ?",
            (one.state, one.due_at, one.answer, one.rowid),
        )
        if one.state != "due":
            connection.execute(
                "UPDATE callbacks SET state = 'due' WHERE rowid = (SELECT rowid FROM callbacks"
                " WHERE subject = ? AND state = 'waiting' ORDER BY rowid LIMIT 1)",
                (one.subject,),
            )
    return connection.execute(
        "SELECT rowid, id, subject, body, due_at, first_due_at, attempts FROM callbacks WHERE state = 'due'"
        " ORDER BY due_at, rowid LIMIT ?",
        (limit,),
    ).fetchall()


def page(connection: sqlite3.Connection, after: int, limit: int) -> list[dict[str, Any]]:
    rows = connection.execute("SELECT * FROM callbacks WHERE rowid > ? ORDER BY rowid LIMIT ?", (after, limit))
    return [dict(row) | {"body": orjson.loads(row["body"])} for row in rows]


class Courier:
    def __init__(self, ledger: Ledger, url: str, secret: str, seed: int, give_up_s: float) -> None:
        self._ledger = ledger
        self._url = url
        self._webhook = Webhook(secret)
        self._seed = seed
        self._give_up_s = give_up_s
        self._wake = asyncio.Event()
        self._stopping = False
        self._places = asyncio.Semaphore(CONCURRENCY)
        self._sending: dict[int, asyncio.Task[None]] = {}
        self._settled: list[Settled] = []
        self._looks_again_at = 0.0
        self._failures = 0  # in a row and over all callbacks: then the receiver is away, not one callback bad
        self._resumes_at = 0.0

    def expect(self, due_at: float) -> None:
        if due_at < self._looks_again_at:
            self._wake.set()

    def stop(self) -> None:
        self._stopping = True
        self._wake.set()

    async def run(self) -> None:
        limits = httpx.Limits(max_connections=CONCURRENCY, max_keepalive_connections=CONCURRENCY, keepalive_expiry=30)
        async with (
            httpx.AsyncClient(timeout=TIMEOUT_S, limits=limits, trust_env=False) as client,
            asyncio.TaskGroup() as tasks,  # a defect in one delivery ends the process instead of a quiet courier
        ):
            while not self._stopping:
                self._wake.clear()
                self._looks_again_at = math.inf  # whatever is scheduled during the turn may have been missed by it
                self._looks_again_at = await self._turn(client, tasks)
                with suppress(TimeoutError):
                    async with asyncio.timeout(max(0.0, self._looks_again_at - time.time())):
                        await self._wake.wait()
            if self._sending:
                await asyncio.wait(self._sending.values(), timeout=2)
            for task in self._sending.values():
                task.cancel()  # its row stays due: after a restart it goes out again, under the same id
        await self._ledger.run(lambda connection: turn(connection, self._settled, 0))

    async def _turn(self, client: httpx.AsyncClient, tasks: asyncio.TaskGroup) -> float:
        """Starts what is due; returns when to look again."""
        settled, self._settled = self._settled, []
        rows = await self._ledger.run(lambda connection: turn(connection, settled, WINDOW))
        now = time.time()
        if now < self._resumes_at:
            return self._resumes_at
        window = WINDOW if self._failures < CONCURRENCY else 1
        busy = self._sending.keys() | {one.rowid for one in self._settled}  # settled while the ledger was writing
        for row in rows:
            if row["due_at"] > now:
                return float(row["due_at"])
            if len(self._sending) >= window:
                break
            if row["rowid"] not in busy:
                self._sending[row["rowid"]] = tasks.create_task(self._deliver(client, row))
        return now + IDLE_S

    async def _deliver(self, client: httpx.AsyncClient, row: sqlite3.Row) -> None:
        async with self._places:
            state, answer, wait_s = await self._send(client, row)
        if state == "due" and time.time() - row["first_due_at"] > self._give_up_s:
            state = "given_up"
        if state == "given_up":
            LOG.warning("callback.given_up", id=row["id"], attempts=row["attempts"] + 1, answer=answer)
        due_at = time.time() + wait_s if state == "due" else row["due_at"]
        self._settled.append(
            Settled(rowid=row["rowid"], subject=row["subject"], state=state, due_at=due_at, answer=answer)
        )
        del self._sending[row["rowid"]]
        # Not a turn for each delivery: half a window is still in hand.
        if len(self._sending) <= WINDOW // 2 or len(self._settled) >= CONCURRENCY:
            self._wake.set()

    async def _send(self, client: httpx.AsyncClient, row: sqlite3.Row) -> tuple[str, str, float]:
        """The row's next state, the receiver's answer in words, and how long to wait if it is to be repeated."""
        now = datetime.now(UTC)
        headers = {
            "content-type": "application/json",
            "webhook-id": row["id"],
            "webhook-timestamp": str(int(now.timestamp())),
            "webhook-signature": self._webhook.sign(row["id"], now, row["body"]),
        }
        backoff_s = min(LONGEST_BACKOFF_S, FIRST_BACKOFF_S * 2 ** min(row["attempts"], 10))
        backoff_s *= 0.5 + draw(self._seed, "backoff", row["id"], row["attempts"])
        try:
            response = await client.post(self._url, content=row["body"].encode(), headers=headers)
        except httpx.HTTPError as error:
            self._failed()
            return "due", type(error).__name__, backoff_s
        answer = str(response.status_code)
        if response.is_success:
            self._failures = 0
            return "sent", answer, 0.0
        if response.is_client_error and response.status_code not in REPEATABLE:
            self._failures = 0
            return "given_up", answer, 0.0
        self._failed()
        asked = response.headers.get("retry-after", "")
        return "due", answer, max(backoff_s, min(float(asked), LONGEST_WAIT_S) if asked.isdecimal() else 0.0)

    def _failed(self) -> None:
        self._failures += 1
        if self._failures >= CONCURRENCY:
            beyond = min(self._failures - CONCURRENCY, 8)
            self._resumes_at = time.time() + min(LONGEST_PROBE_S, 0.05 * 2**beyond)
