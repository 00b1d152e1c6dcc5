"""How much may be parked before the partition stops: a bad deploy must not drain a topic into the park."""

from dataclasses import dataclass
from typing import NamedTuple


@dataclass(frozen=True, slots=True)
class ParkLimit:
    """A share of at least so many records, or so many distinct keys in a row. What waits behind a bad one is free."""

    ratio: float = 0.02
    ratio_over: int = 1_000
    keys_in_a_row: int = 20


_NO_KEYS: frozenset[bytes] = frozenset()


class ParkCount(NamedTuple):
    """What one partition has seen since this process took it."""

    records: int = 0
    parked: int = 0
    in_a_row: frozenset[bytes] = _NO_KEYS

    def sound(self) -> "ParkCount":
        return ParkCount(self.records + 1, self.parked)

    def bad(self, key: bytes) -> "ParkCount":
        return ParkCount(self.records + 1, self.parked + 1, self.in_a_row | {key})

    def exceeds(self, limit: ParkLimit) -> bool:
        """Whether one more bad record must stop the partition instead of being parked."""
        if len(self.in_a_row) >= limit.keys_in_a_row:
            return True
        return self.records >= limit.ratio_over and self.parked + 1 > limit.ratio * (self.records + 1)
