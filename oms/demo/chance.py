"""Chance that repeats: a number from a seed and names, the same on every machine and in any order."""

import hashlib


def share(seed: int, *names: str) -> float:
    """A number in [0, 1)."""
    digest = hashlib.blake2b("\n".join((str(seed), *names)).encode(), digest_size=8).digest()
    return int.from_bytes(digest, "big") / 2**64
