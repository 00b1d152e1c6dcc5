"""Chance without a generator: a pure function of the names given, so that arrival order changes no outcome."""

import hashlib
import math

_SPAN = 2**64


def draw(seed: int, kind: str, key: str, attempt: int = 0) -> float:
    """A number in [0, 1)."""
    digest = hashlib.blake2b(f"{seed}\n{kind}\n{key}\n{attempt}".encode(), digest_size=8).digest()
    return int.from_bytes(digest, "big") / _SPAN


def spread(seed: int, kind: str, key: str, typical: float) -> float:
    """Evenly between half and one and a half times the typical value."""
    return typical * (0.5 + draw(seed, kind, key))


def tail(seed: int, kind: str, key: str, median: float) -> float:
    """Exponential with the given median, cut at ten medians: the slow answers that a mean hides."""
    return min(-math.log2(1.0 - draw(seed, kind, key)), 10.0) * median


def name(prefix: str, key: str) -> str:
    """An id that repeats with its key."""
    return prefix + hashlib.blake2b(f"{prefix}\n{key}".encode(), digest_size=12).hexdigest()
