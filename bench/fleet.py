"""The five services as operating-system processes, in a shape: which services share a process."""

import asyncio
import json
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Self

from bench.rig import Rig
from libs.runtime.settings import Settings
from oms.cluster import apps
from oms.cluster.apps import SERVICES, SIMULATORS, Addresses
from oms.cluster.health import wait_ready
from oms.cluster.process import ClusterError, Command

SHAPES: dict[str, Sequence[Sequence[str]]] = {
    "one": [SERVICES],
    "two": [("order", "tracking"), ("inventory", "payment", "fulfillment")],
    "five": [(name,) for name in SERVICES],
}
"""`one`: an event loop, and so a core, for all five, the other core for Kafka and PostgreSQL; `five`: one each."""

TEXTBOOK = {"batch_records": 1, "relay_pointers": 1, "cached_states": 0}
"""One transaction a message, one send a message and its acknowledgement awaited: settings that the product has."""

QUICK_SIMULATORS = {"SIM_PICK_MS": "0", "SIM_PACK_MS": "0", "SIM_STEP_MS": "0"}


@dataclass
class Fleet:
    """`async with Fleet(rig, "five"):` runs it. `over_http` starts the simulators too."""

    rig: Rig
    shape: str = "five"
    over_http: bool = False
    settings: dict[str, Any] = field(default_factory=dict)
    names: list[str] = field(default_factory=list)

    async def __aenter__(self) -> Self:
        cluster = self.rig.cluster
        state, ports = cluster.state, cluster.directory.ports([*SERVICES, *SIMULATORS])
        urls = {name: f"http://127.0.0.1:{port}" for name, port in ports.items()}
        addresses = Addresses(
            kafka_bootstrap=state.kafka_bootstrap,
            urls=urls,
            dsns={name: service.dsn for name, service in state.services.items()},
            callback_secret_file=Path(state.callback_secret_file),
            ledgers=cluster.directory.path / "simulators",
        )
        if self.over_http:
            addresses.ledgers.mkdir(exist_ok=True)
            for name in SIMULATORS:
                command = apps.simulator(name, addresses)
                self._start(Command(name=name, argv=command.argv, env={**command.env, **QUICK_SIMULATORS}))
        for number, services in enumerate(SHAPES[self.shape], start=1):
            self._start(self._command(f"bench-{number}", services, addresses))
        waited = {name: url for name, url in urls.items() if self.over_http or name in SERVICES}
        await wait_ready(waited, self.check, 60)
        return self

    async def __aexit__(self, *_error: object) -> None:
        self.rig.cluster.supervisor.stop(self.names)

    def check(self) -> None:
        """A process that ended is restarted by its supervisor, and spoils the figures: say so."""
        supervisor = self.rig.cluster.supervisor
        for child in supervisor.children:
            if child.name in self.names and child.failures:
                raise supervisor.failure(child.name, f"{child.name} ended while it was measured")

    def pids(self, *, services_only: bool = True) -> list[int]:
        supervisor = self.rig.cluster.supervisor
        return [supervisor.child(name).pid for name in self.names if not services_only or name.startswith("bench-")]

    def _start(self, command: Command) -> None:
        self.rig.cluster.supervisor.start(command)
        self.names.append(command.name)

    def _command(self, name: str, services: Sequence[str], addresses: Addresses) -> Command:
        settings = {
            service: self.rig.settings(
                service,
                http_port=int(addresses.urls[service].rpartition(":")[2]),
                callback_secret_file=addresses.callback_secret_file,
                **{f"{simulator}_url": addresses.urls[simulator] for simulator in SIMULATORS},
                **self.settings,
            )
            for service in services
        }
        return process(name, settings, in_process=not self.over_http)


def process(name: str, services: Mapping[str, Settings], *, in_process: bool) -> Command:
    """A process of these services, each with its settings."""
    plans = {service: settings.model_dump(mode="json") for service, settings in services.items()}
    env = {**apps.base_environment(), "OMS_BENCH": json.dumps({"in_process": in_process, "services": plans})}
    return Command(name=name, argv=(sys.executable, "-m", "bench.service_process"), env=env)


async def settled(fleet: Any, seconds: float, what: str, reached: Any) -> None:
    """Waits for `await reached()`, no longer than `seconds`."""
    deadline = time.monotonic() + seconds
    while not await reached():
        fleet.check()
        if time.monotonic() > deadline:
            raise ClusterError(f"{what}: not within {seconds:.0f} s")
        await asyncio.sleep(0.1)
