"""A run is sound only without a violation, with every drawn kind struck, and when orders went on after each strike."""

import json
from pathlib import Path

from tests.faults.oracle.history import Violation
from tests.faults.report import Report, Struck


def report(*strikes: Struck, **fields: object) -> Report:
    made = Report(1, ["kill_kafka", "deadlock"])
    made.strikes = list(strikes)
    for name, value in fields.items():
        setattr(made, name, value)
    return made


KILLED = Struck("kill_kafka", "kafka", 0, 1, 4.0, 30)
LOCKED = Struck("deadlock", "inventory", 0, 1, 9.0, 15)


def test_run_with_every_kind_struck_and_nothing_found_is_sound() -> None:
    assert report(KILLED, LOCKED).sound


def test_run_with_a_violation_is_not_sound() -> None:
    found = report(KILLED, LOCKED, violations=[Violation("I-9", "order-a", "captured 2 of 1")])
    assert not found.sound
    assert "I-9 order-a" in found.table()


def test_run_in_which_a_kind_was_never_hit_is_not_sound() -> None:
    assert report(KILLED).missed == ["deadlock"]
    assert not report(KILLED, Struck("deadlock", "inventory", 0, 1, 2.0, 15, error="NeverHit")).sound


def test_run_after_which_orders_never_went_on_is_not_sound() -> None:
    assert not report(KILLED, Struck("deadlock", "inventory", 0, 1, None, 15)).sound


def test_kind_without_its_tool_is_skipped_by_name() -> None:
    found = report(KILLED, skipped={"deadlock": "psql is not there: apt-get install psql"})
    assert found.sound
    assert "deadlock" in found.table()
    assert "apt-get install psql" in found.table()


def test_recovery_over_its_bound_is_told_when_nothing_else_struck() -> None:
    slow = Struck("deadlock", "inventory", 0, 1, 16.0, 15)
    assert report(KILLED, slow).late == [slow]
    slow.alone = False
    assert report(KILLED, slow).late == []


def test_report_is_written_for_machines(tmp_path: Path) -> None:
    report(KILLED, LOCKED, orders=7).write(tmp_path / "build" / "faults.json")
    body = json.loads((tmp_path / "build" / "faults.json").read_text())
    assert (body["strikes"], body["orders"], body["violations"]) == (2, 7, [])
    assert body["kinds"]["kill_kafka"]["recovery_p50"] == 4.0


def test_table_for_the_documents_has_a_row_for_each_kind() -> None:
    written = report(KILLED, orders=7).markdown()
    assert "7 orders" in written
    assert "| `kill_kafka` | 1 | 4 | 4 | 30 |" in written
    assert "| `deadlock` | 0 | – | – | – |" in written
