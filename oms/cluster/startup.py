"""Bringing the cluster up, step by step: servers side by side, then migrations, then the apps."""

import asyncio
import time
from collections.abc import Callable, Coroutine, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from libs.events.topics import TOPICS
from libs.runtime.link import link_to
from oms.cluster import apps, databases, kafka, postgres
from oms.cluster.apps import SERVICES, SIMULATORS, Addresses
from oms.cluster.databases import PostgresAddress
from oms.cluster.health import wait_ready
from oms.cluster.jars import fetch_jars
from oms.cluster.kafka import KafkaServer, TopicSpec
from oms.cluster.postgres import PostgresServer
from oms.cluster.process import ClusterError, Report, Supervisor
from oms.cluster.settings import ClusterSettings
from oms.cluster.state import ClusterState, ServiceState, StateDirectory

ONCE_SECONDS = 60.0  # initdb, format
MIGRATE_SECONDS = 120.0
APP_SECONDS = 60.0

T = TypeVar("T")


@dataclass(frozen=True, kw_only=True)
class ClusterSpec:
    """What runs besides the servers. Databases and topics are made for all services, started or not."""

    services: Sequence[str] = SERVICES
    simulators: Sequence[str] = SIMULATORS
    databases: Sequence[str] = SERVICES
    topics: Sequence[TopicSpec] = TOPICS


