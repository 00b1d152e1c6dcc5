"""The warehouse and the carrier: the ports, and their HTTP adapters.

Both keep what they did under an idempotency key and answer it again. So whatever is not a clear answer (timeout, 5xx,
redirect, HTML, too long, half a body) is GatewayUnavailable: the same call is made later under the same key.
"""

import asyncio
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Any, Literal, Protocol, TypeVar

import httpx
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from libs.events.base import Id, Minor, Value
from libs.events.fulfillment import FulfillmentOrderCreated, Package, ShipmentCreated
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
    doors: tuple["HttpDoor", ...] = ()

    async def close(self) -> None:
        for door in self.doors:
            await door.aclose()


class GatewaySettings(BaseModel):
    """`timeout_s` bounds a whole call, however slowly its answer drips."""

    model_config = ConfigDict(frozen=True)

    timeout_s: Annotated[float, Field(gt=0, le=300)] = 10
    connect_timeout_s: Annotated[float, Field(gt=0, le=60)] = 2
    connections: Annotated[int, Field(ge=1, le=1000)] = 32
    body_limit: Annotated[int, Field(ge=1)] = 1_000_000


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


@dataclass(frozen=True, slots=True)
class Answered:
    status: int
    body: bytes

    def read(self, model: type[A]) -> A:
        try:
            return model.model_validate_json(self.body)
        except ValidationError:
            # Not with its text: that repeats what a stranger sent.
            raise GatewayUnavailable(f"{self.status} with a body that is no {model.__name__}") from None

    def unclear(self) -> GatewayUnavailable:
        return GatewayUnavailable(f"answered {self.status}")


class HttpDoor:
    """POSTs of JSON to one host under idempotency keys: no redirects, no proxies, answers bounded in time and size."""

    def __init__(self, url: str, settings: GatewaySettings, transport: httpx.AsyncBaseTransport | None = None) -> None:
        self._settings = settings
        self._client = httpx.AsyncClient(
            base_url=url,
            timeout=httpx.Timeout(settings.timeout_s, connect=settings.connect_timeout_s),
            limits=httpx.Limits(max_connections=settings.connections),
            follow_redirects=False,
            trust_env=False,
            transport=transport,
            # A compressed answer could unpack to any size: it is not asked for, and would not read as JSON.
            headers={"accept": "application/json", "accept-encoding": "identity"},
        )

    async def post(self, path: str, key: str, body: Mapping[str, Any]) -> Answered:
        try:
            async with (
                asyncio.timeout(self._settings.timeout_s),
                self._client.stream("POST", path, json=body, headers={"idempotency-key": key}) as response,
            ):
                return Answered(response.status_code, await self._bounded(response))
        except (httpx.HTTPError, TimeoutError) as error:
            raise GatewayUnavailable(type(error).__name__) from error

    async def _bounded(self, response: httpx.Response) -> bytes:
        body = b""
        async for chunk in response.aiter_raw():
            body += chunk
            if len(body) > self._settings.body_limit:
                raise GatewayUnavailable(f"answered {response.status_code} with more than the limit")
        return body

    async def aclose(self) -> None:
        await self._client.aclose()


@dataclass(frozen=True)
class HttpWarehouse:
    door: HttpDoor

    async def submit(self, release: FulfillmentOrderCreated, key: str) -> str | None:
        answer = await self.door.post("/v1/releases", key, _release(release))
        match answer.status:
            case 202:
                if answer.read(ReleaseAccepted).release_id != release.release_id:
                    raise GatewayUnavailable("accepted another release")
                return None
            case 422:
                return answer.read(ReleaseRefused).reason
            case _:
                raise answer.unclear()


@dataclass(frozen=True)
class HttpCarrier:
    door: HttpDoor

    async def buy_label(self, shipment: ShipmentCreated, package: Package, key: str) -> Label:
        answer = await self.door.post("/v1/labels", key, _parcel(shipment, package))
        match answer.status:
            case 201:
                return answer.read(LabelBought)
            case _:
                raise answer.unclear()


def _release(release: FulfillmentOrderCreated) -> Mapping[str, Any]:
    return release.model_dump(mode="json", include={"release_id", "order_id", "node", "lines"})


def _parcel(shipment: ShipmentCreated, package: Package) -> Mapping[str, Any]:
    return {
        **shipment.model_dump(mode="json", include={"shipment_id", "order_id", "node", "destination"}),
        **package.model_dump(mode="json", include={"package_id", "weight", "lines"}),
    }


def http_gateways(
    warehouse_url: str, carrier_url: str, warehouse: GatewaySettings, carrier: GatewaySettings
) -> Gateways:
    doors = HttpDoor(warehouse_url, warehouse), HttpDoor(carrier_url, carrier)
    return Gateways(warehouse=HttpWarehouse(doors[0]), carrier=HttpCarrier(doors[1]), doors=doors)
