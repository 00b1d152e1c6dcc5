"""A simulator as a child process on a free port, for tests and benches; they talk to it over HTTP like anybody else."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

START_S = 20.0
STOP_S = 10.0


@dataclass(frozen=True, kw_only=True)
class Running:
    url: str
    process: subprocess.Popen[bytes]
    log: Path

    def kill(self) -> None:
        """As a power cut would: nothing is finished or flushed."""
        self.process.kill()
        self.process.wait()


@contextmanager
def running(name: str, folder: Path, **settings: object) -> Iterator[Running]:
    """`settings` are the names that `--help` lists, in lower case and without SIM_."""
    log = folder / f"{name}-{time.monotonic_ns()}.log"
    asked = {f"SIM_{setting.upper()}": str(value) for setting, value in ({"port": 0} | settings).items()}
    inherited = {key: value for key, value in os.environ.items() if not key.startswith("SIM_")}
    with log.open("wb") as output:
        process = subprocess.Popen(
            [sys.executable, "-m", f"simulators.{name}"],
            env=inherited | asked,
            cwd=Path(__file__).parents[1],
            stdout=output,
            stderr=subprocess.STDOUT,
        )
    try:
        yield Running(url=_started(process, log), process=process, log=log)
        if process.poll() is None:
            process.send_signal(signal.SIGTERM)
            process.wait(timeout=STOP_S)
    finally:
        process.kill()
        process.wait()


def _started(process: subprocess.Popen[bytes], log: Path) -> str:
    until = time.monotonic() + START_S
    while time.monotonic() < until and process.poll() is None:
        first, ended, _ = log.read_text().partition("\n")
        if ended:
            return str(json.loads(first)["url"])
        time.sleep(0.01)
    raise RuntimeError(f"the simulator did not start: {log.read_text()}")