@dataclass(frozen=True, kw_only=True)
class Startup:
    """Fills in the state as addresses become known; whatever it starts, the supervisor owns."""

    settings: ClusterSettings
    spec: ClusterSpec
    directory: StateDirectory
    supervisor: Supervisor
    state: ClusterState
    report: Report

    def run(self) -> None:
        names = dict.fromkeys((*SERVICES, *SIMULATORS, *self.spec.services, *self.spec.simulators))
        ports = self.directory.ports(["postgres", "kafka", "kafka-controller", *names])
        self._together(
            lambda: self._kafka(ports["kafka"], ports["kafka-controller"]),
            lambda: self._postgres(ports["postgres"]),
        )
        addresses = self._addresses(ports)
        if self.spec.services:
            with self._step("migrations"):
                self._together(*(self._migrating(name, addresses) for name in self.spec.services))
        if self.spec.services or self.spec.simulators:
            with self._step("apps"):
                self._apps(addresses)

    def _kafka(self, port: int, controller_port: int) -> None:
        state, outside = self.state, self.settings.kafka_bootstrap
        if outside:
            state.kafka_bootstrap, state.kafka_external = outside, True
            with self._step("kafka", address=outside):
                run_async(kafka.wait_ready(outside, self._check, link=link_to(outside)))
        else:
            self._kafka_server(port, controller_port)
        with self._step("topics"):
            link = link_to(outside) if outside else None
            run_async(kafka.create_topics(state.kafka_bootstrap, self.spec.topics, link=link))

    def _kafka_server(self, port: int, controller_port: int) -> None:
        with self._step("jars"):
            jars = fetch_jars(
                self.settings.cache_dir.expanduser().absolute(),
                mirror=self.settings.maven_mirror,
                progress=lambda done, total: self.report("cluster.fetched", done=done, total=total),
                check=self._check,
            )
        server = KafkaServer(
            directory=self.directory.path / "kafka",
            port=port,
            controller_port=controller_port,
            jars=tuple(jars),
            env=apps.base_environment(),
        )
        self.state.kafka_bootstrap = server.bootstrap
        with self._step("kafka", address=server.bootstrap):
            server.prepare()
            server.format(lambda command: self.supervisor.run(command, ONCE_SECONDS))
            self.supervisor.start(server.command())
            run_async(kafka.wait_ready(server.bootstrap, self._check))

    def _postgres(self, port: int) -> None:
        settings, state = self.settings, self.state
        roles = [role for service in self.spec.databases for role in postgres.roles_of(service)]
        passwords = self.directory.passwords([postgres.SUPERUSER, *roles])
        if settings.postgres_host:
            address = databases.outside(settings, settings.postgres_host)
        else:
            address = PostgresAddress(
                host="127.0.0.1",
                port=port,
                user=postgres.SUPERUSER,
                password=passwords[postgres.SUPERUSER],
                sslmode="disable",  # the wheel's server has no TLS, and this is the loopback interface
            )
        state.postgres_external = address.external
        state.postgres_address = f"{address.host}:{address.port}"
        state.postgres_admin_dsn = address.dsn()
        with self._step("postgres", address=state.postgres_address):
            if not address.external:
                self._postgres_server(address)
            run_async(databases.wait_ready(address.dsn(), self._check))
        with self._step("databases"):
            run_async(databases.provision(address, self.spec.databases, passwords))
        for service in self.spec.databases:
            dsn = {
                role.rpartition("_")[2]: address.dsn(f"oms_{service}", role, passwords[role])
                for role in postgres.roles_of(service)
            }
            state.services[service] = ServiceState(dsn=dsn)

    def _postgres_server(self, address: PostgresAddress) -> None:
        directory = self.directory.path / "postgres"
        account = postgres.choose_account(directory, self.settings.pg_account)
        programs = postgres.find_programs(self.settings.pg_bin)
        server = PostgresServer(
            directory=directory,
            port=address.port,
            password=address.password,
            programs=postgres.make_reachable(programs, directory, self.directory.path / "programs", account),
            env=apps.base_environment(),
            account=account,
        )
        server.prepare()
        server.end_leftover()
        server.initialize(lambda command: self.supervisor.run(command, ONCE_SECONDS))
        self.supervisor.start(server.command())

    def _addresses(self, ports: Mapping[str, int]) -> Addresses:
        state = self.state
        for name in self.spec.services:
            state.services[name].url = f"http://127.0.0.1:{ports[name]}"
        for name in self.spec.simulators:
            state.simulators[name] = ServiceState(url=f"http://127.0.0.1:{ports[name]}")
        return Addresses(
            kafka_bootstrap=state.kafka_bootstrap,
            urls={name: app.url for name, app in {**state.services, **state.simulators}.items() if app.url},
            dsns={name: app.dsn for name, app in state.services.items()},
            callback_secret_file=Path(state.callback_secret_file),
            ledgers=self.directory.path / "simulators",
            seed=self.settings.seed,
        )

    def _migrating(self, name: str, addresses: Addresses) -> Callable[[], None]:
        return lambda: self.supervisor.run(apps.migration(name, addresses), MIGRATE_SECONDS)

    def _apps(self, addresses: Addresses) -> None:
        addresses.ledgers.mkdir(exist_ok=True, mode=0o700)
        for name in self.spec.simulators:
            self.supervisor.start(apps.simulator(name, addresses))
        for name in self.spec.services:
            self.supervisor.start(apps.service(name, addresses))
        urls = {name: addresses.urls[name] for name in (*self.spec.simulators, *self.spec.services)}
        run_async(wait_ready(urls, self._check, APP_SECONDS))

    def _check(self) -> None:
        """Give up waiting when the cluster stops, or when a child has died instead of coming up."""
        if self.supervisor.closing:
            raise ClusterError("The cluster was stopped while it started.")
        for child in self.supervisor.children:
            if child.failures:
                raise self.supervisor.failure(child.name, f"{child.name} ended while it started")

    def _together(self, *tasks: Callable[[], None]) -> None:
        """Run side by side; the first failure interrupts the others and is the one that is told."""
        failed: list[BaseException] = []

        def note(future: Future[None]) -> None:
            if error := future.exception():
                failed.append(error)
                self.supervisor.interrupt()

        with ThreadPoolExecutor(len(tasks), thread_name_prefix="start") as pool:
            futures = [pool.submit(task) for task in tasks]
            for future in futures:
                future.add_done_callback(note)
            try:
                for future in futures:
                    future.exception()
            except BaseException:
                self.supervisor.interrupt()
                raise
        if failed:
            raise failed[0]

    @contextmanager
    def _step(self, name: str, **fields: str) -> Iterator[None]:
        began = time.monotonic()
        self.report("cluster.starting", step=name, **fields)
        yield
        self.report("cluster.started", step=name, seconds=round(time.monotonic() - began, 2), **fields)


def run_async(coroutine: Coroutine[Any, Any, T]) -> T:
    """Run to the end on a loop of its own, also when the caller's thread has one running (a test, a notebook)."""
    with ThreadPoolExecutor(1) as pool:
        return pool.submit(asyncio.run, coroutine).result()
