"""The HTTP adapters against answers that no partner promises: only a clear answer is one."""

import asyncio
import gzip
import json
from collections.abc import AsyncIterator, Callable, Coroutine
from typing import Any

import httpx
import pytest

from libs.runtime.door import DoorSettings, HttpDoor
from libs.runtime.effect import GatewayUnavailable
from libs.testing.fulfillment_gateway import package, release_created, shipment_created
from services.fulfillment.gateway import HttpCarrier, HttpWarehouse, LabelBought

RELEASE = release_created()
PARCEL = package("p1", weight=700)
SHIPMENT = shipment_created(PARCEL)
LABEL = {"tracking_number": "SX1", "carrier": "SIMEX", "cost": 495, "currency": "EUR"}
ACCEPTED = {"release_id": "o1-berlin-1", "status": "accepted"}
IMPATIENT = DoorSettings(total_seconds=0.05)

PATIENT = DoorSettings()

Handler = Callable[[httpx.Request], Coroutine[None, None, httpx.Response]]
Body = bytes | dict[str, Any] | Callable[[], AsyncIterator[bytes]]


def door(handler: Handler, settings: DoorSettings = PATIENT) -> HttpDoor:
    return HttpDoor("http://partner", settings, httpx.MockTransport(handler))


def response(status: int, body: Body = b"") -> httpx.Response:
    """As from the wire: its body is still to be read."""
    if callable(body):
        return httpx.Response(status, content=body())
    return httpx.Response(status, content=_chunk(body if isinstance(body, bytes) else json.dumps(body).encode()))


async def _chunk(body: bytes) -> AsyncIterator[bytes]:
    yield body


def answers(status: int, body: Body = b"", settings: DoorSettings = PATIENT) -> HttpDoor:
    async def partner(request: httpx.Request) -> httpx.Response:
        return response(status, body)

    return door(partner, settings)


async def submit(to: HttpDoor) -> str | None:
    return await HttpWarehouse(to).submit(RELEASE, "rel:o1-berlin-1")


async def buy(to: HttpDoor) -> Any:
    return await HttpCarrier(to).buy_label(SHIPMENT, PARCEL, "lbl:o1-berlin-1-1:p1:1")


async def is_unavailable(to: HttpDoor) -> None:
    with pytest.raises(GatewayUnavailable):
        await submit(to)
    with pytest.raises(GatewayUnavailable):
        await buy(to)


async def test_release_is_posted_under_its_key_without_personal_data() -> None:
    seen: list[httpx.Request] = []

    async def warehouse(request: httpx.Request) -> httpx.Response:
        seen.append(request)
        return response(202, ACCEPTED)

    assert await submit(door(warehouse)) is None
    (request,) = seen
    assert (request.method, request.url.path, request.headers["idempotency-key"]) == (
        "POST",
        "/v1/releases",
        "rel:o1-berlin-1",
    )
    assert json.loads(request.content) == {
        "release_id": "o1-berlin-1",
        "order_id": "o1",
        "node": "berlin",
        "lines": [{"line_id": "1", "sku": "SKU-1", "qty": 2}, {"line_id": "2", "sku": "SKU-2", "qty": 1}],
    }


async def test_label_is_posted_for_one_package() -> None:
    seen: list[httpx.Request] = []

    async def carrier(request: httpx.Request) -> httpx.Response:
        seen.append(request)
        return response(201, LABEL)

    assert await buy(door(carrier)) == LabelBought(tracking_number="SX1", carrier="SIMEX", cost=495, currency="EUR")
    (request,) = seen
    assert (request.url.path, request.headers["idempotency-key"]) == ("/v1/labels", "lbl:o1-berlin-1-1:p1:1")
    body = json.loads(request.content)
    assert body.keys() == {"shipment_id", "package_id", "order_id", "node", "destination", "weight", "lines"}
    assert (body["package_id"], body["weight"], body["destination"]["country"]) == ("p1", 700, "DE")


async def test_refusal_gives_its_reason() -> None:
    assert await submit(answers(422, {"status": "rejected", "reason": "node_closed"})) == ("node_closed")


@pytest.mark.parametrize("status", [200, 204, 302, 307, 400, 401, 404, 409, 422, 429, 500, 502, 503])
async def test_status_that_means_nothing_is_unavailable(status: int) -> None:
    await is_unavailable(answers(status, {"code": "x"}))


