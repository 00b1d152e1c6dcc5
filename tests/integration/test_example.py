"""What the README tells a newcomer to do, done."""

import re
import subprocess
import sys
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path
from typing import Any

import httpx
import pytest

from libs.events.channel import OrderPlaced
from libs.testing.deadline import eventually
from oms.cluster.apps import SERVICES
from oms.cluster.cluster import LocalCluster

pytestmark = pytest.mark.integration

ROOT = Path(__file__).parents[2]
ORDER = ROOT / "docs" / "examples" / "order.json"


def example() -> Any:
    spec = spec_from_file_location("place_order", ROOT / "docs" / "examples" / "place_order.py")
    assert spec is not None
    assert spec.loader is not None
    module = module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


async def test_example_order_walks_to_its_end(system: LocalCluster) -> None:
    named = example().addresses([system.kafka_bootstrap, *(f"{name}={system.url(name)}" for name in SERVICES)])
    assert await example().main(*named) == "COMPLETED"


async def test_five_lines_of_the_readme_place_an_order(system: LocalCluster, tmp_path: Path) -> None:
    (block,) = re.findall(r"```python\n(.*?)```", (ROOT / "README.md").read_text(), re.DOTALL)
    program = tmp_path / "publish.py"
    program.write_text(block)
    text = ORDER.read_text().replace("W-10023", "README-1")
    placed = OrderPlaced.model_validate_json(text)
    (tmp_path / "order.json").write_text(text)
    subprocess.run([sys.executable, program, system.kafka_bootstrap, tmp_path / "order.json"], check=True, timeout=30)

    async def heard() -> str | None:
        async with httpx.AsyncClient() as client:
            answer = await client.get(f"{system.url('tracking')}/orders/{placed.order_id}")
        return answer.json()["status"] if answer.status_code == 200 else None

    assert await eventually(heard, "tracking has heard of the order")
