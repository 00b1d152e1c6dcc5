"""Event ids: ordered by the time of their cause, the same for the same work, and never the same for other work."""

import uuid
from datetime import UTC, datetime, timedelta
from itertools import islice

from hypothesis import given
from hypothesis import strategies as st

from libs.runtime.identity import Cause, event_ids, new_id

AT = datetime(2026, 1, 5, 10, 0, tzinfo=UTC)
MOMENTS = st.integers(0, 100 * 365 * 86_400_000).map(
    lambda milliseconds: datetime(2000, 1, 1, tzinfo=UTC) + timedelta(milliseconds=milliseconds)
)


def ids(count: int = 3, *, cause: str = "c", at: datetime = AT, service: str = "order", of: str = "x") -> list[str]:
    return list(islice(event_ids(Cause(causation_id=cause, at=at), service, of), count))


def test_ids_repeat_with_their_cause() -> None:
    assert ids() == ids()
    assert ids(5)[:3] == ids(3)


def test_other_cause_service_or_consumer_makes_other_ids() -> None:
    made = [*ids(), *ids(cause="d"), *ids(service="payment"), *ids(of="y"), *ids(at=AT + timedelta(seconds=1))]
    assert len(set(made)) == len(made)


def test_time_alone_does_not_make_an_id_another() -> None:
    """Two causes of one millisecond differ by their hash."""
    made = [one for number in range(2_000) for one in ids(2, cause=str(number))]
    assert len(set(made)) == 4_000


@given(MOMENTS, MOMENTS)
def test_ids_are_ordered_by_the_time_of_their_cause(one: datetime, other: datetime) -> None:
    earlier, later = sorted([one, other])
    if later - earlier >= timedelta(milliseconds=1):
        assert ids(1, cause="z", at=earlier) < ids(1, cause="a", at=later)


@given(MOMENTS)
def test_id_is_a_uuid_that_says_who_made_it(at: datetime) -> None:
    for made in ids(at=at):
        parsed = uuid.UUID(made)
        assert str(parsed) == made
        assert (parsed.version, parsed.variant) == (8, uuid.RFC_4122)
        assert parsed.int >> 80 == int(at.timestamp() * 1000)


def test_id_without_a_cause_is_new_and_in_order() -> None:
    made = [new_id() for _ in range(1_000)]
    assert len(set(made)) == 1_000
    assert made == sorted(made)
