"""When one more bad record must stop its partition instead of being parked."""

from libs.runtime.park import ParkCount, ParkLimit


def counted(story: str) -> ParkCount:
    """A partition's history, a letter a record: `.` sound, anything else bad under that key."""
    count = ParkCount()
    for letter in story:
        count = count.sound() if letter == "." else count.bad(letter.encode())
    return count


def test_new_partition_may_park() -> None:
    assert not ParkCount().exceeds(ParkLimit())


def test_as_many_distinct_keys_in_a_row_as_the_limit_stop_it() -> None:
    limit = ParkLimit(keys_in_a_row=3)
    assert not counted("ab").exceeds(limit)
    assert counted("abc").exceeds(limit)


def test_one_key_many_times_is_one_in_the_row() -> None:
    assert not counted("aaaaaa").exceeds(ParkLimit(keys_in_a_row=3))


def test_sound_record_ends_the_row() -> None:
    limit = ParkLimit(keys_in_a_row=3)
    assert not counted("ab.c").exceeds(limit)
    assert counted("ab.cde").exceeds(limit)


def test_ratio_counts_only_over_enough_records() -> None:
    limit = ParkLimit(ratio=0.1, ratio_over=10)
    assert not counted(".a.b.c").exceeds(limit)
    assert counted(".a.b.c....").exceeds(limit)


def test_ratio_is_kept_with_the_next_bad_record_counted() -> None:
    limit = ParkLimit(ratio=0.1, ratio_over=10)
    assert not counted("." * 18 + "a").exceeds(limit), "two of twenty are a tenth"
    assert counted("." * 17 + "a").exceeds(limit), "two of nineteen are more"


def test_defaults_are_those_of_the_design() -> None:
    assert ParkLimit() == ParkLimit(ratio=0.02, ratio_over=1_000, keys_in_a_row=20)
