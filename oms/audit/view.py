"""Views against what the log says: folded in memory from the first event on and compared row by row."""

from collections.abc import Mapping, Sequence
from typing import Any

from libs.runtime.projection import Projection
from libs.runtime.rebuild import Progress, differences
from oms.audit.finding import Finding, finding
from services.fulfillment.views import RELEASE_VIEW, SHIPMENT_VIEW
from services.inventory.views import AVAILABILITY, LOCATIONS, RESERVATIONS
from services.order.views import ORDER_VIEW
from services.payment.views import PAYMENT_VIEW
from services.tracking.views.exception import OPEN_EXCEPTIONS
from services.tracking.views.order import ORDER_TRACKING

VIEWS: Mapping[str, Sequence[Projection[Any]]] = {
    "order": (ORDER_VIEW,),
    "inventory": (AVAILABILITY, RESERVATIONS, LOCATIONS),
    "payment": (PAYMENT_VIEW,),
    "fulfillment": (RELEASE_VIEW, SHIPMENT_VIEW),
    "tracking": (ORDER_TRACKING, OPEN_EXCEPTIONS),
}


async def view_is_its_log(service: str, dsn: str, projection: Projection[Any], progress: Progress) -> Finding:
    compared = await differences(dsn, f"/{service}-service", projection, progress)
    offenders = (f"row {key}: {words}" for key, words in compared.differing)
    figures = f"{compared.rows:,} rows from {compared.events:,} events"
    return finding(f"{service}'s {projection.name} = its log", figures, offenders)
