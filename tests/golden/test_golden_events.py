"""What has been published stays readable: schema and example files of every version of every event."""

import json
from copy import deepcopy
from typing import Any

import pytest

from libs.events.base import Event
from libs.events.channel import OrderPlaced
from libs.events.codec import EVENT_CLASSES, decode, encode, schema_of
from libs.events.fulfillment import FulfillmentPacked, ShippingLabelPurchased
from libs.events.order import OrderHoldPlaced
from libs.testing import golden
from libs.testing.event_docs import events_page
from libs.testing.examples import example
from libs.testing.golden import EXAMPLES, PAGE, SCHEMAS, Golden, faults, golden_of, on_disk, schema_text
from services.tracking.views.summary import summary

CLASSES = [pytest.param(cls, id=name) for name, cls in EVENT_CLASSES.items()]
PUBLISHED = on_disk(EXAMPLES)
AGAIN = "run `python -m libs.testing.golden` and review what it changes"


@pytest.mark.parametrize("cls", CLASSES)
def test_schema_file_says_what_the_class_says(cls: type[Event]) -> None:
    path = golden_of(cls).schema
    assert path.exists(), AGAIN
    text = path.read_text()
    assert faults(json.loads(text), schema_of(cls)) == [], "needs a new schema_version and an upcaster"
    assert text == schema_text(cls), AGAIN


@pytest.mark.parametrize("cls", CLASSES)
def test_example_of_today_decodes_to_the_same_bytes(cls: type[Event]) -> None:
    now = golden_of(cls)
    assert now.example.exists(), AGAIN
    published = now.example.read_bytes()
    event = decode(now.event_type, now.version, published)
    assert type(event) is cls
    assert encode(event) == published, AGAIN
    assert event == example(cls), AGAIN


@pytest.mark.parametrize("published", PUBLISHED, ids=str)
def test_example_of_every_version_ever_published_decodes(published: Golden) -> None:
    event = decode(published.event_type, published.version, published.example.read_bytes())
    assert type(event) is EVENT_CLASSES[published.event_type]


@pytest.mark.parametrize("cls", CLASSES)
def test_every_version_up_to_today_s_has_its_files(cls: type[Event]) -> None:
    now = golden_of(cls)
    for version in range(1, now.version + 1):
        assert Golden(now.event_type, version) in PUBLISHED


def test_schemas_and_examples_are_of_the_same_versions() -> None:
    assert on_disk(SCHEMAS) == PUBLISHED


def test_label_of_version_1_was_paid_in_euro() -> None:
    old = Golden("oms.fulfillment.ShippingLabelPurchased", 1).example.read_bytes()
    assert "currency" not in json.loads(old)
    label = decode("oms.fulfillment.ShippingLabelPurchased", 1, old)
    assert isinstance(label, ShippingLabelPurchased)
    assert (label.cost, label.currency) == (399, "EUR")


@pytest.mark.parametrize("cls", CLASSES)
def test_example_is_the_same_every_time(cls: type[Event]) -> None:
    assert encode(example(cls)) == encode(example(cls))


def test_example_of_an_order_adds_up() -> None:
    placed = example(OrderPlaced)
    totals = placed.totals
    assert totals.items == sum(line.amount for line in placed.lines)
    assert totals.tax == sum(line.tax for line in placed.lines)
    assert totals.grand == totals.items + totals.shipping + totals.tax - totals.discount


@pytest.mark.parametrize("cls", CLASSES)
def test_every_event_has_a_sentence_for_people(cls: type[Event]) -> None:
    assert 3 <= len(summary(example(cls))) <= 150


def test_page_of_events_is_up_to_date() -> None:
    assert PAGE.read_text() == events_page(), AGAIN


# the checker itself: it lets pass what may change, and objects to the rest


def changed(cls: type[Event], **properties: Any) -> dict[str, Any]:
    """The schema with properties replaced, added, or (None) taken away."""
    schema = deepcopy(schema_of(cls))
    for name, value in properties.items():
        if value is None:
            del schema["properties"][name]
            schema["required"].remove(name)
        else:
            schema["properties"][name] = value
    return schema


def test_new_words_about_an_event_are_no_change() -> None:
    assert faults(schema_of(OrderHoldPlaced), {**schema_of(OrderHoldPlaced), "description": "other words"}) == []


@pytest.mark.parametrize("cls", [OrderHoldPlaced, OrderPlaced])
@pytest.mark.parametrize(
    "optional", [{"type": "string", "default": ""}, {"anyOf": [{"type": "null"}], "default": None}]
)
def test_new_optional_field_is_compatible(cls: type[Event], optional: dict[str, Any]) -> None:
    assert faults(schema_of(cls), changed(cls, note=optional)) == []


def test_new_optional_field_in_a_part_is_compatible() -> None:
    new = deepcopy(schema_of(FulfillmentPacked))
    new["$defs"]["Package"]["properties"]["colour"] = {"type": "string", "default": ""}
    assert faults(schema_of(FulfillmentPacked), new) == []


@pytest.mark.parametrize(
    "new",
    [
        pytest.param(changed(OrderHoldPlaced, type=None), id="field taken away"),
        pytest.param(changed(OrderHoldPlaced, type={"enum": ["PAYMENT"], "type": "string"}), id="value taken away"),
        pytest.param(
            changed(OrderHoldPlaced, type={"enum": ["PAYMENT", "MANUAL", "FRAUD"], "type": "string"}), id="value added"
        ),
        pytest.param(changed(OrderHoldPlaced, reason={"type": "integer"}), id="type changed"),
        pytest.param(changed(OrderHoldPlaced, reason={"type": "string", "maxLength": 5}), id="limit added"),
        pytest.param({**schema_of(OrderHoldPlaced), "required": ["order_id", "hold_id"]}, id="no longer required"),
        pytest.param(
            {
                **changed(OrderHoldPlaced, by={"type": "string"}),
                "required": [*schema_of(OrderHoldPlaced)["required"], "by"],
            },
            id="required field added",
        ),
    ],
)
def test_breaking_change_is_objected_to(new: dict[str, Any]) -> None:
    assert faults(schema_of(OrderHoldPlaced), new) != []


def test_required_field_added_to_a_part_is_objected_to() -> None:
    new = deepcopy(schema_of(FulfillmentPacked))
    new["$defs"]["ReleaseLine"]["properties"]["colour"] = {"type": "string"}
    new["$defs"]["ReleaseLine"]["required"].append("colour")
    assert faults(schema_of(FulfillmentPacked), new) != []


@pytest.mark.parametrize("field", ["placed_at", "lines", "totals", "destination"])
def test_channel_schema_may_not_lose_a_field(field: str) -> None:
    assert faults(schema_of(OrderPlaced), changed(OrderPlaced, **{field: None})) != []


@pytest.mark.parametrize("cls", CLASSES)
def test_checker_judges_every_schema(cls: type[Event]) -> None:
    schema = schema_of(cls)
    assert faults(schema, schema) == []
    demanding = {**schema, "properties": {**schema["properties"], "new": {"type": "string"}}}
    demanding["required"] = [*schema.get("required", []), "new"]
    assert faults(schema, demanding) != []


def test_breaking_change_is_not_written(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(golden, "breaking", lambda: iter(["oms.order.OrderHoldPlaced.v1: broken"]))
    monkeypatch.setattr(golden, "wanted", lambda: pytest.fail("must not get as far as writing"))
    assert golden.write(unpublished=False) == 1
    assert "OrderHoldPlaced.v1: broken" in capsys.readouterr().err
