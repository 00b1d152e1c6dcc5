"""An effect: a call to the outside world, stored with the event that intends it and done at least once."""

from dataclasses import dataclass
from datetime import datetime

from libs.events.base import Event


@dataclass(frozen=True, kw_only=True)
class Effect:
    """`intent` is the event that wanted the call; `key` the idempotency key that every attempt is made under.

    Not due before `due_at` (None: at once). `gateway` bounds how many are under way at once.
    """

    kind: str
    key: str
    intent: Event
    due_at: datetime | None = None


class GatewayUnavailable(Exception):
    """The call surely had no effect, or may safely be made again under its key: it waits with back-off."""
