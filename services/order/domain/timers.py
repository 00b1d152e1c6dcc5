"""The settings that are rules of the order: how long each answer is waited for, and how often payment is tried."""

from datetime import timedelta
from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field

ZERO = timedelta(0)
YEAR = timedelta(days=365)
Wait = Annotated[timedelta, Field(gt=ZERO, le=YEAR)]


class OrderTimers(BaseModel):
    """T1 to T11 of the domain. A wait of nothing would be due again at once: only remorse and back-off may be 0."""

    model_config = ConfigDict(frozen=True, use_attribute_docstrings=True)

    stock_answer: Wait = timedelta(seconds=60)
    """T1: after so long without inventory's answer the order asks once more; the second time it is stuck."""
    payment_answer: Wait = timedelta(seconds=120)
    """T2: after so long without payment's answer the order is stuck."""
    remorse: Annotated[timedelta, Field(ge=ZERO, le=YEAR)] = ZERO
    """T4: how long a confirmed order waits before it is released, so that the customer may still cancel."""
    payment_method: Wait = timedelta(hours=24)
    """T5: how long a customer has to name another payment method."""
    reservation: Wait = timedelta(minutes=15)
    """T7: for how long stock is held for an order that is not confirmed."""
    ship: Wait = timedelta(days=2)
    """T10: by when a release must have left."""
    delivery: Wait = timedelta(days=14)
    """T11: by when what has left must have arrived."""
    payment_attempts: Annotated[int, Field(ge=1, le=10)] = 3
    """How often a declined payment is tried before the customer is asked."""
    payment_backoff: Annotated[timedelta, Field(ge=ZERO, le=timedelta(hours=1))] = timedelta(seconds=2)
    """The wait before the second attempt; it doubles with each."""
