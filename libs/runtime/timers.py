"""Wakes the streams whose deadline has passed by the database's clock.

There is nothing to cancel: after every event a stream says anew, in its head row, when it wants to be woken.
"""

import asyncio
from datetime import datetime

import structlog

from libs.runtime import telemetry
from libs.runtime.commit import GroupCommit
from libs.runtime.decider import Wake
from libs.runtime.errors import Unavailable
from libs.runtime.failpoint import failpoint
from libs.runtime.handler import BROKEN, Request
from libs.runtime.identity import Cause, new_id
from libs.runtime.settings import Settings
from libs.runtime.storage import Storage
from libs.runtime.waiting import pause, until

log = structlog.get_logger()

_SWEEP_SECONDS = 600.0


class Timers:
    def __init__(self, storage: Storage, commit: GroupCommit, settings: Settings) -> None:
        self._storage = storage
        self._commit = commit
        self._settings = settings

    async def run(self, stop: asyncio.Event) -> None:
        never = asyncio.Event()
        while not stop.is_set():
            if not await self.wake_due():
                await until(never, stop, self._settings.poll_ms / 1000)

    async def sweep(self, stop: asyncio.Event) -> None:
        """Forgets answers that are older than callers were promised, now and then."""
        never = asyncio.Event()
        while not stop.is_set():
            try:
                forgotten = await self._storage.forget_answers(self._settings.answer_days * 86_400)
                log.info("answers.forgotten", count=forgotten)
            except Unavailable as error:
                log.warning("timers.waiting", reason=str(error))
            await until(never, stop, _SWEEP_SECONDS)

    async def wake_due(self) -> int:
        """Wakes what is due now and waits until all are decided; says how many streams were woken."""
        try:
            due = await self._storage.due_streams(self._settings.batch_records)
            now = await self._now() if due else None
        except Unavailable as error:
            log.warning("timers.waiting", reason=str(error))
            await pause()
            return 0
        if now is None:
            return 0
        failpoint("timer.waking")
        answers = await asyncio.gather(
            *(
                self._commit.submit(Request(command=Wake(stream_id), cause=Cause(causation_id=new_id(), at=now)))
                for stream_id in due
            )
        )
        telemetry.count("oms.wakes", len(due))
        if any(answer.code == BROKEN for answer in answers):
            await pause()  # a stream that is left to a newer release stays due: not to be woken again at once
        return len(due)

    async def _now(self) -> datetime:
        async with self._storage.transaction() as tx:
            return await tx.now()
