import json
import os
import socket
from pathlib import Path

import pytest

from oms.cluster.guard import start_time
from oms.cluster.process import ClusterError
from oms.cluster.state import PORT_RANGE, ClusterState, ProcessState, StateDirectory, pick_ports, write_private


@pytest.fixture
def directory(tmp_path: Path) -> StateDirectory:
    directory = StateDirectory(tmp_path / "state")
    directory.create()
    return directory


def this_process(**changes: float) -> ProcessState:
    return ProcessState(name="supervisor", pid=os.getpid(), started=start_time(os.getpid())).model_copy(update=changes)


def test_state_file_is_read_back_and_private(directory: StateDirectory) -> None:
    state = ClusterState(supervisor=this_process(), kafka_bootstrap="127.0.0.1:20001")
    directory.write(state)
    assert directory.read() == state
    assert (directory.path / "cluster.json").stat().st_mode & 0o777 == 0o600


def test_no_state_file_is_no_state(directory: StateDirectory) -> None:
    assert directory.read() is None


def test_damaged_state_file_is_named(directory: StateDirectory) -> None:
    (directory.path / "cluster.json").write_text("{")
    with pytest.raises(ClusterError, match=r"cluster\.json"):
        directory.read()


def test_pid_given_to_another_process_does_not_count_as_running() -> None:
    assert ClusterState(supervisor=this_process()).running
    assert not ClusterState(supervisor=this_process(started=1.0)).running


def test_lock_has_one_holder(directory: StateDirectory) -> None:
    other = StateDirectory(directory.path)
    assert directory.lock()
    assert not other.lock()
    directory.unlock()
    assert other.lock()
    other.unlock()


def test_passwords_are_kept_and_private(directory: StateDirectory) -> None:
    first = dict(directory.passwords(["a", "b"]))
    assert first["a"] != first["b"]
    assert {"a": first["a"], "b": first["b"]}.items() <= directory.passwords(["a", "c"]).items()
    assert (directory.path / "secrets.json").stat().st_mode & 0o777 == 0o600


def test_callback_secret_is_made_once(directory: StateDirectory) -> None:
    secret = directory.callback_secret().read_text()
    assert secret.startswith("whsec_")
    assert directory.callback_secret().read_text() == secret
    assert directory.callback_secret().stat().st_mode & 0o777 == 0o600


def test_purge_spares_what_is_not_the_clusters(directory: StateDirectory) -> None:
    directory.callback_secret()
    (directory.path / "letters").mkdir()
    directory.purge(everything=True)
    assert [path.name for path in directory.path.iterdir()] == ["letters"]


def test_ports_differ_and_stay_the_same_next_time(directory: StateDirectory) -> None:
    names = [str(number) for number in range(20)]
    ports = directory.ports(names)
    assert len(set(ports.values())) == len(names)
    assert set(ports.values()) <= set(PORT_RANGE)
    assert directory.ports(names) == ports


def test_port_that_another_cluster_has_chosen_is_not_chosen_until_it_ends(directory: StateDirectory) -> None:
    chosen = directory.ports(["kafka"])
    other = StateDirectory(directory.path.with_name("other"))
    other.create()
    write_private(other.path / "ports.json", json.dumps(chosen))
    assert other.ports(["kafka"]) != chosen
    directory.unlock()
    write_private(other.path / "ports.json", json.dumps(chosen))
    assert other.ports(["kafka"]) == chosen


def test_port_in_use_is_replaced() -> None:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen()
        taken = listener.getsockname()[1]
        assert pick_ports(["kafka"], {"kafka": taken})["kafka"] != taken
