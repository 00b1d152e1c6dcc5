"""The table of metrics in docs/telemetry.md, from the table in the code."""

from collections.abc import Iterator, Mapping
from typing import Any, Literal

from libs.runtime.instruments import COUNTERS, GAUGES, HISTOGRAMS, Instrument

Kind = Literal["counter", "gauge", "histogram"]
TABLES: Mapping[Kind, Mapping[Any, Instrument]] = {"counter": COUNTERS, "gauge": GAUGES, "histogram": HISTOGRAMS}
_BEGIN, _END = "<!-- metrics -->\n", "<!-- /metrics -->\n"
_HEAD = "| metric | kind | unit | labels | meaning |\n| --- | --- | --- | --- | --- |\n"


def prometheus_name(name: str, kind: Kind, unit: str) -> str:
    """The name as Prometheus shows it; a histogram's without `_bucket`, `_sum` or `_count`."""
    return name.replace(".", "_") + ("_seconds" if unit else "") + ("_total" if kind == "counter" else "")


def with_metrics(page: str) -> str:
    """The page with its table as the code has it."""
    before, _, rest = page.partition(_BEGIN)
    _, _, after = rest.partition(_END)
    rows = "".join(_row(kind, name, one) for kind, table in TABLES.items() for name, one in table.items())
    return before + _BEGIN + _HEAD + rows + _END + after


def _row(kind: Kind, name: str, one: Instrument) -> str:
    cells = (f"`{prometheus_name(name, kind, one.unit)}`", kind, one.unit, "; ".join(_labels(one)), one.meaning)
    return f"| {' | '.join(cells)} |\n"


def _labels(one: Instrument) -> Iterator[str]:
    for label, values in one.labels.items():
        yield f"`{label}`: " + (values if isinstance(values, str) else ", ".join(f"`{value}`" for value in values))
