"""API keys: 256 random bits each, shown once; what is kept is their SHA-256, so the file alone lets nobody in.

A client may have several keys at once: that is how one is replaced without a gap. Hashing slowly would protect nothing
here: nobody guesses 256 bits.
"""

import hashlib
import hmac
import os
import secrets
import time
from collections.abc import Collection, Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Literal, get_args

from pydantic import BaseModel, ConfigDict, Field, TypeAdapter, ValidationError

from libs.runtime import telemetry

Scope = Literal["channel", "operator", "reader"]
"""`channel` places and cancels orders, `operator` changes things by hand, `reader` sees. None includes another."""
SCOPES: tuple[Scope, ...] = get_args(Scope)

LOOK_SECONDS = 1.0
"""So often the file is looked at: a revoked key is refused within that time."""
_PREFIX = "oms"
_SECRET_BYTES = 32
_NO_HASH = "0" * 64


class Key(BaseModel):
    """One line of the file. `id` is the part of the key that may be shown; `client` is what actions are recorded as."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    id: Annotated[str, Field(pattern=r"^[0-9a-f]{12}$")]
    client: Annotated[str, Field(pattern=r"^[A-Za-z0-9_.@-]{1,64}$")]
    scopes: Annotated[frozenset[Scope], Field(min_length=1)]
    sha256: Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
    created_at: datetime


_FILE = TypeAdapter(list[Key])


class KeysUnreadable(Exception):
    """The file is not there or is no list of keys; the message says why, without what is in it."""


def read_keys(file: Path) -> Sequence[Key]:
    """Raises KeysUnreadable."""
    try:
        keys = _FILE.validate_json(file.read_bytes())
    except OSError as error:
        raise KeysUnreadable(f"{file}: {type(error).__name__}") from None
    except ValidationError as error:
        wrong = "; ".join(f"{'.'.join(map(str, one['loc']))}: {one['msg']}" for one in error.errors()[:3])
        raise KeysUnreadable(f"{file}: {wrong}") from None
    if len({key.id for key in keys}) < len(keys):
        raise KeysUnreadable(f"{file}: two keys have the same id")
    return keys


def new_key(client: str, scopes: Collection[Scope], now: datetime | None = None) -> tuple[Key, str]:
    """What is kept, and the key itself: there is no second chance to see it. Raises ValidationError."""
    key_id = secrets.token_hex(6)
    text = f"{_PREFIX}_{key_id}_{secrets.token_urlsafe(_SECRET_BYTES)}"
    at = (now or datetime.now(UTC)).replace(microsecond=0)
    return Key(id=key_id, client=client, scopes=frozenset(scopes), sha256=_hash(text), created_at=at), text


def write_keys(file: Path, keys: Sequence[Key]) -> None:
    """At once, and readable by its owner only: whoever reads it meanwhile reads the keys of before."""
    temporary = file.with_name(f".{file.name}.{secrets.token_hex(4)}")
    with os.fdopen(os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as out:
        out.write(_FILE.dump_json(list(keys), indent=2) + b"\n")
        out.flush()
        os.fsync(out.fileno())
    os.replace(temporary, file)


class Keys:
    """The keys of a file, read anew when it changes. A file that cannot be read any more leaves what was valid valid,
    and raises an alarm. Raises KeysUnreadable when it cannot be read in the beginning."""

    def __init__(self, file: Path) -> None:
        self._file = file
        self._stamp = _stamp(file)
        self._keys = _by_id(read_keys(file))
        self._looked_at = time.monotonic()

    def of(self, text: str) -> Key | None:
        """The key that this is, if it is one of ours; compared in constant time."""
        self._refresh()
        key = self._keys.get(_id_in(text))
        same = hmac.compare_digest(_hash(text), key.sha256 if key else _NO_HASH)
        return key if same else None

    def _refresh(self) -> None:
        now = time.monotonic()
        if now - self._looked_at < LOOK_SECONDS:
            return
        self._looked_at = now
        stamp = _stamp(self._file)
        if stamp == self._stamp:
            return
        self._stamp = stamp
        try:
            self._keys = _by_id(read_keys(self._file))
        except KeysUnreadable as error:
            telemetry.alarm("api_keys_unreadable", reason=str(error))


def _by_id(keys: Sequence[Key]) -> Mapping[str, Key]:
    return {key.id: key for key in keys}


def _stamp(file: Path) -> tuple[int, int, int] | None:
    try:
        status = file.stat()
    except OSError:
        return None
    return status.st_ino, status.st_size, status.st_mtime_ns


def _id_in(text: str) -> str:
    prefix, _, rest = text.partition("_")
    return rest.partition("_")[0] if prefix == _PREFIX else ""


def _hash(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()
