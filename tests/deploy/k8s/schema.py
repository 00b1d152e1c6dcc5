"""Is each object one that its API knows? Kubernetes' own kinds by its schemas, operators' kinds by fields.yaml."""

import json
from collections.abc import Iterator
from functools import cache
from importlib.resources import files
from pathlib import Path
from typing import Any

import jsonschema_rs
import yaml

from tests.deploy.k8s.manifests import Manifest, Objects, title

KUBERNETES = "v1.34.0"
"""The oldest that we say we run on: `preStop.sleep` is stable there."""
TYPES = {"str": str, "int": int, "bool": bool, "any": object}
FIELDS: dict[str, Any] = yaml.safe_load((Path(__file__).parent / "fields.yaml").read_text())


def problems(found: Objects) -> Iterator[str]:
    for one in found:
        yield from (f"{title(one)}: {said}" for said in _of(one))


def _of(one: Manifest) -> Iterator[str]:
    kind = f"{one['apiVersion']} {one['kind']}"
    if kind in FIELDS:
        yield from unknown(FIELDS[kind], one.get("spec"), "spec")
        return
    validator = _validator(one["kind"], one["apiVersion"])
    if validator is None:
        yield f"{kind} is known to nobody"
        return
    for error in validator.iter_errors(one):
        yield f"{'.'.join(map(str, error.instance_path))}: {error.message}"


@cache
def _validator(kind: str, api_version: str) -> Any:
    """By the strict schemas in the package kubernetes-validate; its own code reads all of them anew for each object."""
    group, _, version = api_version.rpartition("/")
    name = "-".join(part for part in (kind.lower(), group.split(".")[0], version) if part)
    folder = files("kubernetes_validate") / "kubernetes-json-schema" / f"{KUBERNETES}-local-strict"
    if not (folder / f"{name}.json").is_file():
        return None
    schema, definitions = ((folder / f"{each}.json").read_text() for each in (name, "_definitions"))
    whole = {**json.loads(schema.replace("/api/_definitions.json#", "#")), "$defs": json.loads(definitions)["$defs"]}
    whole.pop("$id", None)
    return jsonschema_rs.Draft202012Validator(whole)


def unknown(shape: Any, value: Any, path: str) -> Iterator[str]:
    """Where a value is not as its shape in fields.yaml says."""
    if isinstance(shape, str):
        if not isinstance(value, TYPES[shape]) or (shape == "int" and isinstance(value, bool)):
            yield f"{path} is no {shape}"
    elif isinstance(shape, list):
        if not isinstance(value, list):
            yield f"{path} is no list"
            return
        for number, each in enumerate(value):
            yield from unknown(shape[0], each, f"{path}[{number}]")
    elif not isinstance(value, dict):
        yield f"{path} is no object"
    else:
        yield from _unknown_fields(shape, value, path)


def _unknown_fields(shape: dict[str, Any], value: dict[str, Any], path: str) -> Iterator[str]:
    known = {name.removesuffix("!"): each for name, each in shape.items()}
    yield from (f"{path} lacks {name[:-1]}" for name in shape if name.endswith("!") and name[:-1] not in value)
    for name, each in value.items():
        if name not in known and "*" not in known:
            yield f"{path}.{name} is no field"
        else:
            yield from unknown(known.get(name, known.get("*")), each, f"{path}.{name}")
