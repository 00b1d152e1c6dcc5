"""Asking the running parts how they are."""

import asyncio
from collections.abc import Callable, Mapping
from typing import Any

import asyncpg
import httpx

from libs.runtime.link import link_to
from oms.cluster.kafka import knock
from oms.cluster.process import ClusterError
from oms.cluster.state import ClusterState, ServiceState

PATIENCE = 2.0


async def wait_ready(urls: Mapping[str, str], check: Callable[[], None], seconds: float) -> None:
    """Wait until every app answers 200 at /readyz."""
    loop = asyncio.get_running_loop()
    deadline = loop.time() + seconds
    waiting = dict(urls)
    async with httpx.AsyncClient(timeout=PATIENCE, trust_env=False) as client:
        while waiting:
            check()
            answers = await asyncio.gather(*(_health(client, url) for url in waiting.values()))
            told = dict(zip(waiting, answers, strict=True))
            waiting = {name: url for name, url in waiting.items() if told[name] != "ready"}
            if waiting and loop.time() > deadline:
                late = ", ".join(f"{name} ({told[name]})" for name in waiting)
                raise ClusterError(f"Not ready after {seconds:.0f} s: {late}. Their logs are in the state directory.")
            if waiting:
                await asyncio.sleep(0.1)


async def cluster_status(state: ClusterState | None) -> dict[str, Any]:
    """The cluster as plain data, without a secret in it: what `oms status` prints."""
    if state is None:
        return {"running": False, "phase": "absent", "kafka": None, "postgres": None, "services": {}, "simulators": {}}
    running = state.running
    processes = {child.name: child for child in state.children} if running else {}

    def process(name: str) -> dict[str, Any]:
        child = processes.get(name)
        return {"pid": child.pid if child else None, "restarts": child.restarts if child else 0}

    async with httpx.AsyncClient(timeout=PATIENCE, trust_env=False) as client:

        async def app(name: str, app: ServiceState, *, service: bool) -> tuple[str, dict[str, Any]]:
            health = await _health(client, app.url) if running else "down"
            lag = await _lag(client, app.url) if service and health != "down" else None
            data = {"address": app.url, "health": health, **process(name)}
            return name, {**data, "lag": lag} if service else data

        kafka, postgres, services, simulators = await asyncio.gather(
            _kafka_health(state, running or state.kafka_external),
            _postgres_health(state.postgres_admin_dsn, running or state.postgres_external),
            asyncio.gather(*(app(name, one, service=True) for name, one in state.services.items() if one.url)),
            asyncio.gather(*(app(name, one, service=False) for name, one in state.simulators.items())),
        )
    return {
        "running": running,
        # A supervisor that was killed could not write down its end.
        "phase": state.phase if running or state.phase in ("stopped", "failed") else "dead",
        "error": state.error,
        "pid": state.supervisor.pid if running else None,
        "kafka": {
            "address": state.kafka_bootstrap,
            "external": state.kafka_external,
            "health": kafka,
            **process("kafka"),
        },
        "postgres": {
            "address": state.postgres_address,
            "external": state.postgres_external,
            "health": postgres,
            **process("postgres"),
        },
        "services": dict(services),
        "simulators": dict(simulators),
    }


async def _health(client: httpx.AsyncClient, url: str) -> str:
    try:
        response = await client.get(f"{url}/readyz")
    except httpx.HTTPError:
        return "down"
    return "ready" if response.status_code == 200 else "not ready"


async def _lag(client: httpx.AsyncClient, url: str) -> dict[str, Any] | None:
    try:
        status = (await client.get(f"{url}/status")).json()
    except (httpx.HTTPError, ValueError):
        return None
    lag = status.get("lag") if isinstance(status, dict) else None
    return lag if isinstance(lag, dict) else None


async def _kafka_health(state: ClusterState, expected: bool) -> str:
    from aiokafka.client import AIOKafkaClient
    from aiokafka.errors import KafkaError

    bootstrap = state.kafka_bootstrap
    if not expected or not bootstrap:
        return "down"
    link = link_to(bootstrap) if state.kafka_external else {"bootstrap_servers": bootstrap}
    try:
        await knock(bootstrap)
        client = AIOKafkaClient(**link, request_timeout_ms=2000)
        try:
            await client.bootstrap()
            return "ready" if client.cluster.brokers() else "not ready"
        finally:
            await client.close()
    except (OSError, TimeoutError, KafkaError):
        return "down"


async def _postgres_health(dsn: str, expected: bool) -> str:
    if not expected or not dsn:
        return "down"
    try:
        connection = await asyncpg.connect(dsn, timeout=PATIENCE)
        await connection.close()
    except (OSError, TimeoutError, asyncpg.PostgresError, asyncpg.InterfaceError):
        return "down"
    return "ready"
