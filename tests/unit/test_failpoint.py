"""A failpoint kills the process that gets there, once, and only when armed."""

import os
import signal
import subprocess
import sys
from pathlib import Path

PROGRAM = """
from libs.runtime.failpoint import failpoint
failpoint("handler.before_commit")
failpoint("relay.acknowledged")
print("first")
failpoint("relay.acknowledged")
print("second")
"""


def run(armed: Path, content: str | None) -> subprocess.CompletedProcess[str]:
    if content is not None:
        armed.write_text(content)
    env = {**os.environ, "OMS_FAILPOINTS": str(armed)}
    return subprocess.run([sys.executable, "-uc", PROGRAM], env=env, capture_output=True, text=True, check=False)


def test_process_dies_at_the_armed_place_and_disarms_it(tmp_path: Path) -> None:
    done = run(tmp_path / "armed", "relay.acknowledged 1")
    assert (done.returncode, done.stdout) == (-signal.SIGKILL, "first\n")
    assert not (tmp_path / "armed").exists()


def test_process_that_is_not_armed_passes(tmp_path: Path) -> None:
    assert run(tmp_path / "armed", None).stdout == "first\nsecond\n"
    assert run(tmp_path / "armed", "timer.waking").stdout == "first\nsecond\n"
