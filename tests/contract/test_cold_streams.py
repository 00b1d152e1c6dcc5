"""Long streams whose snapshots no longer hold, as after an upgrade: folded by the piece, before any lock is taken."""

from collections.abc import Mapping
from typing import Any

import pytest

from libs.runtime import batch as machine
from libs.runtime.batch import Batch, _pieces
from libs.runtime.handler import Handler, Request
from libs.runtime.identity import Cause, new_id
from libs.runtime.storage import Storage
from libs.testing.tally import AT, Add, Take, tally_service

LENGTHS = {"A": 20, "B": 5, "C": 1}


@pytest.fixture
def warmed(monkeypatch: pytest.MonkeyPatch) -> list[set[str]]:
    """The streams of each warming; a batch reads 10 events under its locks, and 3 at a time without."""
    monkeypatch.setattr(machine, "MOST_UNDER_LOCK", 10)
    monkeypatch.setattr(machine, "PIECE", 3)
    calls: list[set[str]] = []
    warm = Batch.warm

    async def recorded(self: Batch, storage: Storage, streams: Mapping[str, Any]) -> None:
        calls.append(set(streams))
        await warm(self, storage, streams)

    monkeypatch.setattr(Batch, "warm", recorded)
    return calls


def request(command: Any) -> Request:
    return Request(command=command, cause=Cause(causation_id=new_id(), at=AT))


async def filled(storage: Storage) -> None:
    handler = Handler(tally_service(), storage, snapshot_every=1_000)
    await handler.handle_requests([request(Add(sku, 1)) for sku, length in LENGTHS.items() for _ in range(length)])


@pytest.mark.parametrize(("cached", "times"), [(3, 1), (2, 0)], ids=["the cache holds them", "it does not"])
async def test_what_is_too_much_under_a_lock_is_folded_beforehand(
    storage: Storage, warmed: list[set[str]], cached: int, times: int
) -> None:
    await filled(storage)
    handler = Handler(tally_service(), storage, cached_states=cached)
    answers = await handler.handle_requests([request(Take(sku, length)) for sku, length in LENGTHS.items()])
    assert [answer.code for answer in answers] == ["", "", ""]
    assert [answer.stream_version for answer in answers] == [21, 6, 2]
    assert warmed == [{"stock-A", "stock-B", "stock-C"}] * times


async def test_few_events_are_read_under_the_lock(storage: Storage, warmed: list[set[str]]) -> None:
    await filled(storage)
    [answer] = await Handler(tally_service(), storage).handle_requests([request(Take("B", 5))])
    assert answer.code == ""
    assert warmed == []


def test_piece_is_about_as_many_events_as_may_be_read_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(machine, "PIECE", 3)
    assert list(_pieces({"A": 7, "B": 1, "C": 1, "D": 2, "E": 1})) == [["A"], ["A"], ["A", "B", "C"], ["D", "E"]]
    assert list(_pieces({})) == []
