"""Releases as trees of code that run beside each other: this one, and the one before it from the history."""

import io
import json
import os
import subprocess
import sys
import venv
import zipfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Any

import pytest
from packaging.requirements import Requirement

from oms.cluster.apps import SERVICES
from oms.cluster.process import Command

ROOT = Path(__file__).parents[1]

_ENVIRONMENTS = f"""
import json, sys
from oms.cluster import apps
addresses = apps.Addresses(**json.load(sys.stdin))
print(json.dumps({{name: dict(apps.service(name, addresses).env) for name in {SERVICES}}}))
"""


@dataclass(frozen=True, kw_only=True)
class Release:
    """`python` has what the code in `tree` needs. `revision` says in git's words which one it is."""

    revision: str
    tree: Path
    python: Path

    def environments(self, addresses: Mapping[str, Any]) -> Mapping[str, dict[str, str]]:
        """What each service is started with, as the release itself says it; `addresses`: fields of apps.Addresses."""
        done = subprocess.run(
            (sys.executable, "-c", _ENVIRONMENTS),
            cwd=self.tree,
            input=json.dumps(addresses),
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, done.stderr
        told: dict[str, dict[str, str]] = json.loads(done.stdout)
        return told

    def command(self, name: str, service: str, *arguments: str, env: Mapping[str, str]) -> Command:
        # The current directory comes first on the module path: before the tree that this Python has installed.
        argv = (str(self.python), "-m", f"services.{service}", *arguments)
        return Command(name=name, argv=argv, env=env, cwd=self.tree)

    def published(self) -> set[str]:
        """Every event type and version that it can read, as `type.vN`."""
        return {path.stem for path in (self.tree / "libs" / "events" / "examples").glob("*.json")}

    def reading(self) -> Mapping[str, bytes]:
        """The code that makes views: of two releases with the same the rows are the same."""
        files = [*self.tree.glob("services/*/views/**/*.py"), *self.tree.glob("services/*/views.py")]
        files += self.tree.glob("libs/events/*.py")
        return {str(path.relative_to(self.tree)): path.read_bytes() for path in files}


def this_release() -> Release:
    return Release(revision="this tree", tree=ROOT, python=Path(sys.executable))


def last_release(folder: Path, root: Path = ROOT) -> Release:
    """The newest release tag before this commit, or the commit before it; OMS_UPGRADE_FROM names another revision.

    Skips, with what to do, where history or dependencies are not to be had.
    """
    revision = os.environ.get("OMS_UPGRADE_FROM") or _revision_before(root)
    tree = folder / "tree"
    with zipfile.ZipFile(io.BytesIO(_git(root, "archive", "--format=zip", revision))) as archive:
        archive.extractall(tree)
    return Release(revision=revision, tree=tree, python=_python_for(tree, folder))


def _revision_before(root: Path) -> str:
    if not (root / ".git").exists():
        pytest.skip(
            "there is no history to take the last release from: run this in a clone of the repository (git clone)"
        )
    try:
        _git(root, "rev-parse", "--verify", "--quiet", "HEAD^1^{commit}")
    except (OSError, subprocess.CalledProcessError) as error:
        pytest.skip(f"git knows no commit before this one (git fetch --deepen=1): {error}")
    try:
        return _git(root, "describe", "--tags", "--abbrev=0", "--match=v[0-9]*", "HEAD^1").decode().strip()
    except subprocess.CalledProcessError:
        return _git(root, "rev-parse", "HEAD^1").decode().strip()  # nothing has been released yet


def _git(root: Path, *arguments: str) -> bytes:
    return subprocess.run(("git", "-C", root, *arguments), capture_output=True, check=True).stdout


def _python_for(tree: Path, folder: Path) -> Path:
    """This Python if it has all that the tree's lock asks for, else one of its own, filled from that lock."""
    lock = tree / "requirements.lock"
    others = [str(pin) for pin in _pins(lock.read_text()) if not _installed(pin)]
    if not others:
        return Path(sys.executable)
    venv.create(folder / "venv")
    python = folder / "venv" / "bin" / "python"
    install = (
        sys.executable,
        "-m",
        "pip",
        "--python",
        python,
        "install",
        "-q",
        "--require-hashes",
        "--no-deps",
        "-r",
        lock,
    )
    done = subprocess.run(install, capture_output=True, text=True, check=False)
    if done.returncode:
        pytest.skip(f"the last release needs {', '.join(others)}, and pip cannot install it: {done.stderr[-500:]}")
    return python


def _pins(lock: str) -> Iterator[Requirement]:
    for line in lock.splitlines():
        if line and not line.startswith((" ", "#", "-")):
            pin = Requirement(line.rstrip(" \\"))
            if pin.marker is None or pin.marker.evaluate():
                yield pin


def _installed(pin: Requirement) -> bool:
    try:
        return metadata.version(pin.name) in pin.specifier
    except metadata.PackageNotFoundError:
        return False