async def test_redirect_is_not_followed() -> None:
    seen: list[str] = []

    async def partner(request: httpx.Request) -> httpx.Response:
        seen.append(str(request.url))
        return httpx.Response(307, headers={"location": "http://169.254.169.254/"}, content=_chunk(b""))

    await is_unavailable(door(partner))
    assert seen == ["http://partner/v1/releases", "http://partner/v1/labels"]


@pytest.mark.parametrize("body", [b"", b"<html></html>", b'{"tracking_number": "SX', b"[]", b"null", b"\xff\xfe{}"])
@pytest.mark.parametrize("status", [201, 202, 422])
async def test_body_that_is_no_answer_is_unavailable(status: int, body: bytes) -> None:
    await is_unavailable(answers(status, body))


@pytest.mark.parametrize(
    "wrong",
    [
        {"tracking_number": None},
        {"tracking_number": ""},
        {"tracking_number": "SX\u0000"},
        {"cost": -1},
        {"cost": "495"},
        {"cost": 4.95},
        {"cost": True},
        {"cost": 2**63},
        {"currency": "euro"},
        {"carrier": ""},
    ],
)
async def test_label_with_a_wrong_field_is_unavailable(wrong: dict[str, Any]) -> None:
    with pytest.raises(GatewayUnavailable):
        await buy(answers(201, {**LABEL, **wrong}))


@pytest.mark.parametrize("missing", LABEL)
async def test_label_without_a_field_is_unavailable(missing: str) -> None:
    rest = {name: value for name, value in LABEL.items() if name != missing}
    with pytest.raises(GatewayUnavailable):
        await buy(answers(201, rest))


async def test_acceptance_of_another_release_is_unavailable() -> None:
    with pytest.raises(GatewayUnavailable):
        await submit(answers(202, {**ACCEPTED, "release_id": "o2-berlin-1"}))


async def test_refusal_with_an_unprintable_reason_is_unavailable() -> None:
    with pytest.raises(GatewayUnavailable):
        await submit(answers(422, {"status": "rejected", "reason": "a\u0000b"}))


async def test_endless_answer_is_cut_at_the_limit() -> None:
    sent = 0

    async def endless() -> AsyncIterator[bytes]:
        nonlocal sent
        while sent < 10_000_000:
            sent += 65_536
            yield b" " * 65_536

    with pytest.raises(GatewayUnavailable):
        await buy(answers(201, endless))
    assert sent < 1_200_000


async def test_compressed_answer_is_not_unpacked() -> None:
    async def partner(request: httpx.Request) -> httpx.Response:
        assert request.headers["accept-encoding"] == "identity"
        packed = gzip.compress(json.dumps(LABEL).encode())
        return httpx.Response(201, headers={"content-encoding": "gzip"}, content=_chunk(packed))

    with pytest.raises(GatewayUnavailable):
        await buy(door(partner))


async def test_answer_within_the_limit_is_read_whole() -> None:
    padded = json.dumps({**LABEL, "note": "x" * 900_000}).encode()
    assert (await buy(answers(201, padded))).tracking_number == "SX1"


async def test_dripping_answer_is_given_up_in_time() -> None:
    async def drip() -> AsyncIterator[bytes]:
        while True:
            await asyncio.sleep(0.01)
            yield b" "

    async with asyncio.timeout(2):
        with pytest.raises(GatewayUnavailable):
            await buy(answers(201, drip, IMPATIENT))


async def test_silent_partner_is_given_up_in_time() -> None:
    async def silent(request: httpx.Request) -> httpx.Response:
        await asyncio.sleep(60)
        return response(201, LABEL)

    async with asyncio.timeout(2):
        await is_unavailable(door(silent, IMPATIENT))


@pytest.mark.parametrize(
    "error", [httpx.ConnectError, httpx.ConnectTimeout, httpx.ReadError, httpx.RemoteProtocolError, httpx.PoolTimeout]
)
async def test_broken_connection_is_unavailable(error: type[httpx.TransportError]) -> None:
    async def broken(request: httpx.Request) -> httpx.Response:
        raise error("broken")

    await is_unavailable(door(broken))


async def test_reason_for_unavailability_does_not_repeat_the_answer() -> None:
    with pytest.raises(GatewayUnavailable) as caught:
        await buy(answers(201, {**LABEL, "cost": "4111111111111111"}))
    assert "4111" not in str(caught.value)
