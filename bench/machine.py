"""What the figures were measured on."""

import os
import platform
import shlex
import sys
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path

import asyncpg
import psutil  # type: ignore[import-untyped]

from bench.rig import Rig


async def described(rig: Rig, arguments: list[str]) -> Mapping[str, str]:
    connection = await asyncpg.connect(rig.cluster.admin_dsn)
    try:
        postgres = str(await connection.fetchval("SHOW server_version"))
    finally:
        await connection.close()
    words = " ".join(shlex.quote(argument) for argument in arguments if argument != "--quick")
    quick = " QUICK=1" if "--quick" in arguments else ""
    return {
        "measured_at": datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC"),
        "command": f"make bench{quick}{f' ARGS={shlex.quote(words)}' if words else ''}",
        "machine": f"{os.cpu_count()} cores of {_processor()}, {psutil.virtual_memory().total / 2**30:.0f} GiB",
        "system": f"{platform.system()} {platform.release()}",
        "python": platform.python_version(),
        "postgres": postgres.partition(" ")[0],
        "kafka": "Apache Kafka, one broker, KRaft",
        "load_before": f"{os.getloadavg()[0]:.1f}",
    }


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor() or sys.platform
    return next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), "unknown")
