"""Numbered migrations only add: the release before works on the schema of this one, and after it again (ADR 10)."""

import re
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
FILES = sorted((ROOT / "libs" / "runtime" / "sql").iterdir())

NAME = re.compile(r"(\d{4})_\w+\.sql")
CONTRACTION = re.compile(r"^-- contraction: unused since (\S+)$", re.MULTILINE)
UP = re.compile(r"^-- migrate:up.*?$(.*?)(?=^-- migrate:down|\Z)", re.MULTILINE | re.DOTALL)
COMMENT_OR_TEXT = re.compile(r"--[^\n]*|/\*.*?\*/|'(?:[^']|'')*'", re.DOTALL)
NEXT_ACTION = re.compile(r",\s*(?=(?:ADD|ALTER|DROP|SET|RENAME|VALIDATE|ENABLE|DISABLE|OWNER)\b)", re.IGNORECASE)
INDEX = re.compile(r"CREATE (?P<unique>UNIQUE )?INDEX (?P<beside>CONCURRENTLY )?.*?\bON (?:ONLY )?(?P<table>\w+)")
NEW_TABLE = re.compile(r"CREATE TABLE (?:IF NOT EXISTS )?(\w+)")

TABOO = {
    r"\bDROP (?!NOT NULL)": "takes away what the last release may use",
    r"\bRENAME\b": "takes away the name that the last release uses",
    r"\b(TRUNCATE|DELETE FROM)\b": "takes away rows",
    r"\bREVOKE\b": "takes away a right",
    r"\b(SET DATA TYPE|ALTER (COLUMN )?\w+ TYPE)\b": "changes a type under the last release, and rewrites the table",
    r"\bSET NOT NULL\b": "refuses what the last release may write",
    r"\bADD (CONSTRAINT|CHECK|UNIQUE|PRIMARY|FOREIGN|EXCLUDE)\b": "refuses what the last release may write",
    r"\bADD (COLUMN )?(?!CONSTRAINT\b)\w+ (?=.*\bNOT NULL\b)(?!.*\b(DEFAULT|GENERATED)\b)": "needs a default",
    r"\bCREATE (OR REPLACE|TRIGGER|RULE|CONSTRAINT TRIGGER)\b": "changes what the last release's statements do",
}


def objections(name: str, text: str, released: str) -> list[str]:
    """Why a migration may not be: `released` is the changelog, whose headings name the releases."""
    if NAME.fullmatch(name) is None:
        return [f"{name}: is not named NNNN_what.sql"]
    up = UP.search(text)
    if up is None:
        return [f"{name}: has no `-- migrate:up`"]
    if since := CONTRACTION.search(text):
        known = re.search(rf"^## \[?v?{re.escape(since[1])}\b", released, re.MULTILINE)
        return [] if known else [f"{name}: no release {since[1]} is in the changelog"]
    statements = [" ".join(one.split()) for one in COMMENT_OR_TEXT.sub(" ", up[1]).split(";")]
    return [f"{name}: {why}" for why in _found(statements)]


def _found(statements: list[str]) -> Iterator[str]:
    new = {table[1].lower() for one in statements if (table := NEW_TABLE.match(one.upper()))}
    for statement in statements:
        for action in NEXT_ACTION.split(statement):
            yield from (f"{why}: {action}" for taboo, why in TABOO.items() if re.search(taboo, action, re.IGNORECASE))
        index = INDEX.match(statement.upper())
        if index is not None and index["table"].lower() not in new:
            if index["unique"]:
                yield f"refuses what the last release may write: {statement}"
            if not index["beside"]:
                yield f"keeps writers waiting, CONCURRENTLY does not: {statement}"


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.name)
def test_migration_leaves_the_last_release_what_it_needs(file: Path) -> None:
    assert objections(file.name, file.read_text(), (ROOT / "CHANGELOG.md").read_text()) == []


