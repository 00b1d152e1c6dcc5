"""Partners that lie to the running services: their answer is taken for neither yes nor no, and nothing is done twice.

The simulators have the effect and answer garbage in its place, once for each idempotency key.
"""

import asyncio
import shutil
import ssl
import subprocess
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from libs.testing.deadline import eventually
from libs.testing.outside import Outside, outside
from oms.cluster.cluster import LocalCluster
from oms.cluster.health import wait_ready

pytestmark = pytest.mark.integration

SERVED_BY = {"psp": "payment", "carrier": "fulfillment", "warehouse": "fulfillment"}
PRICE = 4493  # of `Outside.order`, in cents


@pytest.fixture(scope="module")
async def doors(system: LocalCluster) -> AsyncIterator[Outside]:
    secret = system.directory.callback_secret().read_text().strip()
    async with outside(system, secret, tuple(SERVED_BY)) as opened:
        await opened.stock("SKU-LIE")
        yield opened


@asynccontextmanager
async def lying(doors: Outside, partner: str, shape: str) -> AsyncIterator[None]:
    simulator = doors.simulators[partner]
    assert (await simulator.put("/behaviour", json={"garbage_rate": 1, "garbage": shape})).status_code == 200
    try:
        yield
    finally:
        await simulator.put("/behaviour", json={"garbage_rate": 0, "garbage": "html"})


async def ordered(doors: Outside) -> str:
    return (await doors.place(doors.order("SKU-LIE"))).order_id


# --- the PSP ---------------------------------------------------------------------------------------------------------

PSP_LIES = (
    "html",
    "truncated",
    "huge",
    "redirect",
    "no_id",
    "other_amount",
    "smaller_amount",
    "other_currency",
    "unknown_code",
)


@pytest.mark.parametrize("shape", PSP_LIES)
async def test_lie_of_the_psp_is_an_unknown_outcome_and_moves_no_money_twice(doors: Outside, shape: str) -> None:
    async with lying(doors, "psp", shape):
        order_id = await ordered(doors)
        await doors.tracked(order_id, "COMPLETED")
        refund = {"refund_id": "r1", "amount": 100, "by": "me", "reason": "because"}
        assert (await doors.post("order", f"/orders/{order_id}/refunds", refund)).status_code == 201
        payment = await doors.seen_by("payment", f"/payments/{order_id}-p", refunded=100, outcome="KNOWN")
    assert (payment["authorised"], payment["captured"]) == (PRICE, PRICE)
    rows = await doors.sql(
        "payment",
        "SELECT event_type, convert_from(data, 'UTF8')::jsonb->>'operation' AS operation FROM events"
        " WHERE stream_id = $1",
        f"payment-{order_id}-p",
    )
    told = [row["event_type"].rpartition(".")[2] for row in rows]
    unknown = {row["operation"] for row in rows if row["event_type"].endswith(".PaymentOutcomeUnknown")}
    assert unknown == {"AUTHORIZE", "CAPTURE", "REFUND"}
    assert not {"PaymentDeclined", "PaymentCaptureFailed", "RefundFailed"}.intersection(told)
    assert [told.count(done) for done in ("PaymentAuthorized", "PaymentCaptured", "PaymentRefunded")] == [1, 1, 1]
    books = (await doors.simulators["psp"].get("/ledger/balances", params={"reference": f"{order_id}-p"})).json()
    assert [(row["authorised"], row["captured"], row["refunded"]) for row in books["rows"]] == [(PRICE, PRICE, 100)]


# --- carrier and warehouse -------------------------------------------------------------------------------------------

# Not another amount or currency: a label's price is the carrier's own word, and there is nothing to hold it against.
LIES = ("html", "truncated", "huge", "redirect", "no_id", "unknown_code")
CALLS = {"carrier": "purchase_label", "warehouse": "submit_release"}


