"""The durable memory of a simulator: one SQLite file, one writing thread, commits in groups."""

import asyncio
import sqlite3
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any, TypeVar

T = TypeVar("T")
Work = Callable[[sqlite3.Connection], Any]

GROUP = 256

SCHEMA = """
CREATE TABLE IF NOT EXISTS attempts (
    idempotency_key TEXT PRIMARY KEY,
    fingerprint     TEXT NOT NULL,
    count           INTEGER NOT NULL
) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS operations (
    rowid           INTEGER PRIMARY KEY AUTOINCREMENT,
    idempotency_key TEXT NOT NULL UNIQUE,
    operation       TEXT NOT NULL,
    reference       TEXT NOT NULL,
    subject         TEXT,
    amount          INTEGER,
    currency        TEXT,
    status_code     INTEGER NOT NULL,
    body            TEXT NOT NULL,
    created_at      TEXT NOT NULL DEFAULT (strftime('%Y-%m-%dT%H:%M:%fZ', 'now'))
);
CREATE INDEX IF NOT EXISTS operations_by_reference ON operations (reference);
CREATE TABLE IF NOT EXISTS callbacks (
    rowid        INTEGER PRIMARY KEY AUTOINCREMENT,
    id           TEXT NOT NULL,
    subject      TEXT NOT NULL,
    body         TEXT NOT NULL,
    state        TEXT NOT NULL CHECK (state IN ('waiting', 'due', 'sent', 'given_up')),
    due_at       REAL NOT NULL,
    first_due_at REAL NOT NULL,
    attempts     INTEGER NOT NULL DEFAULT 0,
    last_answer  TEXT
);
CREATE INDEX IF NOT EXISTS callbacks_due ON callbacks (due_at, rowid) WHERE state = 'due';
CREATE INDEX IF NOT EXISTS callbacks_waiting ON callbacks (subject, rowid) WHERE state = 'waiting';
"""


class Ledger:
    """`run` returns once its group is on disk: whoever awaits it may answer 2xx."""

    def __init__(self, path: str, schema: str = "") -> None:
        self._path = path
        self._schema = SCHEMA + schema
        self._thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix="ledger")
        self._waiting: list[tuple[Work, asyncio.Future[Any]]] = []
        self._pump: asyncio.Task[None] | None = None
        self._connection: sqlite3.Connection

    async def open(self) -> None:
        self._connection = await asyncio.get_running_loop().run_in_executor(self._thread, self._connect)

    async def close(self) -> None:
        while self._pump is not None:
            await self._pump
        await asyncio.get_running_loop().run_in_executor(self._thread, self._connection.close)
        self._thread.shutdown()

    async def run(self, work: Callable[[sqlite3.Connection], T]) -> T:
        future: asyncio.Future[T] = asyncio.get_running_loop().create_future()
        self._waiting.append((work, future))
        if self._pump is None:
            self._pump = asyncio.create_task(self._flush())
        return await future

    async def _flush(self) -> None:
        # While one group is being written the next one gathers: the fsync is shared by all that arrived meanwhile.
        loop = asyncio.get_running_loop()
        try:
            while self._waiting:
                group, self._waiting = self._waiting[:GROUP], self._waiting[GROUP:]
                results = await loop.run_in_executor(self._thread, self._commit, [work for work, _ in group])
                for (_, future), (value, error) in zip(group, results, strict=True):
                    if future.done():  # its caller was cancelled; the effect stands, as with any lost answer
                        continue
                    if error is None:
                        future.set_result(value)
                    else:
                        future.set_exception(error)
        finally:
            self._pump = None

    def _connect(self) -> sqlite3.Connection:
        connection = sqlite3.connect(self._path, isolation_level=None, cached_statements=256)
        connection.row_factory = sqlite3.Row
        connection.execute("PRAGMA journal_mode = WAL")
        connection.execute("PRAGMA synchronous = FULL")  # NORMAL would lose acknowledged commits with the machine
        connection.execute("PRAGMA busy_timeout = 5000")
        connection.executescript(self._schema)
        return connection

    def _commit(self, works: list[Work]) -> list[tuple[Any, Exception | None]]:
        try:
            self._connection.execute("BEGIN IMMEDIATE")
            results = [self._attempt(work) for work in works]
            self._connection.execute("COMMIT")
        except sqlite3.Error as error:
            if self._connection.in_transaction:
                self._connection.execute("ROLLBACK")
            return [(None, error)] * len(works)
        return results

    def _attempt(self, work: Work) -> tuple[Any, Exception | None]:
        self._connection.execute("SAVEPOINT one")
        try:
            value = work(self._connection)
        except Exception as error:  # noqa: BLE001  one caller's failure is handed to that caller and spoils no one else's commit
            self._connection.execute("ROLLBACK TO one")
            self._connection.execute("RELEASE one")
            return None, error
        self._connection.execute("RELEASE one")
        return value, None
