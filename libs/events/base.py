"""What every event is: an immutable, typed fact that knows which stream it belongs to."""

from datetime import datetime
from typing import Annotated, ClassVar

from pydantic import AfterValidator, AwareDatetime, BaseModel, BeforeValidator, ConfigDict, Field


def _no_number(moment: object) -> object:
    if not isinstance(moment, str | datetime):
        raise ValueError("not a date and time")  # noqa: TRY004  pydantic turns only a ValueError into a fault
    return moment


def _in_window(moment: datetime) -> datetime:
    if not 2000 <= moment.year < 2100:
        raise ValueError("outside the years 2000 to 2099")
    return moment


Id = Annotated[str, Field(pattern=r"^[A-Za-z0-9_.:-]{1,128}$")]
"""An identifier that may become part of a stream id or a Kafka key: ASCII, at most 128 characters."""

UUID = r"[0-9a-fA-F]{8}(?:-[0-9a-fA-F]{4}){3}-[0-9a-fA-F]{12}"
"""A regular expression."""

Text = Annotated[str, Field(max_length=1024)]
Moment = Annotated[AwareDatetime, Field(strict=False), BeforeValidator(_no_number), AfterValidator(_in_window)]
"""An ISO 8601 text with an offset, within the years 2000 to 2099; as strict from parsed JSON as from its text."""

Quantity = Annotated[int, Field(ge=1, le=1_000_000)]
Minor = Annotated[int, Field(ge=0, lt=2**63)]
"""Money in minor units of the currency that stands beside it."""


class Value(BaseModel):
    """A part of an event. Unknown fields are ignored, so that an older reader bears a newer writer."""

    model_config = ConfigDict(frozen=True, strict=True, extra="ignore")


class Event(Value):
    """A fact in the past tense, owned by one service, stored and published as the same bytes.

    `category` and `stream_field` name its stream; topic and Kafka key follow from the category (topics.py).
    `counted_by` names a field of few values, where metrics are to tell outcomes of one type apart.
    """

    category: ClassVar[str]
    stream_field: ClassVar[str]
    counted_by: ClassVar[str] = ""
    schema_version: ClassVar[int] = 1

    @property
    def stream_id(self) -> str:
        return f"{self.category}-{getattr(self, self.stream_field)}"


class Destination(Value):
    """Where an order goes, coarse (a tenth of a degree), so that it is no personal data."""

    country: Annotated[str, Field(pattern=r"^[A-Z]{2}$")]
    postal_code: Annotated[str, Field(max_length=16)] = ""
    lat: Annotated[float, Field(ge=-90, le=90, allow_inf_nan=False)]
    lon: Annotated[float, Field(ge=-180, le=180, allow_inf_nan=False)]


class Pii(Value):
    """The one place for personal data. Nothing reads it but the gateways that must."""

    customer_id: Text = ""
    email: Text = ""
    ship_to: dict[str, Text] = {}
    bill_to: dict[str, Text] = {}


class ReservedLine(Value):
    """A quantity of an order's line at a location; one line may be spread over several."""

    line_id: str
    sku: str
    location: str
    qty: int


class ReleaseLine(Value):
    """A quantity of an order's line in one release, package or shipment."""

    line_id: str
    sku: str
    qty: int
