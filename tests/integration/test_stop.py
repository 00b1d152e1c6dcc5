"""A process asked to stop ends by itself, in time, and leaves its work to the next one."""

import asyncio
import os
import time
from dataclasses import replace

import pytest

from libs.testing.deadline import eventually
from oms.cluster.cluster import LocalCluster
from oms.cluster.state import pick_ports

pytestmark = pytest.mark.integration

STOP_SECONDS = 25.0


@pytest.mark.parametrize("name", ["order", "payment", "tracking"])
async def test_process_ends_in_time_when_asked_to(system: LocalCluster, name: str) -> None:
    """A second process of the service, a member of its consumer group, started and stopped beside the first."""
    usual = system.supervisor.child(name).command
    port = pick_ports(["http"])["http"]
    beside = replace(usual, env={**usual.env, "OMS_HTTP_PORT": str(port)})
    process = await asyncio.create_subprocess_exec(
        *beside.argv, env={**os.environ, **beside.env}, stdout=asyncio.subprocess.PIPE
    )
    assert process.stdout is not None

    async def said(what: bytes) -> bool:
        assert process.stdout is not None
        return what in await process.stdout.readline()

    await eventually(lambda: said(b"process.started"), "the process has started")
    began = time.monotonic()
    process.terminate()
    rest = await asyncio.wait_for(process.stdout.read(), STOP_SECONDS)
    assert await process.wait() == 0
    assert time.monotonic() - began < STOP_SECONDS
    assert b"process.stopped" in rest
