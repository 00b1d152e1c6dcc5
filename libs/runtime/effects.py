"""Makes the calls to the outside that events intend, several at once, each under a lease and its idempotency key."""

import asyncio
import time

import structlog

from libs.runtime import telemetry
from libs.runtime.commit import GroupCommit
from libs.runtime.effect import Effect, GatewayUnavailable
from libs.runtime.errors import Unavailable
from libs.runtime.failpoint import failpoint
from libs.runtime.handler import BROKEN, Request
from libs.runtime.identity import Cause
from libs.runtime.intake import recorded_of
from libs.runtime.logs import words_of
from libs.runtime.service import Effects
from libs.runtime.settings import Settings
from libs.runtime.storage import DueEffect, Storage
from libs.runtime.waiting import jittered, pause, until

log = structlog.get_logger()

_MAX_DELAY = 60.0


def back_off(attempts: int) -> float:
    """Seconds before the next attempt: doubling from half a second to a minute, with jitter."""
    return jittered(min(0.5 * 2 ** min(attempts, 10), _MAX_DELAY))


class EffectWorker:
    def __init__(self, effects: Effects[object], storage: Storage, commit: GroupCommit, settings: Settings) -> None:
        self._effects = effects
        self._storage = storage
        self._commit = commit
        self._settings = settings
        self._calls = asyncio.Semaphore(effects.concurrency)
        self._under_way: set[asyncio.Task[None]] = set()

    async def run(self, wake: asyncio.Event, stop: asyncio.Event) -> None:
        """Performs what is due until asked to stop; then waits for the calls that are under way."""
        while not stop.is_set():
            started = await self._start_due(stop)
            if not started:
                await until(wake, stop, self._settings.poll_ms / 1000)
        if self._under_way:
            await asyncio.wait(self._under_way, timeout=self._settings.stop_seconds / 2)

    async def _start_due(self, stop: asyncio.Event) -> int:
        """Leases a batch while there are calls to spare, so that leases are taken by the batch, not one by one."""
        concurrency = self._effects.concurrency
        if len(self._under_way) >= concurrency:
            await asyncio.wait(self._under_way, return_when=asyncio.FIRST_COMPLETED, timeout=1)
            return 1
        try:
            due = await self._storage.lease_effects(concurrency, self._settings.effect_lease_seconds)
        except Unavailable as error:
            log.warning("effects.waiting", reason=str(error))
            await pause()
            return 0
        for effect in due:
            task = asyncio.create_task(self._when_free(effect, stop))
            self._under_way.add(task)
            task.add_done_callback(self._finished)
        return len(due)

    def _finished(self, task: "asyncio.Task[None]") -> None:
        self._under_way.discard(task)
        if not task.cancelled() and (error := task.exception()) is not None:
            telemetry.alarm("effect_failed", reason=words_of(error))

    async def _when_free(self, due: DueEffect, stop: asyncio.Event) -> None:
        async with self._calls:
            if stop.is_set():
                await self._storage.postpone_effect(due.id, 0)  # the next process need not wait for our lease
            else:
                await self._perform(due)

    async def _perform(self, due: DueEffect) -> None:
        intent = recorded_of(due.intent)
        assert intent is not None
        effect = Effect(kind=due.kind, key=due.key, intent=intent.event)
        with telemetry.span(f"effect {due.kind}", intent.traceparent, stream_id=intent.stream_id) as traceparent:
            failpoint("effect.before_call")
            began = time.monotonic()
            try:
                command = await self._effects.perform(effect, self._effects.gateway)
            except GatewayUnavailable as error:
                await self._postpone(due, str(error))
                return
            finally:
                telemetry.observe("oms.effect.duration", time.monotonic() - began, kind=due.kind)
            failpoint("effect.after_call")
            # The effect's own id, not its intent's: an intent may have several effects, and their answers' ids differ.
            cause = Cause(
                causation_id=due.id,
                at=intent.recorded_at,
                correlation_id=intent.correlation_id,
                channel=intent.channel,
                idempotency_key=due.key,
                traceparent=traceparent,
            )
            answer = await self._commit.submit(Request(command=command, cause=cause, effect_id=due.id))
        if answer.code == BROKEN:
            await self._postpone(due, "the answer could not be recorded")
        telemetry.count("oms.effects", kind=due.kind, outcome=answer.code or "performed")

    async def _postpone(self, due: DueEffect, reason: str) -> None:
        log.warning("effect.postponed", kind=due.kind, attempts=due.attempts, reason=reason)
        telemetry.count("oms.effects", kind=due.kind, outcome="postponed")
        try:
            await self._storage.postpone_effect(due.id, back_off(due.attempts))
        except Unavailable:
            log.warning("effect.lease_left", kind=due.kind)  # its lease ends by itself
