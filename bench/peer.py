"""The peers: other ways to keep an order's steps in PostgreSQL, in an environment of their own, on the same server."""

import asyncio
import hashlib
import subprocess
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

import asyncpg

from bench.fill import Told
from bench.rig import Rig
from libs.testing.database import in_database
from oms.cluster.apps import base_environment

FOLDER = Path(__file__).parent / "peers"


@dataclass(frozen=True)
class Peer:
    """`events` is how many an order has; `processes` times `threads` orders are under way."""

    name: str
    script: str
    events: int
    processes: int
    threads: int


PEERS = (
    Peer("pyeventsourcing", "eventsourcing_orders.py", events=12, processes=2, threads=4),
    Peer("dbos", "dbos_orders.py", events=12, processes=2, threads=8),
)


def environment(rig: Rig, told: Told) -> Path:
    """Their Python, made once from locked requirements and kept in the cache directory."""
    lock = (FOLDER / "requirements.txt").read_bytes()
    name = f"peers-{sys.version_info.major}{sys.version_info.minor}-{hashlib.sha256(lock).hexdigest()[:12]}"
    folder = rig.cluster.settings.cache_dir.expanduser().absolute() / name
    python = folder / "bin" / "python"
    if not (folder / "complete").exists():
        told("peers: installing them into an environment of their own (once)")
        subprocess.run([sys.executable, "-m", "venv", "--clear", folder], check=True)
        install: list[str | Path] = [
            python,
            "-m",
            "pip",
            "install",
            "-q",
            "--disable-pip-version-check",
            "--require-hashes",
            "--no-deps",
        ]
        subprocess.run([*install, "-r", FOLDER / "requirements.txt"], check=True)
        (folder / "complete").touch()
    return python


@asynccontextmanager
async def peer_database(rig: Rig, peer: Peer) -> AsyncIterator[str]:
    admin = await asyncpg.connect(rig.cluster.admin_dsn)
    name = f"peer_{peer.name}"
    try:
        await admin.execute(f"CREATE DATABASE {name}")
        yield in_database(rig.cluster.admin_dsn, name).partition("?")[0]
        await admin.execute(f"DROP DATABASE {name} WITH (FORCE)")
    finally:
        await admin.close()


async def peer_rate(python: Path, peer: Peer, dsn: str, seconds: float) -> float:
    """Orders a second of all its worker processes together, after each has done one."""
    workers = []
    try:
        for number in range(peer.processes):
            worker = await asyncio.create_subprocess_exec(
                python, FOLDER / peer.script, str(peer.threads), str(seconds),
                stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
                env={**base_environment(), "PEER_DSN": dsn, "PEER_NAME": f"{peer.name}-{number}"},
            )  # fmt: skip
            workers.append(worker)
            await _line(worker)  # one after the other: the first one makes the tables
        for worker in workers:
            assert worker.stdin is not None
            worker.stdin.write(b"go\n")
            await worker.stdin.drain()
        return sum([float(await _line(worker)) for worker in workers])
    finally:
        for worker in workers:
            if worker.returncode is None:
                try:
                    await asyncio.wait_for(worker.communicate(), 10)
                except TimeoutError:
                    worker.kill()
                    await worker.wait()


async def _line(worker: asyncio.subprocess.Process) -> str:
    assert worker.stdout is not None
    assert worker.stderr is not None
    line = await asyncio.wait_for(worker.stdout.readline(), 120)
    if not line:
        raise RuntimeError(f"a peer failed:\n{(await worker.stderr.read()).decode()[-2000:]}")
    return line.decode().strip()
