"""House rules that the import rules do not see. Each was broken once to see it caught (test at the end)."""

from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PACKAGES = ("libs", "services", "simulators", "oms")
MUST_HAVE = {"__init__", "__main__", "api", "service", "views"}
MAY_HAVE = MUST_HAVE | {"domain", "policy", "effects", "gateway"}
LONGEST = 560
"""Lines of a module. The longest are the store and the handler; split a file before it gets here."""


def problems(root: Path) -> list[str]:
    return [*_bad_inits(root), *_bad_services(root), *_long_modules(root)]


def _modules(root: Path) -> list[Path]:
    return [path for package in PACKAGES for path in (root / package).rglob("*.py")]


def _bad_inits(root: Path) -> list[str]:
    folders = {path.parent for path in _modules(root)}
    missing = [f"{folder}: no __init__.py" for folder in folders if not (folder / "__init__.py").exists()]
    return missing + [
        f"{path}: must be empty" for path in _modules(root) if path.name == "__init__.py" and path.read_text().strip()
    ]


def _bad_services(root: Path) -> list[str]:
    out = []
    for folder in sorted((root / "services").iterdir()):
        if not folder.is_dir() or folder.name == "__pycache__":
            continue
        names = {path.stem for path in folder.iterdir() if path.name != "__pycache__"}
        out += [f"{folder.name}: lacks {name}" for name in sorted(MUST_HAVE - names)]
        out += [f"{folder.name}: {name} is no name of the shape" for name in sorted(names - MAY_HAVE)]
        if ("domain" in names) is not ("policy" in names):
            out.append(f"{folder.name}: domain and policy come together")
    return out


def _long_modules(root: Path) -> list[str]:
    lengths = {path: len(path.read_text().splitlines()) for path in _modules(root)}
    return [f"{path}: {length} lines" for path, length in lengths.items() if length > LONGEST]


def test_tree_has_the_shape_that_readers_expect() -> None:
    assert problems(ROOT) == []


@pytest.mark.parametrize(
    ("path", "text", "said"),
    [
        ("services/order/__init__.py", "import os\n", "must be empty"),
        ("services/order/helpers.py", "", "helpers is no name of the shape"),
        ("services/returns/service.py", "", "returns: lacks api"),
        ("services/order/domain.py", "x = 1\n" * 600, "600 lines"),
    ],
)
def test_broken_shape_is_seen(tmp_path: Path, path: str, text: str, said: str) -> None:
    for package in PACKAGES:
        (tmp_path / package).mkdir()
    broken = tmp_path / path
    broken.parent.mkdir(parents=True)
    broken.write_text(text)
    assert any(said in problem for problem in problems(tmp_path))
