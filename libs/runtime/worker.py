"""One process of a service: the loops of its roles, started together and stopped together."""

import asyncio
import os
import signal
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import asyncpg
import structlog
import uvicorn

from libs.events.codec import EVENT_CLASSES
from libs.events.topics import TOPICS
from libs.runtime import preflight, telemetry
from libs.runtime.api import Ports
from libs.runtime.commit import GroupCommit
from libs.runtime.configuration import check_settings
from libs.runtime.consumer import Consumer
from libs.runtime.diagnosis import kafka_fault, postgres_fault
from libs.runtime.effects import EffectWorker
from libs.runtime.errors import Unavailable
from libs.runtime.event_store import PostgresStorage
from libs.runtime.garbage import tune_garbage_collector
from libs.runtime.handler import Handler
from libs.runtime.http import PromptProtocol, create_app
from libs.runtime.keys import Keys
from libs.runtime.link import nothing_to_reset, postgres_link
from libs.runtime.logs import words_of
from libs.runtime.operation import Operations
from libs.runtime.park import ParkLimit
from libs.runtime.preflight import Finding, PostgresFacts, Refused
from libs.runtime.relay import KafkaPublisher, Relay
from libs.runtime.schema import unmigrated
from libs.runtime.service import Service
from libs.runtime.settings import Settings
from libs.runtime.surroundings import postgres_facts, topic_facts
from libs.runtime.timers import Timers
from libs.runtime.vitals import Vitals
from libs.runtime.waiting import pause

log = structlog.get_logger()


ENDING_SECONDS = 5.0
KAFKA_FACTS_SECONDS = 2.0
"""A process that serves orders does not wait longer than that for Kafka to say what it is."""


def _end_if_failed(task: "asyncio.Task[None]") -> None:
    """A loop that failed ends the process, also when another one does not let itself be stopped."""
    if task.cancelled() or (error := task.exception()) is None:
        return
    log.error("process.failed", reason=words_of(error))
    ending = threading.Timer(ENDING_SECONDS, os._exit, (1,))
    ending.daemon = True
    ending.start()


class _Server(uvicorn.Server):
    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield  # the process stops all of its loops itself, in order


