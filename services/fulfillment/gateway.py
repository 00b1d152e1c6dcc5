"""The warehouse and the carrier: the ports, and their HTTP adapters.

Both keep what they did under an idempotency key and answer it again. So whatever is not a clear answer (timeout, 5xx,
redirect, HTML, too long, half a body) is GatewayUnavailable: the same call is made later under the same key.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Any, Literal, Protocol, TypeVar

from pydantic import BaseModel, Field, ValidationError

from libs.events.base import Id, Minor, Value
from libs.events.fulfillment import FulfillmentOrderCreated, Package, ShipmentCreated
from libs.runtime.door import Answered, CallLost, DoorSettings, HttpDoor
from libs.runtime.effect import GatewayUnavailable

A = TypeVar("A", bound=BaseModel)


class Label(Protocol):
    """A label as bought; `cost` in minor units of `currency`."""

    @property
    def carrier(self) -> str: ...
    @property
    def tracking_number(self) -> str: ...
    @property
    def cost(self) -> int: ...
    @property
    def currency(self) -> str: ...


class WarehouseGateway(Protocol):
    async def submit(self, release: FulfillmentOrderCreated, key: str) -> str | None:
        """Why the warehouse refuses the release; None when it accepts it. Raises GatewayUnavailable."""
        ...


class CarrierGateway(Protocol):
    async def buy_label(self, shipment: ShipmentCreated, package: Package, key: str) -> Label:
        """Raises GatewayUnavailable."""
        ...


@dataclass(frozen=True, kw_only=True)
class Gateways:
    warehouse: WarehouseGateway
    carrier: CarrierGateway
    doors: tuple[HttpDoor, ...] = ()

    async def close(self) -> None:
        for door in self.doors:
            await door.close()


class ReleaseAccepted(Value):
    status: Literal["accepted"]
    release_id: str


class ReleaseRefused(Value):
    status: Literal["rejected"]
    reason: Annotated[str, Field(pattern=r"^[ -~]{1,128}$")]


class LabelBought(Value):
    carrier: Id
    tracking_number: Id
    cost: Minor
    currency: Annotated[str, Field(pattern=r"^[A-Z]{3}$")]


async def _post(door: HttpDoor, path: str, key: str, body: Mapping[str, Any]) -> Answered:
    """Warehouse and carrier keep their keys for good: a call that was lost may simply be made again."""
    try:
        return await door.call("POST", path, key, body)
    except CallLost as lost:
        raise GatewayUnavailable(str(lost)) from lost


def _read(answer: Answered, model: type[A]) -> A:
    try:
        return model.model_validate_json(answer.body)
    except ValidationError:
        # Not with its text: that repeats what a stranger sent.
        raise GatewayUnavailable(f"{answer.status} with a body that is no {model.__name__}") from None


@dataclass(frozen=True)
class HttpWarehouse:
    door: HttpDoor

    async def submit(self, release: FulfillmentOrderCreated, key: str) -> str | None:
        answer = await _post(self.door, "/v1/releases", key, _release(release))
        match answer.status:
            case 202:
                if _read(answer, ReleaseAccepted).release_id != release.release_id:
                    raise GatewayUnavailable("accepted another release")
                return None
            case 422:
                return _read(answer, ReleaseRefused).reason
            case _:
                raise GatewayUnavailable(f"answered {answer.status}")


@dataclass(frozen=True)
class HttpCarrier:
    door: HttpDoor

    async def buy_label(self, shipment: ShipmentCreated, package: Package, key: str) -> Label:
        answer = await _post(self.door, "/v1/labels", key, _parcel(shipment, package))
        match answer.status:
            case 201:
                return _read(answer, LabelBought)
            case _:
                raise GatewayUnavailable(f"answered {answer.status}")


def _release(release: FulfillmentOrderCreated) -> Mapping[str, Any]:
    return release.model_dump(mode="json", include={"release_id", "order_id", "node", "lines"})


def _parcel(shipment: ShipmentCreated, package: Package) -> Mapping[str, Any]:
    return {
        **shipment.model_dump(mode="json", include={"shipment_id", "order_id", "node", "destination"}),
        **package.model_dump(mode="json", include={"package_id", "weight", "lines"}),
    }


def http_gateways(warehouse_url: str, carrier_url: str, warehouse: DoorSettings, carrier: DoorSettings) -> Gateways:
    doors = HttpDoor(warehouse_url, warehouse), HttpDoor(carrier_url, carrier)
    return Gateways(warehouse=HttpWarehouse(doors[0]), carrier=HttpCarrier(doors[1]), doors=doors)
