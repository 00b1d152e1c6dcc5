"""docs/settings.md is what the settings classes say, and names every variable that the product reads."""

import re
from pathlib import Path

import pytest

from oms.settings_page import GROUPS, PAGE, Group, settings_page

ROOT = Path(__file__).parents[2]


def test_page_is_what_the_classes_say() -> None:
    assert PAGE.read_text() == settings_page(), "make golden"


@pytest.mark.parametrize("group", GROUPS, ids=lambda group: group.title)
def test_every_setting_says_what_it_means(group: Group) -> None:
    for name, field in group.model.model_fields.items():
        assert field.description, f"{group.prefix}{name.upper()} has no description"


def test_every_variable_that_the_product_names_is_on_the_page() -> None:
    named = set()
    for package in ("libs/runtime", "libs/events", "services", "oms"):
        for path in (ROOT / package).rglob("*.py"):
            named |= set(re.findall(r"\bOMS_[A-Z]+(?:_[A-Z]+)*\b", path.read_text()))
    known = set(re.findall(r"`(OMS_[A-Z_]+)`", PAGE.read_text()))
    prefixes = {group.prefix.rstrip("_") for group in GROUPS}
    partial = {name for name in named - known if any(one.startswith(f"{name}_") for one in known)}
    assert named - known - prefixes - partial == set()
