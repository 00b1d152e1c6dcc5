"""Chance and schedule of the simulators, without a process."""

import sqlite3

import pytest

from simulators.behaviour import Behaviour
from simulators.callbacks import Callback, Settled, repeated, schedule, turn
from simulators.chance import draw, name, spread, tail
from simulators.ledger import SCHEMA


@pytest.fixture
def connection() -> sqlite3.Connection:
    connection = sqlite3.connect(":memory:")
    connection.row_factory = sqlite3.Row
    connection.executescript(SCHEMA)
    return connection


def test_chance_repeats_and_is_even() -> None:
    draws = [draw(1, "kind", str(number)) for number in range(2000)]
    assert draws == [draw(1, "kind", str(number)) for number in range(2000)]
    assert draws != [draw(2, "kind", str(number)) for number in range(2000)]
    assert 0.48 < sum(draws) / 2000 < 0.52
    assert all(50 <= spread(1, "kind", str(number), 100) < 150 for number in range(100))
    assert sum(tail(1, "kind", str(number), 100) < 100 for number in range(2000)) == pytest.approx(1000, abs=60)
    assert name("auth_", "k") == name("auth_", "k") != name("auth_", "l")


def test_raising_one_rate_leaves_other_faults_where_they_were() -> None:
    keys = [str(number) for number in range(500)]
    few = Behaviour(timeout_after_rate=0.1)
    more = few.changed({"garbage_rate": 0.5})
    held = {key for key in keys if few.verdict(1, key) == "timeout_after"}
    assert held == {key for key in keys if more.verdict(1, key) == "timeout_after"}
    assert 25 < len(held) < 75


def test_callbacks_of_a_subject_go_out_one_after_another(connection: sqlite3.Connection) -> None:
    schedule(connection, "s", [Callback(id=id_, due_at=at, body={}) for id_, at in (("b", 2.0), ("a", 1.0))])
    schedule(connection, "t", [Callback(id="c", due_at=1.5, body={})])
    first, other = turn(connection, [], 10)
    assert (first["id"], other["id"]) == ("a", "c")
    late = Settled(rowid=first["rowid"], subject="s", state="due", due_at=9.0, answer="500")
    assert [row["id"] for row in turn(connection, [late], 10)] == ["c", "a"], "b waits for a, whenever b was due"
    sent = Settled(rowid=first["rowid"], subject="s", state="sent", due_at=9.0, answer="204")
    assert [row["id"] for row in turn(connection, [sent], 10)] == ["c", "b"]


def test_repeats_keep_their_id_and_never_precede_the_first() -> None:
    callbacks = [Callback(id=str(place), due_at=float(place), body={}) for place in range(50)]
    copies = repeated(callbacks, 1, 1.0)[50:]
    assert [copy.id for copy in copies] == [callback.id for callback in callbacks]
    assert all(copy.due_at >= first.due_at for copy, first in zip(copies, callbacks, strict=True))
    assert repeated(callbacks, 1, 0.0) == callbacks