def test_every_migration_has_a_number_of_its_own() -> None:
    assert max(Counter(file.name.partition("_")[0] for file in FILES).values()) == 1


@pytest.mark.parametrize(
    ("statement", "said"),
    [
        ("ALTER TABLE seen DROP COLUMN stream_version", "takes away what"),
        ("DROP VIEW event_log", "takes away what"),
        ("alter table lease alter column holder drop default", "takes away what"),
        ("ALTER TABLE seen RENAME COLUMN consumer TO reader", "takes away the name"),
        ("ALTER TABLE effect ALTER COLUMN attempts TYPE bigint", "changes a type"),
        ("ALTER TABLE effect ALTER kind\n  SET DATA TYPE varchar", "changes a type"),
        ("ALTER TABLE effect ALTER lease_until SET NOT NULL", "refuses"),
        ("ALTER TABLE effect ADD COLUMN tries int NOT NULL", "needs a default"),
        ("ALTER TABLE effect ADD a int NOT NULL DEFAULT 0, ADD b int NOT NULL", "needs a default: ADD b int NOT NULL"),
        ("ALTER TABLE effect ADD CONSTRAINT kind_known CHECK (kind <> '') NOT VALID", "refuses"),
        ("CREATE UNIQUE INDEX CONCURRENTLY one_key ON effect (key)", "refuses"),
        ("CREATE INDEX events_type ON events (event_type)", "keeps writers waiting"),
        ("CREATE TRIGGER told AFTER INSERT ON events EXECUTE FUNCTION tell()", "changes what"),
        ("CREATE OR REPLACE VIEW event_log AS SELECT 1", "changes what"),
        ("REVOKE SELECT ON events FROM app", "takes away a right"),
        ("DELETE FROM idempotency", "takes away rows"),
    ],
)
def test_change_that_the_last_release_would_not_bear_is_objected_to(statement: str, said: str) -> None:
    found = objections("0003_x.sql", f"-- migrate:up\n-- why\n{statement};\n-- migrate:down\n", "")
    assert len(found) == 1
    assert said in found[0]


@pytest.mark.parametrize(
    "statement",
    [
        "CREATE TABLE told (id bigint NOT NULL UNIQUE); CREATE UNIQUE INDEX told_id ON told (id)",
        "ALTER TABLE effect ADD COLUMN kept text, ADD COLUMN tries int NOT NULL DEFAULT 0",
        "ALTER TABLE effect ALTER COLUMN kind DROP NOT NULL",
        "CREATE INDEX CONCURRENTLY events_type ON events (event_type)",
        "CREATE VIEW told AS SELECT 'DROP TABLE events' AS told -- RENAME nothing",
    ],
)
def test_change_that_only_adds_passes(statement: str) -> None:
    assert objections("0003_x.sql", f"-- migrate:up\n{statement};\n-- migrate:down\nDROP TABLE told;\n", "") == []


@pytest.mark.parametrize(
    ("name", "text", "said"),
    [
        ("0003_x.sql", "-- migrate:up\n-- contraction: unused since 0.9.0\nDROP TABLE told;", "no release 0.9.0"),
        ("0003_x.sql", "-- migrate:up\n-- contraction: see above\nDROP TABLE told;", "takes away what"),
        ("0003_x.sql", "CREATE TABLE told (id int);", "no `-- migrate:up`"),
        ("three.sql", "-- migrate:up\n", "is not named"),
    ],
)
def test_file_that_does_not_say_what_it_is_is_objected_to(name: str, text: str, said: str) -> None:
    [found] = objections(name, text, "## 0.1.0\n")
    assert said in found


def test_what_a_release_has_stopped_using_may_go() -> None:
    text = "-- migrate:up\n-- contraction: unused since 0.2.0\nDROP TABLE told;\n"
    assert objections("0003_x.sql", text, "# Changelog\n\n## 0.2.0 (2026-12-01)\n") == []
