"""What the driver was about to do and what became of it: on disk, and synced before anything leaves the process."""

import json
import os
import time
from pathlib import Path
from typing import Any


class Journal:
    """Lines of JSON. An about-to without an end stays unknown, also when this process dies."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._fd = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
        self._next = 0

    def about(self, do: str, **what: Any) -> int:
        self._next += 1
        self._write({"e": "about", "n": self._next, "do": do, **what})
        return self._next

    def done(self, n: int, outcome: str, **what: Any) -> None:
        """`outcome` is ok, rejected or unknown."""
        self._write({"e": "done", "n": n, "outcome": outcome, "status": None, "body": "", "headers": {}} | what)

    def note(self, what: str, **fields: Any) -> None:
        self._write({"e": what, **fields})

    def read(self) -> list[dict[str, Any]]:
        return [json.loads(line) for line in self._path.read_text().splitlines()]

    def close(self) -> None:
        os.close(self._fd)

    def _write(self, entry: dict[str, Any]) -> None:
        line = json.dumps({"t": round(time.time(), 3), **entry}).encode() + b"\n"
        os.write(self._fd, line)
        os.fdatasync(self._fd)
