"""Every query of dashboards and rules, asked of a real Prometheus that scrapes the running services."""

import json
import re
import uuid
from collections.abc import AsyncIterator, Iterable
from dataclasses import dataclass
from pathlib import Path

import pytest
import yaml

from libs.events.codec import EVENT_CLASSES
from libs.testing.builders import placed_line
from libs.testing.deadline import eventually
from libs.testing.metric_docs import TABLES, prometheus_name
from libs.testing.outside import SERVICES, Outside, outside
from oms.cluster.cluster import LocalCluster
from tests.prometheus import INSTALL, Prometheus, binary, scraping

pytestmark = [pytest.mark.integration, pytest.mark.skipif(binary() is None, reason=INSTALL)]

DEPLOY = Path(__file__).parents[2] / "deploy"
VARIABLES = {"$__rate_interval": "1m", "$service": "oms-.*"}
EMPTY_IN_GOOD_TIMES = {
    "annotation Starts of processes",
    "annotation Alerts",
}
"""Beside the alerts themselves. What they ask for exists all the same: that is checked of every query."""

IDS: set[str] = set()
"""Of the orders that the fixture places, and of what is in them."""

METRIC = re.compile(r"\b((?:oms|http_server|process)_[a-z0-9_]+|oms:[a-z0-9_:]+|target_info|ALERTS)\b(?=[{\[\s)]|$)")
MATCHER = re.compile(r'([a-z_]+)=~?"([^"$]*)"')


@dataclass(frozen=True)
class Query:
    where: str
    expr: str

    def __str__(self) -> str:
        return self.where


def dashboards() -> Iterable[Query]:
    for path in sorted((DEPLOY / "grafana/dashboards").glob("*.json")):
        board = json.loads(path.read_text())
        for panel in board["panels"]:
            for target in panel.get("targets", ()):
                yield Query(f"{path.stem} {panel['title']} {target['refId']}", target["expr"])
        for annotation in board["annotations"]["list"]:
            yield Query(f"annotation {annotation['name']}", annotation["expr"])
        for variable in board["templating"]["list"]:
            if variable["type"] == "query":
                asked = re.fullmatch(r"label_values\((.+), (\w+)\)", variable["definition"])
                assert asked, variable
                yield Query(f"{path.stem} variable {variable['name']}", f"group by ({asked[2]}) ({asked[1]})")


def rules(kind: str) -> Iterable[Query]:
    for path in sorted((DEPLOY / "prometheus/rules").glob("*.yaml")):
        for group in yaml.safe_load(path.read_text())["groups"]:
            yield from (Query(f"{kind} {rule[kind]}", rule["expr"]) for rule in group["rules"] if kind in rule)


def asked(query: Query) -> str:
    expr = query.expr
    for name, value in VARIABLES.items():
        expr = expr.replace(name, value)
    return expr


@pytest.fixture(scope="module")
async def prometheus(system: LocalCluster, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Prometheus]:
    """After orders have gone the whole way and some of the ways out, and everything was scraped since."""
    targets = {name: system.url(name) for name in SERVICES}
    async with scraping(targets, tmp_path_factory.mktemp("prometheus")) as prometheus:
        async with outside(system, system.directory.callback_secret().read_text().strip()) as shop:
            IDS.update([order_id async for order_id in _orders(shop)], {shop.node, shop.channel})

        async def shown() -> bool:
            done = await prometheus.query('increase(oms:order_duration_seconds:p95_5m{until="completed"}[1m])')
            rows = await prometheus.query("oms_view_rows")
            return bool(done and rows)

        await eventually(shown, "what the orders did is scraped, and the rules are evaluated", 40)
        yield prometheus


async def _orders(shop: Outside) -> AsyncIterator[str]:
    """The ids of everything that it makes."""
    for _ in range(2):  # the increase of a series is seen from its second value on
        sku = f"SKU-{uuid.uuid4().hex[:8]}"
        await shop.stock(sku, qty=10)
        done = await shop.place(shop.order(sku))
        short = await shop.place(shop.order(sku, lines=(placed_line(sku, qty=11, amount=11),)))
        again = await shop.place(shop.order(sku, token="tok_decline_once"))
        answer = await shop.post("order", "/orders", shop.order(sku).model_dump(mode="json"))
        assert answer.status_code == 201
        for order, status in ((done, "COMPLETED"), (short, "CANCELLED"), (again, "COMPLETED")):
            await shop.tracked(order.order_id, status)
            yield order.order_id
        yield sku
        refused = await shop.post("order", f"/orders/{done.order_id}/payment-method", {"token": "tok_visa"})
        assert refused.status_code == 409


async def test_every_query_of_the_dashboards_returns_series(prometheus: Prometheus) -> None:
    empty = {query.where for query in dashboards() if not await prometheus.query(asked(query))}
    assert empty <= EMPTY_IN_GOOD_TIMES, empty - EMPTY_IN_GOOD_TIMES


async def test_every_recording_rule_has_recorded(prometheus: Prometheus) -> None:
    names = [query.where.removeprefix("record ") for query in rules("record")]
    assert [name for name in names if not await prometheus.query(name)] == []


async def test_every_alert_can_be_asked_and_none_fires_in_good_times(prometheus: Prometheus) -> None:
    firing = {query.where for query in rules("alert") if await prometheus.query(asked(query))}
    # One broker keeps one copy, and says so. What other tests leave behind on the shared system is parked or open.
    assert firing <= {"alert RunsUnsafe", "alert ParkedKeys", "alert ExceptionsOpen", "alert AlarmRaised"}, firing


async def test_whatever_is_asked_for_exists(prometheus: Prometheus) -> None:
    """A misspelled metric or value would be empty for ever, also when it matters."""
    known = {"outcome": {"postponed"}, "type": set(EVENT_CLASSES), "severity": {"critical"}, "alertstate": {"firing"}}
    for query in (*dashboards(), *rules("alert"), *rules("record")):
        metrics = set(METRIC.findall(query.expr))
        assert metrics, query
        for metric in metrics:
            assert await prometheus.query(f"count({metric})"), f"{query}: {metric}"
        for label, value in MATCHER.findall(query.expr):
            if "." in value and label != "type":
                continue  # a pattern
            values = await prometheus.values(label) | known.get(label, set())
            assert set(value.split("|")) <= values, f"{query}: {label}={value}"


async def test_every_metric_of_the_table_is_shown_and_used(prometheus: Prometheus) -> None:
    used = " ".join(query.expr for query in (*dashboards(), *rules("alert"), *rules("record")))
    for kind, table in TABLES.items():
        for name, one in table.items():
            shown = prometheus_name(name, kind, one.unit)
            assert shown in used, f"{shown} is on no dashboard and in no rule"
            found = await prometheus.query(f"{shown}_count" if kind == "histogram" else shown)
            assert found, shown
            labels = {label for series in found for label in series["metric"]} - {"__name__", "job", "instance"}
            assert {"service_name"} <= labels <= {"service_name", "le", *one.labels}, shown


async def test_no_metric_has_many_series_or_an_id_in_them(prometheus: Prometheus) -> None:
    """Labels have few values: what grows with orders would grow for ever."""
    for series in await prometheus.query('{__name__=~"oms_.*|http_.*"}'):
        values = " ".join(series["metric"].values())
        assert not [one for one in IDS if one in values], series["metric"]
    sizes = await prometheus.query('count by (service_name, __name__) ({__name__=~"oms_.*", __name__!~".*_bucket"})')
    for series in sizes:
        assert int(series["value"][1]) <= 60, series["metric"]
