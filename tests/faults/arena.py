"""The live cluster that is struck: services reach PostgreSQL, Kafka and their partners through proxies."""

import asyncio
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from urllib.parse import urlsplit

import psutil  # type: ignore[import-untyped]

from oms.cluster import apps, health, kafka
from oms.cluster.apps import CALLBACKS, SERVICES, SIMULATORS, Addresses
from oms.cluster.cluster import LocalCluster
from oms.cluster.process import Command
from oms.cluster.settings import ClusterSettings
from oms.cluster.startup import ClusterSpec, run_async
from oms.cluster.state import ServiceState, temporary_folder
from tests.faults.oracle.collect import Places
from tests.faults.proxy import Proxies

PARTNERS = {"payment": ("psp",), "fulfillment": ("carrier", "warehouse")}

# Everything an order waits for is short, so that a campaign sees expiries, and rest comes soon after it.
SETTINGS = {
    "OMS_POLL_MS": "100",
    "OMS_ORDER_STOCK_ANSWER": "PT8S",
    "OMS_ORDER_PAYMENT_ANSWER": "PT12S",
    "OMS_ORDER_REMORSE": "PT1S",
    "OMS_ORDER_PAYMENT_METHOD": "PT6S",
    "OMS_ORDER_PAYMENT_BACKOFF": "PT0.3S",
    "OMS_ORDER_RESERVATION": "PT25S",
    "OMS_ORDER_SHIP": "PT60S",
    "OMS_ORDER_DELIVERY": "PT60S",
    "OMS_PAYMENT_FIRST_LOOK_UP": "PT0.5S",
    "OMS_PAYMENT_LONGEST_LOOK_UP": "PT5S",
    "OMS_PSP_READ_SECONDS": "1.5",
    "OMS_PSP_TOTAL_SECONDS": "3",
    "OMS_WAREHOUSE_TIMEOUT_S": "3",
    "OMS_CARRIER_TIMEOUT_S": "3",
    "OMS_EFFECT_LEASE_SECONDS": "8",
    "OMS_LOG_LEVEL": "INFO",
}
SIMULATED = {
    "SIM_PICK_MS": "150",
    "SIM_PACK_MS": "150",
    "SIM_STEP_MS": "150",
    "SIM_TIMEOUT_HOLD_S": "2",
    "SIM_REPEAT_RATE": "0.1",
    "SIM_REORDER_RATE": "0.1",
    "SIM_CALLBACK_RATE": "0.1",
    "SIM_CALLBACK_REPEAT_RATE": "0.2",
}


