"""Kafka's jars: locked by coordinate and SHA-256, fetched once into the user's cache directory."""

import hashlib
import os
import tempfile
import time
from collections.abc import Callable, Sequence
from concurrent.futures import FIRST_COMPLETED, ThreadPoolExecutor, wait
from dataclasses import dataclass
from pathlib import Path

LOCK_FILE = Path(__file__).with_name("jars.lock")
PARALLEL = 8
ATTEMPTS = 3
PAUSE_SECONDS = 0.5
TIMEOUT_SECONDS = 15


class JarError(Exception):
    """A jar could not be fetched, or is not the locked one."""


@dataclass(frozen=True, kw_only=True)
class Jar:
    group: str
    artifact: str
    version: str
    sha256: str

    @property
    def coordinate(self) -> str:
        return f"{self.group}:{self.artifact}:{self.version}"

    @property
    def filename(self) -> str:
        return f"{self.group}.{self.artifact}-{self.version}.jar"


def read_lock(path: Path = LOCK_FILE) -> list[Jar]:
    jars = []
    for number, line in enumerate(path.read_text().splitlines(), start=1):
        if not line.strip() or line.startswith("#"):
            continue
        try:
            coordinate, sha256 = line.split()
            group, artifact, version = coordinate.split(":")
        except ValueError:
            raise JarError(f"{path.name}:{number}: expected 'group:artifact:version sha256', found {line!r}") from None
        if len(sha256) != 64 or set(sha256) - set("0123456789abcdef"):
            raise JarError(f"{path.name}:{number}: {sha256!r} is not a SHA-256")
        jars.append(Jar(group=group, artifact=artifact, version=version, sha256=sha256))
    return jars


def fetch_jars(
    cache_dir: Path,
    *,
    mirror: str | None = None,
    jars: Sequence[Jar] | None = None,
    progress: Callable[[int, int], None] = lambda done, total: None,
    check: Callable[[], None] = lambda: None,
) -> list[Path]:
    """Return the path of every jar of the lock, fetching those that the cache lacks or holds damaged.

    Two runs at once are safe: each fetches into a directory of its own, and only verified files enter the cache, by
    rename. `check` is called now and then and may raise to give up.
    """
    jars = read_lock() if jars is None else jars
    store = cache_dir / "jars"
    store.mkdir(parents=True, exist_ok=True)
    missing = [jar for jar in jars if not _is_locked_one(store / jar.filename, jar)]
    if missing:
        with tempfile.TemporaryDirectory(prefix="fetch-", dir=cache_dir, ignore_cleanup_errors=True) as scratch:
            _fetch(missing, store, Path(scratch), mirror, progress, check)
    return [store / jar.filename for jar in jars]


def _fetch(
    missing: Sequence[Jar],
    store: Path,
    scratch: Path,
    mirror: str | None,
    progress: Callable[[int, int], None],
    check: Callable[[], None],
) -> None:
    progress(0, len(missing))
    pool = ThreadPoolExecutor(PARALLEL, thread_name_prefix="jars")
    try:
        waiting = {pool.submit(_fetch_one, jar, store, scratch, mirror) for jar in missing}
        while waiting:
            done, waiting = wait(waiting, timeout=0.2, return_when=FIRST_COMPLETED)
            check()
            for future in done:
                future.result()
            if done:
                progress(len(missing) - len(waiting), len(missing))
    finally:
        pool.shutdown(wait=False, cancel_futures=True)


def _fetch_one(jar: Jar, store: Path, scratch: Path, mirror: str | None) -> None:
    try:
        from jgo.maven import MavenContext
    except ImportError:
        raise JarError("The local cluster is not installed: install the extra 'local' of orderloom.") from None
    import requests

    failure: Exception | None = None
    for attempt in range(ATTEMPTS):
        # A fresh repository for each attempt: jgo writes in place and refuses to write over a torn download.
        repository = scratch / f"{jar.filename}.{attempt}"
        context = MavenContext(
            repo_cache=repository,
            remote_repos={"mirror": mirror.rstrip("/")} if mirror else None,
            timeout=TIMEOUT_SECONDS,
        )
        try:
            path = context.project(jar.group, jar.artifact).at_version(jar.version).artifact().resolve()
        except (requests.RequestException, RuntimeError, OSError) as error:
            failure = error
            if isinstance(error, RuntimeError):  # served, but not there: asking again gives the same answer
                break
            time.sleep(PAUSE_SECONDS * 2**attempt)
            continue
        put(path, store, jar)
        return
    where = f"the mirror {mirror}" if mirror else "the public Maven repository"
    raise JarError(
        f"Could not fetch {jar.coordinate} from {where}: {failure}\n"
        "Kafka's jars are fetched once and kept. Check the network, or set OMS_MAVEN_MIRROR=<URL of a Maven repository "
        "that this machine reaches>."
    ) from failure


def put(path: Path, store: Path, jar: Jar) -> Path:
    """Move a fetched file into the store if it is the locked one; refuse it if not."""
    found = _sha256(path)
    if found != jar.sha256:
        raise JarError(
            f"{jar.coordinate} is not the locked jar: expected SHA-256 {jar.sha256}, received {found}. "
            "It was not kept. If a mirror is set (OMS_MAVEN_MIRROR), it serves a different file."
        )
    target = store / jar.filename
    os.replace(path, target)
    return target


def _is_locked_one(path: Path, jar: Jar) -> bool:
    try:
        return _sha256(path) == jar.sha256
    except FileNotFoundError:
        return False


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
