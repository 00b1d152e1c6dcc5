"""Golden files: a schema and an example of every version of every event ever published, docs/events.md and the table of
metrics in docs/telemetry.md.

`python -m libs.testing.golden` writes what today's classes say. It refuses to change a schema under the same version in
a way that an older reader or older bytes would not bear: that needs a new `schema_version` and an upcaster.
"""

import json
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from jsoncompat import check_compat

from libs.events.base import Event
from libs.events.codec import EVENT_CLASSES, encode, event_type, schema_of
from libs.testing.event_docs import events_page
from libs.testing.examples import example
from libs.testing.metric_docs import with_metrics

ROOT = Path(__file__).parents[2]
SCHEMAS = ROOT / "libs/events/schemas"
EXAMPLES = ROOT / "libs/events/examples"
PAGE = ROOT / "docs/events.md"
METRICS = ROOT / "docs/telemetry.md"

Schema = dict[str, Any]


@dataclass(frozen=True, order=True)
class Golden:
    """One version of one event; its two files bear this name."""

    event_type: str
    version: int

    @property
    def schema(self) -> Path:
        return SCHEMAS / f"{self}.json"

    @property
    def example(self) -> Path:
        return EXAMPLES / f"{self}.json"

    def __str__(self) -> str:
        return f"{self.event_type}.v{self.version}"


def golden_of(cls: type[Event]) -> Golden:
    return Golden(event_type(cls), cls.schema_version)


def on_disk(folder: Path) -> list[Golden]:
    names = sorted(path.stem.rpartition(".v") for path in folder.glob("*.json"))
    return [Golden(name, int(version)) for name, _, version in names]


def schema_text(cls: type[Event]) -> str:
    return json.dumps(schema_of(cls), indent=2, ensure_ascii=False) + "\n"


def wanted() -> Mapping[Path, bytes]:
    """Every generated file as today's classes want it. Files of former versions are not among them: they stay."""
    files = {PAGE: events_page().encode(), METRICS: with_metrics(METRICS.read_text()).encode()}
    for cls in EVENT_CLASSES.values():
        golden = golden_of(cls)
        files[golden.schema] = schema_text(cls).encode()
        files[golden.example] = encode(example(cls))
    return files


def faults(old: Schema, new: Schema) -> list[str]:
    """Why a schema may not change like this under the same version; nothing if it may.

    Ours ignore unknown fields, so they are compared by what is written: the fields that the schema names, and no more.
    A channel's schema refuses unknown fields: there the reader must be deployed before the writer, so only old bytes
    under new code count.
    """
    found = []
    if not _compatible(_closed(old), new, "deserializer"):
        found.append("today's code would not read what has been published")
    if _is_open(old) and not _compatible(old, _closed(new), "serializer"):
        found.append("the release before would not read what today's code publishes")
    return found


def _compatible(old: Schema, new: Schema, role: Literal["serializer", "deserializer"]) -> bool:
    return check_compat(json.dumps(old), json.dumps(new), role)


def _is_open(schema: Schema) -> bool:
    return schema.get("additionalProperties", True) is not False


def _closed(schema: Any) -> Any:
    """The schema of what is written: an object has the fields it names, and no others."""
    if isinstance(schema, list):
        return [_closed(part) for part in schema]
    if not isinstance(schema, dict):
        return schema
    closed = {name: _closed(part) for name, part in schema.items()}
    if schema.get("type") == "object" and isinstance(schema.get("properties"), dict):
        closed.setdefault("additionalProperties", False)
    return closed


def breaking() -> Iterator[str]:
    for cls in EVENT_CLASSES.values():
        path = golden_of(cls).schema
        if path.exists():
            yield from (f"{golden_of(cls)}: {fault}" for fault in faults(json.loads(path.read_text()), schema_of(cls)))


def write(*, unpublished: bool) -> int:
    """Writes what is not as wanted; `unpublished` says that no release has published these versions yet."""
    if not unpublished and (refused := list(breaking())):
        print(*refused, sep="\n", file=sys.stderr)
        print("Raise schema_version and write an upcaster, or say --unpublished.", file=sys.stderr)
        return 1
    for path, content in wanted().items():
        if not path.exists() or path.read_bytes() != content:
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(content)
            print(f"wrote {path.relative_to(ROOT)}")
    return 0


if __name__ == "__main__":
    sys.exit(write(unpublished="--unpublished" in sys.argv[1:]))
