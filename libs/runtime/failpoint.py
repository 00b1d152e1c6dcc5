"""Named places where a process may be made to die, so that tests can kill it exactly there. Off by default.

Armed by OMS_FAILPOINTS, the path of a file that holds one name, and optionally how often it is passed first
(`relay.acknowledged 3`). The process that gets there takes the file away, which tells the test that it was hit, and
ends itself as by kill -9.
"""

import os
import signal
from pathlib import Path
from typing import Literal

Name = Literal[
    "handler.before_commit",
    "handler.after_commit",
    "relay.acknowledged",
    "effect.before_call",
    "effect.after_call",
    "consumer.assigned",
    "timer.waking",
    "park.releasing",
]

_armed = Path(os.environ["OMS_FAILPOINTS"]) if os.environ.get("OMS_FAILPOINTS") else None
_passed: dict[str, int] = {}


def failpoint(name: Name) -> None:
    """Costs one comparison while nothing is armed."""
    if _armed is not None:
        _check(name, _armed)


def _check(name: Name, armed: Path) -> None:
    try:
        wanted, _, times = armed.read_text().strip().partition(" ")
    except FileNotFoundError:
        return
    if wanted != name:
        return
    _passed[name] = _passed.get(name, 0) + 1
    if _passed[name] > int(times or 0):
        armed.unlink(missing_ok=True)
        os.kill(os.getpid(), signal.SIGKILL)
