"""The cluster on one machine: PostgreSQL, Kafka, the services and the simulators, started and stopped in order."""

import os
import queue
import threading
from types import TracebackType
from typing import Self

import psutil  # type: ignore[import-untyped]

from oms.cluster.guard import end_leftovers, until
from oms.cluster.jars import JarError
from oms.cluster.process import ClusterBusy, ClusterError, Report, Supervisor
from oms.cluster.settings import ClusterSettings
from oms.cluster.startup import ClusterSpec, Startup
from oms.cluster.state import ClusterState, ProcessState, StateDirectory

LOCK_SECONDS = 0.5  # longer than another command takes to look whether the lock is free

INFRASTRUCTURE = ClusterSpec(services=(), simulators=())


class LocalCluster:
    """Runs the cluster under this process; when this process ends, however it ends, the cluster ends too.

    with LocalCluster(settings, INFRASTRUCTURE) as cluster:
        cluster.kafka_bootstrap, cluster.dsn("order", "app")
    """

    def __init__(
        self,
        settings: ClusterSettings | None = None,
        spec: ClusterSpec | None = None,
        report: Report = lambda event, **fields: None,
    ) -> None:
        self.settings = settings or ClusterSettings()
        self.spec = spec or ClusterSpec()
        self.directory = StateDirectory(self.settings.state_dir)
        self._report = report
        self._stop_requested: queue.SimpleQueue[None] = queue.SimpleQueue()  # safe in signal handlers, as no Event is
        self._write_lock = threading.Lock()
        self._supervisor: Supervisor | None = None
        self._state: ClusterState | None = None

    @property
    def state(self) -> ClusterState:
        if self._state is None:
            raise ClusterError("The cluster has not been started.")
        return self._state

    @property
    def supervisor(self) -> Supervisor:
        if self._supervisor is None:
            raise ClusterError("The cluster is not running.")
        return self._supervisor

    @property
    def kafka_bootstrap(self) -> str:
        return self.state.kafka_bootstrap

    @property
    def admin_dsn(self) -> str:
        return self.state.postgres_admin_dsn

    def dsn(self, service: str, role: str = "app") -> str:
        return self.state.services[service].dsn[role]

    def url(self, name: str) -> str:
        return {**self.state.services, **self.state.simulators}[name].url

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    def start(self, *, fresh: bool = False) -> None:
        """Start everything and return when it is ready; if anything fails, stop what was started and say why."""
        self.directory.create()
        if not until(self.directory.lock, LOCK_SECONDS):
            raise ClusterBusy(f"A cluster runs on {self.directory.path}: 'oms status' shows it, 'oms down' ends it.")
        try:
            self._start(fresh)
        except JarError as error:
            self._finish("failed", str(error))
            raise ClusterError(str(error)) from error
        except BaseException as error:
            self._finish("failed", str(error) or type(error).__name__)
            raise

    def request_stop(self) -> None:
        """Make `wait` return, or `start` give up. For signal handlers and other threads."""
        self._stop_requested.put(None)
        if self._supervisor is not None and self.state.phase == "starting":
            self._supervisor.interrupt()

    def wait(self) -> None:
        """Block until somebody requests a stop."""
        self._stop_requested.get()

    def stop(self) -> None:
        """Services first, so that they can still write; the servers last. Safe to call twice."""
        if self._supervisor is not None:
            self._finish("stopped")

    def _start(self, fresh: bool) -> None:
        before = self.directory.read()
        if before is not None:
            end_leftovers((child.pid, child.started) for child in before.children)
        if fresh:
            self.directory.purge()
            self.directory.create()
        process = psutil.Process()
        self._state = ClusterState(
            supervisor=ProcessState(name="supervisor", pid=os.getpid(), started=process.create_time()),
            callback_secret_file=str(self.directory.callback_secret()),
            apps=[*self.spec.simulators, *self.spec.services],
        )
        self._supervisor = Supervisor(self.directory.logs, self._report, self._write)
        if not self._stop_requested.empty():
            self._supervisor.interrupt()
        self._write()
        Startup(
            settings=self.settings,
            spec=self.spec,
            directory=self.directory,
            supervisor=self._supervisor,
            state=self._state,
            report=self._report,
        ).run()
        self._state.phase = "ready"
        self._write()
        self._report("cluster.ready")

    def _finish(self, phase: str, error: str | None = None) -> None:
        supervisor, state = self._supervisor, self._state
        try:
            if supervisor is not None and state is not None:
                state.phase = "stopping"
                self._report("cluster.stopping")
                self._write()
                for names in (self.spec.services, self.spec.simulators, ("kafka",), ("postgres",)):
                    supervisor.stop(names)
                supervisor.close()
                state.phase, state.error = phase, error
                self._write()
                self._report(f"cluster.{phase}")
        finally:
            self._supervisor = None
            self.directory.unlock()

    def _write(self) -> None:
        with self._write_lock:
            state, supervisor = self._state, self._supervisor
            if state is None or supervisor is None:
                return
            state.children = [
                ProcessState(
                    name=child.name, pid=child.pid, started=child.started, restarts=child.restarts, alive=child.alive
                )
                for child in supervisor.children
            ]
            self.directory.write(state)
