"""One order's way through all services, as a collector and the logs tell it, and that neither tells who ordered."""

import json
import uuid
from typing import Any

import pytest

from libs.testing.deadline import eventually
from libs.testing.outside import SERVICES, Outside
from oms.cluster.cluster import LocalCluster
from tests.collector import Collector, Span

pytestmark = pytest.mark.integration


def sampled() -> tuple[str, str]:
    """A trace of its own, and its `traceparent`."""
    trace_id = uuid.uuid4().hex
    return trace_id, f"00-{trace_id}-00f067aa0ba902b7-01"


def text_of_logs(system: LocalCluster, *services: str) -> str:
    paths = [path for name in services for path in system.directory.logs.glob(f"{name}.log*")]
    assert paths
    return "\n".join(path.read_text(errors="replace") for path in paths)


def lines(system: LocalCluster, service: str, event: str) -> list[dict[str, Any]]:
    text = text_of_logs(system, service).splitlines()
    return [line for one in text if event in one for line in (json.loads(one),) if line["event"] == event]


async def test_collector_gets_one_trace_of_an_order_with_every_service_in_it(
    shop: Outside, collector: Collector, sku: str
) -> None:
    trace_id, traceparent = sampled()
    order = await shop.place(shop.order(sku), traceparent=traceparent)
    await shop.tracked(order.order_id, "COMPLETED")

    async def whole() -> bool:
        names = {span.name for span in collector.trace(trace_id)}
        return {"decide RegisterOrder", "decide ReserveStock", "effect authorize", "effect submit_release"} <= names

    await eventually(whole, "what each service did for it")
    assert _services(collector.trace(trace_id)) == {f"oms-{name}" for name in SERVICES}
    of_the_order = [span for span in collector.spans if order.order_id in span.text]
    assert {span.trace_id for span in of_the_order} == {trace_id}, "it is in one trace only"


def _services(spans: list[Span]) -> set[str]:
    return {span.service for span in spans}


async def test_trace_hangs_together_from_its_beginner_on(shop: Outside, collector: Collector, sku: str) -> None:
    trace_id, traceparent = sampled()
    order = shop.order(sku)
    await shop.post("order", "/orders", order.model_dump(mode="json"), traceparent=traceparent)
    await shop.tracked(order.order_id, "COMPLETED")

    async def whole() -> bool:
        ids = {span.span_id for span in collector.trace(trace_id)} | {"00f067aa0ba902b7"}
        orphans = [span for span in collector.trace(trace_id) if span.parent_id not in ids]
        return len(_services(collector.trace(trace_id))) == 5 and not orphans

    await eventually(whole, "every span has a parent that was sent as well")


async def test_order_that_its_channel_did_not_sample_is_in_no_trace_and_keeps_its_context(
    shop: Outside, collector: Collector, sku: str
) -> None:
    trace_id, traceparent = sampled()
    order = await shop.place(shop.order(sku), traceparent=traceparent[:-1] + "0")
    await shop.tracked(order.order_id, "COMPLETED")
    last, other = await shop.place(shop.order(sku), traceparent=sampled()[1]), collector.spans
    await shop.tracked(last.order_id, "COMPLETED")

    async def later_one() -> bool:
        return any(last.order_id in span.text and span.service == "oms-tracking" for span in other)

    await eventually(later_one, "spans of an order that was placed later")
    assert collector.trace(trace_id) == []
    told = await shop.sql("tracking", "SELECT convert_from(metadata, 'UTF8') AS metadata FROM events")
    assert sum(trace_id in row["metadata"] for row in told) > 5


async def test_logs_name_events_by_their_ids(shop: Outside, system: LocalCluster, sku: str) -> None:
    trace_id, traceparent = sampled()
    order = await shop.place(shop.order(sku), traceparent=traceparent)
    await shop.tracked(order.order_id, "COMPLETED")
    told = [line for line in lines(system, "order", "event.appended") if line["correlation_id"] == order.order_id]
    stored = await shop.sql(
        "order", "SELECT event_id::text, stream_version FROM events WHERE stream_id = $1", f"order-{order.order_id}"
    )
    assert {(line["event_id"], line["stream_version"]) for line in told} == {tuple(row) for row in stored}
    assert {line["trace_id"] for line in told} == {trace_id}
    assert all(line["causation_id"] and line["service"] == "oms-order" for line in told)
    batches = [line for line in lines(system, "tracking", "batch.handled") if line.get("processed")]
    assert all(line["records"] and line["next_offsets"] and line["duration_ms"] > 0 for line in batches)
    assert sum(line.get("processed", 0) for line in batches) > len(told)


async def test_who_ordered_is_in_no_log_no_metric_and_no_trace(
    shop: Outside, system: LocalCluster, collector: Collector, sku: str, canary: str
) -> None:
    """Whatever became of the order, at log level DEBUG and with every trace recorded."""
    pii = {"customer_id": canary, "email": f"{canary}@example.org", "ship_to": {"name": canary}}
    _, traceparent = sampled()
    good = shop.order(sku, pii=pii)
    body = good.model_dump(mode="json")
    await shop.place(good, traceparent=traceparent)
    wrong = shop.order(sku, pii=pii, currency="EUX")
    await shop.place(wrong, traceparent=traceparent)
    for spoiled in (
        {**body, "external_order_id": None},
        {**body, "external_order_id": f"X-{canary}", "lines": canary, "pii": canary},
        {**body, "destination": {"country": canary}},
    ):
        await shop.publish(json.dumps(spoiled).encode(), headers=[("traceparent", traceparent.encode())])
        answer = await shop.post("order", "/orders", spoiled, traceparent=traceparent)
        assert answer.status_code == 422, answer.text
    await shop.publish(json.dumps(body).encode()[:-20])
    await shop.call_back("payment", "/callbacks/psp", {"type": canary, "reference": canary})
    await shop.tracked(good.order_id, "COMPLETED")
    await shop.tracked(wrong.order_id, "REJECTED")

    async def sent() -> bool:
        return any(good.order_id in span.text and span.service == "oms-tracking" for span in collector.spans)

    await eventually(sent, "the order's spans")
    rows = await shop.sql("order", "SELECT convert_from(data, 'UTF8') AS data FROM events")
    assert any(canary in row["data"] for row in rows), "it is where it may be"
    assert canary not in text_of_logs(system, *SERVICES)
    assert not [span for span in collector.spans if canary in span.text]
    for service in SERVICES:
        assert canary not in (await shop.aside(service, "/metrics")).text


async def test_every_line_of_a_service_is_json_and_names_it(shop: Outside, system: LocalCluster) -> None:
    del shop
    for service in SERVICES:
        for line in text_of_logs(system, service).splitlines():
            assert json.loads(line)["service"] == f"oms-{service}", line