async def postponed(doors: Outside, service: str, kind: str) -> float:
    """How often the service has put a call off because its answer was none."""
    return await doors.counted(service, "oms_effects_total{", kind=kind, outcome="postponed")


@pytest.mark.parametrize("partner", CALLS)
@pytest.mark.parametrize("shape", LIES)
async def test_lie_of_carrier_or_warehouse_is_no_answer_and_the_call_is_made_again(
    doors: Outside, partner: str, shape: str
) -> None:
    before = await postponed(doors, "fulfillment", CALLS[partner])
    async with lying(doors, partner, shape):
        order_id = await ordered(doors)
        await doors.tracked(order_id, "COMPLETED")
    assert await postponed(doors, "fulfillment", CALLS[partner]) > before
    told = await doors.events("fulfillment", order_id)
    assert not any(name.endswith(("Rejected", "Failed")) for name in told), told
    (shipment,) = (await doors.get("fulfillment", "/shipments", order_id=order_id)).json()["items"]
    reference = shipment["shipment_id" if partner == "carrier" else "release_id"]
    (done,) = (await doors.simulators[partner].get("/ledger", params={"reference": reference})).json()["rows"]
    if partner == "carrier":
        (package,) = shipment["packages"]
        assert package["tracking_number"] == done["subject"]
        assert (package["label_cost"], package["label_currency"]) == (done["amount"], done["currency"])


# --- a partner that is not who it should be --------------------------------------------------------------------------


@asynccontextmanager
async def impostor(folder: Path) -> AsyncIterator[tuple[str, list[bytes]]]:
    """An HTTPS server under a certificate that another name has given to itself; and what it was sent."""
    files = folder / "cert.pem", folder / "key.pem"
    made = "openssl req -x509 -newkey rsa:2048 -nodes -days 2 -subj /CN=other.example"
    made += " -addext subjectAltName=DNS:other.example -out {} -keyout {}"
    subprocess.run(made.format(*files).split(), check=True, capture_output=True)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(*files)
    heard: list[bytes] = []

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        heard.append(await reader.read(65_536))
        writer.close()

    async with await asyncio.start_server(answer, "127.0.0.1", 0, ssl=context) as server:
        yield f"https://127.0.0.1:{server.sockets[0].getsockname()[1]}", heard


@asynccontextmanager
async def restarted(system: LocalCluster, service: str, **env: str) -> AsyncIterator[None]:
    """A service under other settings for a while."""
    usual = system.supervisor.child(service).command

    async def started_as(command: Any) -> None:
        await asyncio.to_thread(system.supervisor.stop, [service])
        system.supervisor.start(command)
        await wait_ready({service: system.url(service)}, lambda: None, 60)

    await started_as(replace(usual, env={**usual.env, **env}))
    try:
        yield
    finally:
        await started_as(usual)


@pytest.mark.skipif(shutil.which("openssl") is None, reason="openssl is not there: apt-get install -y openssl")
@pytest.mark.parametrize(
    ("partner", "kind", "answers"),
    [
        ("psp", "authorize", {"PaymentAuthorized", "PaymentDeclined"}),
        ("carrier", "purchase_label", {"ShippingLabelPurchased"}),
        ("warehouse", "submit_release", {"FulfillmentAccepted", "FulfillmentRejected"}),
    ],
)
async def test_partner_under_the_certificate_of_another_name_is_told_nothing(
    doors: Outside, system: LocalCluster, tmp_path: Path, partner: str, kind: str, answers: set[str]
) -> None:
    service = SERVED_BY[partner]
    async with impostor(tmp_path) as (url, heard), restarted(system, service, **{f"OMS_{partner.upper()}_URL": url}):
        order_id = await ordered(doors)

        async def put_off() -> bool:
            return await postponed(doors, service, kind) >= 2

        await eventually(put_off, f"{kind} is put off", 40)
        told = await doors.events(service, order_id)
    assert told
    assert not answers.intersection(told)
    assert heard == []
    await doors.tracked(order_id, "COMPLETED")
