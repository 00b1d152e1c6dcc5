"""Running the cluster in the foreground or detached, finding one that runs, and ending it."""

import json
import os
import signal
import subprocess
import sys
from contextlib import suppress
from types import FrameType
from typing import Any

import orjson
import structlog

from oms.cluster.cluster import INFRASTRUCTURE, LocalCluster
from oms.cluster.guard import end_leftovers, until
from oms.cluster.process import ClusterBusy, ClusterError, Report, open_log, tail
from oms.cluster.settings import ClusterSettings
from oms.cluster.startup import ClusterSpec
from oms.cluster.state import ClusterState, StateDirectory

READY_SECONDS = 300.0
STOP_SECONDS = 90.0
ATTEMPTS = 5


def spec_of(infra: bool) -> ClusterSpec:
    return INFRASTRUCTURE if infra else ClusterSpec()


def up(settings: ClusterSettings, report: Report, *, infra: bool, fresh: bool, detach: bool) -> ClusterState | None:
    """Find the cluster, or start it and (unless detached) keep it up; the state of the one that was found."""
    directory, spec = StateDirectory(settings.state_dir), spec_of(infra)
    if fresh:
        end(directory)
    for _ in range(ATTEMPTS):
        if found := find(directory, spec):
            return found
        with suppress(ClusterBusy):  # another command was faster: what it starts is what we find
            if detach:
                launch(settings, report, infra=infra, fresh=fresh)
            else:
                run(settings, spec, report, fresh=fresh)
            return None
    raise ClusterBusy(f"Other commands start and stop the cluster on {directory.path} all the time.")


def run(settings: ClusterSettings, spec: ClusterSpec, report: Report, *, fresh: bool = False) -> None:
    """Keep the cluster up until SIGINT, SIGTERM or SIGHUP."""
    directory = StateDirectory(settings.state_dir)
    directory.create()
    with open_log(directory.logs / "supervisor.log") as file:
        logger = structlog.wrap_logger(
            structlog.BytesLogger(file),
            processors=[
                structlog.processors.TimeStamper(fmt="iso", utc=True),
                structlog.processors.JSONRenderer(serializer=orjson.dumps),
            ],
        )

        def both(event: str, **fields: Any) -> None:
            logger.info(event, **fields)
            with suppress(OSError):  # nobody reads any more: not a reason to end the cluster
                report(event, **fields)

        cluster = LocalCluster(settings, spec, both)

        def on_signal(number: int, frame: FrameType | None) -> None:
            cluster.request_stop()

        before = {number: signal.signal(number, on_signal) for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)}
        try:
            cluster.start(fresh=fresh)
            cluster.wait()
        finally:
            cluster.stop()
            for number, handler in before.items():
                signal.signal(number, handler)


def launch(settings: ClusterSettings, report: Report, *, infra: bool, fresh: bool) -> None:
    """Start a supervisor in a session of its own and follow its progress until it is ready."""
    directory = StateDirectory(settings.state_dir)
    directory.create()
    reading, writing = os.pipe()
    log = directory.logs / "supervisor.log"
    with open_log(log) as output:
        supervisor = subprocess.Popen(
            [sys.executable, "-m", "oms.cluster.detached", str(writing), "infra" if infra else "all", str(int(fresh))],
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            env={**os.environ, "OMS_STATE_DIR": str(settings.state_dir), "OMS_CACHE_DIR": str(settings.cache_dir)},
            pass_fds=(writing,),
            start_new_session=True,
        )
    os.close(writing)
    error: str | None = None
    busy = False
    try:
        with os.fdopen(reading) as lines:
            for line in lines:
                fields = json.loads(line)
                event = fields.pop("event")
                if event == "cluster.ready":
                    supervisor.returncode = 0  # it lives on: not ours to wait for any more
                    return
                if event == "busy":
                    busy = True
                elif event == "error":
                    error = fields["message"]
                else:
                    report(event, **fields)
    except BaseException:
        supervisor.terminate()
        supervisor.wait()
        raise
    supervisor.wait()
    if busy:
        raise ClusterBusy(error)
    raise ClusterError(error or f"The supervisor ended while it started. The end of {log}:\n{tail(log)}")


def find(directory: StateDirectory, spec: ClusterSpec) -> ClusterState | None:
    """The state of the cluster that runs on this directory with these apps; one that lacks some is replaced."""
    if not directory.path.exists():
        return None
    wanted = {*spec.simulators, *spec.services}

    def settled() -> bool:
        state = directory.read()
        return is_free(directory) or (
            state is not None and state.running and state.phase not in ("starting", "stopping")
        )

    if not until(settled, READY_SECONDS):
        raise ClusterError(f"A cluster on {directory.path} starts or stops and does not come to an end: 'oms down'.")
    state = directory.read()
    if state is None or not state.running:
        return None
    if state.phase == "ready" and wanted <= set(state.apps):
        return state
    end(directory)
    return None


def end(directory: StateDirectory) -> bool:
    """Stop the cluster of this directory and wait for its end; False if none was running."""
    state = directory.read() if directory.path.exists() else None
    if state is None:
        return False
    was_running = state.running
    if was_running:
        os.kill(state.supervisor.pid, signal.SIGTERM)
        if not until(lambda: not state.running, STOP_SECONDS):
            os.kill(state.supervisor.pid, signal.SIGKILL)  # its warden ends the rest
    last = directory.read() or state
    if not was_running or last.phase not in ("stopped", "failed"):
        end_leftovers([(child.pid, child.started) for child in last.children])
    if not until(lambda: is_free(directory), STOP_SECONDS):
        raise ClusterError(f"Another process holds the lock of {directory.path}.")
    return was_running


def is_free(directory: StateDirectory) -> bool:
    probe = StateDirectory(directory.path)
    if probe.lock():
        probe.unlock()
        return True
    return False
