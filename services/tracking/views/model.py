"""The tracking row of an order: what is stored is what the API answers. No personal data."""

from datetime import date, datetime
from typing import Literal

from pydantic import BaseModel, ConfigDict

from libs.events.channel import Fault
from libs.events.fulfillment import TrackingStatus
from libs.events.order import CancelReason
from services.tracking.views.exception import Hold, Overdue

OrderStatus = Literal[
    "EXPECTED",
    "RECEIVED",
    "ACCEPTED",
    "CONFIRMED",
    "IN_FULFILLMENT",
    "COMPLETED",
    "REJECTED",
    "CANCEL_PENDING",
    "CANCELLED",
]
PaymentStatus = Literal[
    "NONE",
    "PENDING",
    "AUTHORIZED",
    "PARTIALLY_AUTHORIZED",
    "DECLINED",
    "VOIDED",
    "PARTIALLY_CAPTURED",
    "CAPTURED",
    "PARTIALLY_REFUNDED",
    "REFUNDED",
    "OVERCHARGED",
]
FulfillmentStatus = Literal[
    "UNFULFILLED",
    "ALLOCATED",
    "RELEASED",
    "PARTIALLY_SHIPPED",
    "SHIPPED",
    "PARTIALLY_DELIVERED",
    "DELIVERED",
    "EXCEPTION",
]
PackageStatus = Literal["CREATED", "LABELLED", "DISPATCHED"] | TrackingStatus
ReleaseStatus = Literal["REQUESTED", "ACCEPTED", "PICKED", "PACKED", "REJECTED"]
AttemptStatus = Literal["NONE", "PENDING", "DECLINED", "VOIDED"]


class Part(BaseModel):
    model_config = ConfigDict(frozen=True)


class Line(Part):
    """Quantities of one line. `reserved` is held and not shipped yet; `shipped` and `delivered` only grow."""

    line_id: str
    sku: str
    ordered: int = 0
    reserved: int = 0
    shipped: int = 0
    delivered: int = 0


class Amounts(Part):
    """Minor units. `authorized` is what the PSP holds for us or has paid us: a void takes away what was not captured.

    For a moment it may be more than `total`: two attempts may both be authorised, and then one of them is void.
    """

    total: int = 0
    authorized: int = 0
    captured: int = 0
    refunded: int = 0


class Attempt(Part):
    """The latest attempt to authorise; what an earlier one says late does not change it."""

    number: int = 0
    status: AttemptStatus = "NONE"
    decline_code: str = ""


class Authorization(Part):
    """Authorised and not void."""

    auth_id: str
    amount: int


class Release(Part):
    release_id: str
    node: str = ""
    status: ReleaseStatus = "REQUESTED"


class Package(Part):
    package_id: str
    shipment_id: str
    node: str = ""
    carrier: str = ""
    tracking_number: str = ""
    status: PackageStatus = "CREATED"
    status_at: datetime | None = None


class Milestones(Part):
    """When what happened, in business time: `dispatched_at` of the first shipment, captures and deliveries of the last.

    `ended_at` is set with completion, cancellation and rejection alike.
    """

    placed_at: datetime | None = None
    received_at: datetime | None = None
    accepted_at: datetime | None = None
    reserved_at: datetime | None = None
    authorized_at: datetime | None = None
    confirmed_at: datetime | None = None
    released_at: datetime | None = None
    dispatched_at: datetime | None = None
    captured_at: datetime | None = None
    delivered_at: datetime | None = None
    completed_at: datetime | None = None
    ended_at: datetime | None = None


class OrderTracking(Part):
    """One order as everyone has told of it so far.

    `status` is the headline; `exception` lies over it while a hold is open or an answer is overdue. `order_status` is
    EXPECTED while others speak of the order and its own service has not been heard yet.
    """

    order_id: str
    status: OrderStatus = "EXPECTED"
    exception: bool = False
    order_status: OrderStatus = "EXPECTED"
    payment_status: PaymentStatus = "NONE"
    fulfillment_status: FulfillmentStatus = "UNFULFILLED"

    channel: str = ""
    external_order_id: str = ""
    external_revision: int = 0
    placed_day: date | None = None
    currency: str = ""
    amounts: Amounts = Amounts()
    lines: tuple[Line, ...] = ()
    cancel_reason: CancelReason | None = None
    rejections: tuple[Fault, ...] = ()
    holds: tuple[Hold, ...] = ()
    overdue: Overdue | None = None

    attempt: Attempt = Attempt()
    authorizations: tuple[Authorization, ...] = ()
    unknown_outcomes: tuple[str, ...] = ()

    releases: tuple[Release, ...] = ()
    packages: tuple[Package, ...] = ()
    milestones: Milestones = Milestones()