@dataclass
class Arena:
    cluster: LocalCluster
    proxies: Proxies
    addresses: Addresses
    ports: Mapping[str, int]
    commands: dict[str, Command] = field(default_factory=dict)
    extra: int = 0

    @property
    def places(self) -> Places:
        state = self.cluster.state
        admin = state.postgres_admin_dsn
        dsns = {name: admin.replace("/postgres?", f"/oms_{name}?") for name in SERVICES}
        return Places(dsns=dsns, urls=self.addresses.urls, kafka=state.kafka_bootstrap)

    @property
    def state_dir(self) -> Path:
        return self.cluster.directory.path

    def dsn(self, database: str = "postgres") -> str:
        return self.cluster.state.postgres_admin_dsn.replace("/postgres?", f"/{database}?")

    def url(self, name: str) -> str:
        return self.addresses.urls[name]

    def failpoint_file(self, service: str) -> Path:
        return self.state_dir / f"failpoint-{service}"

    # --- processes -----------------------------------------------------------------------------------------------

    def pid(self, name: str) -> int:
        return self.cluster.supervisor.child(name).pid

    def restarts(self, name: str) -> int:
        return self.cluster.supervisor.child(name).restarts

    def signal(self, name: str, number: signal.Signals) -> None:
        """To the whole group: a stopped PostgreSQL is all of its backends."""
        with suppress(ProcessLookupError):
            os.killpg(self.pid(name), number)
        if name == "postgres":
            # Each backend leads a group of its own.
            with suppress(psutil.NoSuchProcess):
                for process in psutil.Process(self.pid(name)).children(recursive=True):
                    with suppress(psutil.NoSuchProcess):
                        process.send_signal(number)

    async def killed(self, name: str) -> None:
        """kill -9; returns when the supervisor has started it anew."""
        before = self.restarts(name)
        self.signal(name, signal.SIGKILL)
        await self.restarted(name, before)

    async def restarted(self, name: str, before: int, seconds: float = 40) -> None:
        child = self.cluster.supervisor.child(name)
        deadline = time.monotonic() + seconds
        while not (child.restarts > before and child.alive):
            if time.monotonic() > deadline:
                raise TimeoutError(f"{name} was not started anew within {seconds} s")
            await asyncio.sleep(0.1)

    async def joined(self, service: str) -> str:
        """Another process of a service that has its share of the partitions; its name."""
        name = self.second(service)
        port = self.cluster.supervisor.child(name).command.env["OMS_HTTP_PORT"]
        try:
            await health.wait_ready({name: f"http://127.0.0.1:{port}"}, lambda: None, 40)
        except BaseException:
            await self.stop(name)
            raise
        return name

    def second(self, service: str, **env: str) -> str:
        """Another process of a service, with the same environment and a port of its own; its name."""
        self.extra += 1
        name = f"{service}-{self.extra}"
        command = self.commands[service]
        port = self.cluster.directory.ports([name])[name]
        own = {**command.env, "OMS_HTTP_PORT": str(port), **env}
        self.cluster.supervisor.start(replace(command, name=name, env=own))
        return name

    async def stop(self, *names: str) -> None:
        await asyncio.to_thread(self.cluster.supervisor.stop, names)

    async def run(self, service: str, *arguments: str, seconds: float = 120) -> str:
        """One of the service's own commands, as the owner of its database; what it said."""
        env = {**self.commands[service].env, "OMS_POSTGRES_OWNER_DSN": self.addresses.dsns[service]["owner"]}
        done = await asyncio.to_thread(
            subprocess.run,
            [sys.executable, "-m", f"services.{service}", *arguments],
            env=env,
            capture_output=True,
            text=True,
            timeout=seconds,
            check=False,
        )
        if done.returncode:
            raise RuntimeError(f"{service} {arguments}: {done.stdout[-500:]} {done.stderr[-1500:]}")
        return done.stdout

    def unharmed(self) -> None:
        """Raises when something died as it came up: another cluster may have its port, and would answer for it."""
        for child in self.cluster.supervisor.children:
            if child.failures:
                raise self.cluster.supervisor.failure(child.name, f"{child.name} ended while it started")


@contextmanager
def arena() -> Iterator[Arena]:
    proxies = Proxies()
    with temporary_folder("faults", ignore_cleanup_errors=True) as path:
        cluster = LocalCluster(ClusterSettings(state_dir=path / "state"), ClusterSpec(services=(), simulators=()))
        try:
            with cluster:
                made = _built(cluster, proxies)
                try:
                    _start(made)
                    yield made
                finally:
                    _calm(made)
        finally:
            proxies.close()


def _built(cluster: LocalCluster, proxies: Proxies) -> Arena:
    behind = [f"{service}:postgres" for service in SERVICES]
    behind += [f"{service}:{partner}" for service, partners in PARTNERS.items() for partner in partners]
    ports = cluster.directory.ports([*SERVICES, *SIMULATORS, *behind, "kafka-proxy", "kafka-behind"])
    state = cluster.state
    postgres = _address(state.postgres_admin_dsn)
    urls = {name: f"http://127.0.0.1:{ports[name]}" for name in (*SERVICES, *SIMULATORS)}
    for service in SERVICES:
        proxies.add(f"{service}:postgres", ports[f"{service}:postgres"], postgres)
        state.services[service].url = urls[service]
    for service, partners in PARTNERS.items():
        for partner in partners:
            proxies.add(f"{service}:{partner}", ports[f"{service}:{partner}"], ("127.0.0.1", ports[partner]))
    for name in SIMULATORS:
        state.simulators[name] = ServiceState(url=urls[name])
    proxies.add("kafka", ports["kafka-proxy"], ("127.0.0.1", ports["kafka-behind"]))
    _second_listener(cluster, ports)
    addresses = Addresses(
        kafka_bootstrap=f"127.0.0.1:{ports['kafka-proxy']}",
        urls=urls,
        dsns={name: dict(state.services[name].dsn) for name in SERVICES},
        callback_secret_file=Path(state.callback_secret_file),
        ledgers=cluster.directory.path / "simulators",
        seed=int(os.environ.get("SEED") or 1),
    )
    return Arena(cluster, proxies, addresses, ports)


