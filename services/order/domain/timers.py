"""The settings that are rules of the order: how long each answer is waited for, and how often payment is tried."""

from datetime import timedelta
from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field

ZERO = timedelta(0)
YEAR = timedelta(days=365)
Wait = Annotated[timedelta, Field(gt=ZERO, le=YEAR)]


class OrderTimers(BaseModel):
    """T1 to T11 of the domain. A wait of nothing would be due again at once: only remorse and back-off may be 0."""

    model_config = ConfigDict(frozen=True)

    stock_answer: Wait = timedelta(seconds=60)
    payment_answer: Wait = timedelta(seconds=120)
    remorse: Annotated[timedelta, Field(ge=ZERO, le=YEAR)] = ZERO
    payment_method: Wait = timedelta(hours=24)
    reservation: Wait = timedelta(minutes=15)
    ship: Wait = timedelta(days=2)
    delivery: Wait = timedelta(days=14)
    payment_attempts: Annotated[int, Field(ge=1, le=10)] = 3
    payment_backoff: Annotated[timedelta, Field(ge=ZERO, le=timedelta(hours=1))] = timedelta(seconds=2)