class Process:
    """`roles` are `api` (serves HTTP routes) and `worker` (consumes, relays, calls, wakes); a process may have both."""

    def __init__(self, service: Service[Any], settings: Settings, roles: frozenset[str]) -> None:
        self._service = service
        self._settings = settings
        self._roles = roles
        self._stop = asyncio.Event()
        self._consumer: Consumer | None = None
        self._refused: Refused | None = None

    async def run(self) -> None:
        """Runs until SIGTERM or SIGINT; a loop that fails ends the process (its supervisor starts it anew).

        Raises Refused when the preflight finds what is not allowed.
        """
        tune_garbage_collector()
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, self._stop.set)
        self._judge(check_settings(self._settings))
        connected = await self._connected()
        if connected is None:
            return
        pool, facts = connected
        try:
            kafka = await self._kafka_findings(KAFKA_FACTS_SECONDS)
            self._judge([*preflight.check_postgres(facts), *(kafka or ())])
            await self._run_on(pool, kafka_is_known=kafka is not None)
            if self._refused is not None:
                raise self._refused
        finally:
            if self._service.effects is not None:
                await self._service.effects.close()
            try:
                await asyncio.wait_for(pool.close(), 3)
            except TimeoutError:
                pool.terminate()
        log.info("process.stopped")

    def _judge(self, findings: Sequence[Finding]) -> None:
        """Raises Refused with every finding that is not allowed; tells of the others."""
        if refused := preflight.unsafe(findings, self._settings.allow_unsafe):
            raise Refused(refused)
        for finding in findings:
            log.warning("preflight.found", name=finding.name, what=finding.what)
            telemetry.show("oms.unsafe", 1, finding=str(finding.name))

    async def _kafka_findings(self, seconds: float) -> list[Finding] | None:
        """None while Kafka is away."""
        own = [topic for topic in TOPICS if topic in self._service.subscribes or topic.owner == self._service.name]
        try:
            return preflight.check_topics(own, await topic_facts(self._settings, own, seconds))
        except Unavailable as error:
            if (fault := await kafka_fault(self._settings)) is not None:
                return [fault]
            log.warning("kafka.waiting", reason=str(error))
            return None

    async def _judge_kafka_later(self) -> None:
        """Kafka was away at start, which keeps no order from being taken; it is judged when it is there."""
        while not self._stop.is_set():
            findings = await self._kafka_findings(10)
            if findings is None:
                await pause()
                continue
            try:
                self._judge(findings)
            except Refused as refused:
                self._refused = refused
                self._stop.set()
            return

    async def _connected(self) -> tuple[asyncpg.Pool, PostgresFacts] | None:
        """Waits for PostgreSQL, and for its schema to be of this release; None when asked to stop meanwhile."""
        while not self._stop.is_set():
            try:
                pool = await self._new_pool()
                try:
                    facts = await postgres_facts(pool)
                    lacking = await unmigrated(pool, self._service)
                except BaseException:
                    pool.terminate()
                    raise
                if not lacking:
                    return pool, facts
                pool.terminate()
                log.warning("migration.waiting", lacking=lacking)
            except (
                OSError,
                TimeoutError,
                asyncpg.PostgresConnectionError,
                asyncpg.CannotConnectNowError,
                asyncpg.InvalidAuthorizationSpecificationError,
                asyncpg.InvalidCatalogNameError,
                Unavailable,
            ) as error:
                if (fault := postgres_fault(error)) is not None:
                    raise Refused([fault]) from error
                log.warning("postgres.waiting", reason=f"{type(error).__name__}: {error}")
            await asyncio.sleep(0.5)
        return None

    async def _new_pool(self) -> asyncpg.Pool:
        return await asyncpg.create_pool(
            **postgres_link(self._settings),
            min_size=2,
            max_size=self._settings.postgres_pool,
            timeout=5,
            command_timeout=10,
            reset=nothing_to_reset,
        )

    async def _run_on(self, pool: asyncpg.Pool, *, kafka_is_known: bool) -> None:
        service, settings = self._service, self._settings
        storage = PostgresStorage(pool, f"/{service.name}-service")
        limit = ParkLimit(settings.park_ratio, settings.park_ratio_over, settings.park_keys_in_a_row)
        handler = Handler(
            service,
            storage,
            snapshot_every=settings.snapshot_every,
            cached_states=settings.cached_states,
            park_limit=limit,
        )
        commit = GroupCommit(handler, limit=settings.batch_records) if service.decider else None
        ports = Ports(
            storage,
            commit,
            settings.callback_secret(),
            Operations(handler, settings.lease_seconds),
            Keys(settings.api_keys_file) if settings.api_keys_file else None,
        )
        served = service if "api" in self._roles else replace(service, router=None)
        app = create_app(served, ports, lambda: self._health(storage))
        server = _Server(
            uvicorn.Config(
                app,
                host=settings.http_host,
                port=settings.http_port,
                log_config=None,
                access_log=False,
                server_header=False,
                timeout_keep_alive=30,
                http=PromptProtocol,
                h11_max_incomplete_event_size=64 * 1024,
            )
        )
        async with asyncio.TaskGroup() as group:
            serving = group.create_task(server.serve())
            committing = group.create_task(commit.run()) if commit else None
            telemetry.expect(cls for name, cls in EVENT_CLASSES.items() if name.startswith(f"oms.{service.name}."))
            vitals = Vitals(service, storage, lambda: self._consumer)
            watching = [vitals.show_figures(self._stop), vitals.measure_loop(self._stop)]
            loops = [group.create_task(loop) for loop in [*self._loops(handler, storage, commit), *watching]]
            judging = None if kafka_is_known else group.create_task(self._judge_kafka_later())
            for task in (committing, judging, serving, *loops):
                if task is not None:
                    task.add_done_callback(_end_if_failed)
            log.info("process.started", roles=sorted(self._roles), port=settings.http_port)
            await self._stop.wait()
            log.info("process.stopping")
            server.should_exit = True
            await asyncio.wait([serving, *loops], timeout=settings.stop_seconds)
            for task in (committing, judging, serving, *loops):
                if task is not None:
                    task.cancel()

    def _loops(self, handler: Handler, storage: PostgresStorage, commit: GroupCommit | None) -> list[Any]:
        service, settings, stop = self._service, self._settings, self._stop
        if "worker" not in self._roles:
            return []
        loops: list[Any] = []
        if service.subscribes:
            self._consumer = Consumer(handler, settings)
            loops.append(self._consumer.run(stop))
        if commit is not None:
            relay = Relay(service.name, storage, KafkaPublisher(settings), settings)
            timers = Timers(storage, commit, settings)
            loops += [relay.run(handler.committed, stop), timers.run(stop), timers.sweep(stop)]
            if service.effects is not None:
                loops.append(EffectWorker(service.effects, storage, commit, settings).run(handler.effects_added, stop))
        return loops

    async def _health(self, storage: PostgresStorage) -> Mapping[str, Any]:
        consumer = self._consumer
        ready = not self._stop.is_set() and (consumer is None or (consumer.assigned and not consumer.halted))
        try:
            figures = dict(await storage.figures())
        except Unavailable:
            return {"ready": False, "reason": "postgres is away"}
        lag = await consumer.lag() if consumer is not None else {}
        halted = {f"{p.topic}/{p.number}": reason for p, reason in consumer.halted.items()} if consumer else {}
        return {"ready": ready, "roles": sorted(self._roles), "lag": lag, "halted": halted, **figures}
