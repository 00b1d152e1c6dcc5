"""The rows of a view's table: the document and its versions as bytes, the indexed fields as columns beside (ADR 9)."""

from collections.abc import Sequence
from functools import cache
from typing import Any

import orjson

from libs.runtime.storage import ViewChange, ViewRow


async def write_rows(connection: Any, table: str, changes: Sequence[ViewChange], *, update: bool) -> None:
    """Updates or inserts the rows of a view's table, in one statement."""
    written = [(change, change.row) for change in changes if change.row is not None]
    if not written:
        return
    columns = tuple(written[0][0].columns)
    await connection.execute(
        _update_rows(table, columns) if update else _insert_rows(table, columns),
        [change.key for change, _ in written],
        [row.data for _, row in written],
        [orjson.dumps(dict(row.versions)) for _, row in written],
        *([change.columns[column] for change, _ in written] for column in columns),
    )


def view_row(row: Any, table_id: int = 0) -> ViewRow:
    return ViewRow(row["data"], orjson.loads(row["versions"]), table_id)


def _view_rows(columns: Sequence[str]) -> str:
    arrays = ", ".join(
        ["$1::text[]", "$2::bytea[]", "$3::bytea[]", *(f"${n + 4}::text[]" for n in range(len(columns)))]
    )
    return f"unnest({arrays}) AS r({_named(columns)})"


def _named(columns: Sequence[str]) -> str:
    return ", ".join(["key", "data", "versions", *columns])


@cache
def _update_rows(table: str, columns: tuple[str, ...]) -> str:
    changed = ", ".join(f"{name} = r.{name}" for name in ("data", "versions", *columns))
    return f"UPDATE {table} v SET {changed} FROM {_view_rows(columns)} WHERE v.key = r.key"


@cache
def _insert_rows(table: str, columns: tuple[str, ...]) -> str:
    return f"INSERT INTO {table} ({_named(columns)}) SELECT {_named(columns)} FROM {_view_rows(columns)}"
