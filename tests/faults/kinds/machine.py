"""The machine itself: a clock that jumps, a disk that is full."""

import asyncio
import os
import shutil
import subprocess
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory

import asyncpg

from tests.faults.arena import SERVICES
from tests.faults.kinds.database import LOST
from tests.faults.kinds.kind import Kind, Make, Need, Scene
from tests.faults.kinds.processes import OWNERS


def faketime() -> str:
    found: Iterable[Path] = Path("/usr/lib").glob("*/faketime/libfaketime.so.1")
    return str(next(iter(found), ""))


@cache
def may_mount() -> bool:
    if os.geteuid() != 0 or shutil.which("mount") is None:
        return False
    with TemporaryDirectory() as path:
        done = subprocess.run(
            ["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", path], capture_output=True, check=False
        )
        if done.returncode == 0:
            subprocess.run(["umount", path], check=True)
    return done.returncode == 0


FAKETIME = Need("libfaketime", "apt-get install -y libfaketime", lambda: bool(faketime()))
MOUNT = Need("leave to mount a tmpfs", "run as root with CAP_SYS_ADMIN", may_mount)


@dataclass
class ClockJump(Kind):
    """A member whose clock is an hour wrong takes its share of the work; time comes from the database."""

    hours: int = 1

    async def strike(self, scene: Scene) -> None:
        wrong = {"LD_PRELOAD": faketime(), "FAKETIME": f"{self.hours:+}h", "FAKETIME_DONT_FAKE_MONOTONIC": "1"}
        # By itself a process with such a clock does not start; one whose clock jumps later looks like this.
        wrong["OMS_ALLOW_UNSAFE"] = f"clock_skew,{scene.arena.commands[self.target].env['OMS_ALLOW_UNSAFE']}"
        member = scene.arena.second(self.target, **wrong)
        await asyncio.sleep(12)
        await scene.arena.stop(member)


@dataclass
class DiskFull(Kind):
    """The outbox lies on a small disk, and something else fills it: no event can be written."""

    @property
    def space(self) -> str:
        return f"small_{self.target}"

    def disk(self, scene: Scene) -> Path:
        return scene.arena.state_dir / self.space

    async def strike(self, scene: Scene) -> None:
        disk = self.disk(scene)
        disk.mkdir()
        owner = (scene.arena.state_dir / "postgres" / "data").stat()
        options = f"size=4m,mode=0700,uid={owner.st_uid},gid={owner.st_gid}"
        await self._run("mount", "-t", "tmpfs", "-o", options, "tmpfs", str(disk))
        session = await asyncpg.connect(scene.arena.dsn(f"oms_{self.target}"), timeout=10)
        try:
            await session.execute(f"CREATE TABLESPACE {self.space} LOCATION '{disk}'")
            await session.execute("VACUUM FULL outbox")
            await session.execute(f"ALTER TABLE outbox SET TABLESPACE {self.space}")
            await session.execute(f"CREATE TABLE filler (x text) TABLESPACE {self.space}")
            for rows in (2_000, 50, 1):
                with suppress(asyncpg.DiskFullError):
                    while True:
                        await session.execute(
                            f"INSERT INTO filler SELECT repeat('x', 1000) FROM generate_series(1, {rows})"
                        )
        finally:
            await session.close()

    async def heal(self, scene: Scene) -> None:
        for _ in range(20):
            with suppress(*LOST):
                session = await asyncpg.connect(scene.arena.dsn(f"oms_{self.target}"), timeout=10)
                try:
                    await session.execute("DROP TABLE IF EXISTS filler")
                    await session.execute("ALTER TABLE outbox SET TABLESPACE pg_default")
                    await session.execute(f"DROP TABLESPACE IF EXISTS {self.space}")
                    break
                finally:
                    await session.close()
            await asyncio.sleep(1)
        await self._run("umount", "-l", str(self.disk(scene)))
        self.disk(scene).rmdir()

    @staticmethod
    async def _run(*command: str) -> None:
        await asyncio.to_thread(subprocess.run, command, check=True, capture_output=True)


KINDS: dict[str, Make] = {
    "clock_jump": lambda dice: ClockJump(
        name="clock_jump", target=dice.choice(SERVICES), hours=dice.choice((-1, 1)), need=FAKETIME
    ),
    "disk_full": lambda dice: DiskFull(name="disk_full", target=dice.choice(OWNERS), lasts=8, need=MOUNT),
}