def _address(dsn: str) -> tuple[str, int]:
    parts = urlsplit(dsn)
    assert parts.hostname is not None
    assert parts.port is not None
    return parts.hostname, parts.port


def _second_listener(cluster: LocalCluster, ports: Mapping[str, int]) -> None:
    """A listener that the broker advertises under the proxy's port: without it clients would go round the proxy."""
    file = cluster.directory.path / "kafka" / "server.properties"
    settings = dict(line.split("=", 1) for line in file.read_text().splitlines() if "=" in line)
    settings["listeners"] += f",PROXIED://127.0.0.1:{ports['kafka-behind']}"
    settings["advertised.listeners"] += f",PROXIED://127.0.0.1:{ports['kafka-proxy']}"
    settings["listener.security.protocol.map"] += ",PROXIED:PLAINTEXT"
    settings["inter.broker.listener.name"] = "PLAINTEXT"
    file.write_text("".join(f"{name}={value}\n" for name, value in settings.items()))
    child = cluster.supervisor.child("kafka")
    command = child.command
    cluster.supervisor.stop(["kafka"])
    cluster.supervisor.start(command)
    run_async(kafka.wait_ready(cluster.kafka_bootstrap, lambda: None))


def _start(made: Arena) -> None:
    cluster, addresses = made.cluster, made.addresses
    addresses.ledgers.mkdir(exist_ok=True, mode=0o700)
    for service in SERVICES:
        cluster.supervisor.run(apps.migration(service, addresses), 120)
    for name in SIMULATORS:
        command = apps.simulator(name, addresses)
        made.commands[name] = replace(command, env={**command.env, **_simulated(name)})
    for service in SERVICES:
        made.commands[service] = _through_proxies(made, service)
    for command in made.commands.values():
        cluster.supervisor.start(command)
    run_async(health.wait_ready({name: made.url(name) for name in made.commands}, made.unharmed, 60))


def _simulated(name: str) -> dict[str, str]:
    partial = {"psp": "CALLBACK_R", "carrier": "", "warehouse": ""}
    others = {"SIM_CALLBACK_RATE", "SIM_CALLBACK_REPEAT_RATE"}
    return {key: value for key, value in SIMULATED.items() if partial[name] or key not in others}


def _through_proxies(made: Arena, service: str) -> Command:
    command = apps.service(service, made.addresses)
    env = {**command.env, **SETTINGS, "OMS_FAILPOINTS": str(made.failpoint_file(service))}
    port = made.ports[f"{service}:postgres"]
    direct = _address(made.dsn())
    for name in ("OMS_POSTGRES_DSN", "OMS_POSTGRES_READ_DSN"):
        env[name] = env[name].replace(f"@{direct[0]}:{direct[1]}/", f"@127.0.0.1:{port}/")
    for partner in PARTNERS.get(service, ()):
        env[f"OMS_{partner.upper()}_URL"] = f"http://127.0.0.1:{made.ports[f'{service}:{partner}']}"
    return replace(command, env=env)


def _calm(made: Arena) -> None:
    """Nothing stays stopped or misled: what is stopped could not be ended in order."""
    for child in made.cluster.supervisor.children:
        made.signal(child.name, signal.SIGCONT)
    made.cluster.supervisor.stop([name for name in made.commands if name in SERVICES])
    made.cluster.supervisor.stop(SIMULATORS)


__all__ = ["CALLBACKS", "SERVICES", "SIMULATORS", "Arena", "arena"]
