"""`oms park`: parked keys of running services, looked at and put right."""

import sys
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from oms.operate.doors import Door, door, doors
from oms.operate.telling import Json, failing, print_json

park_app = typer.Typer(
    no_args_is_help=True,
    rich_markup_mode="markdown",
)
console = Console(highlight=False)

Service = Annotated[str, typer.Argument(help="The service that parked it, as `oms park list` shows.")]
Topic = Annotated[str, typer.Argument(help="The topic that the record came from.")]
Key = Annotated[str, typer.Argument(help="The record's key, as `oms park list` shows it.")]
By = Annotated[str, typer.Option("--by", help="Who you are; recorded.")]
Reason = Annotated[str, typer.Option("--reason", help="Why you do it; recorded.")]
Url = Annotated[
    list[str] | None, typer.Option("--url", help="A service's address, repeatable; without it the local cluster's.")
]
Record = Annotated[
    str, typer.Option("--record", help="PARTITION/OFFSET of the record you looked at; refused if another is first.")
]


@park_app.callback()
def park() -> None:
    """Look at parked keys and put them right.

    A service parks the **key** of a record that it cannot handle: this record and every later one of the key wait in
    its database, in order; all other keys go on. The way back:

    1. `oms park list` says which keys wait and why, `oms park show` shows the records (personal data redacted).

    2. If our code was wrong, deploy the repair. If the record is wrong, `oms park fix` corrects the first one; if
    nothing is to come of it, `oms park skip` drops it. A missing version (`gap: …`) heals by itself when it arrives.

    3. `oms park release` handles what waits, in order.

    Every change asks who you are and why, and is recorded with what it took away: `oms park history`.
    """


@park_app.command("list")
def list_parked(url: Url = None, as_json: Json = False) -> None:
    """Every parked key of every service: why, since when, and how many records wait under it.

    Exits with 0 whether there are any or not.
    """
    with failing():
        found = [{"service": one.service, **key} for one in doors(url or []) for key in one.pages("/internal/parked")]
    if as_json:
        print_json(found)
        return
    if not found:
        console.print("Nothing is parked.")
        return
    table = _table("service", "topic", "key", "records", "since", "reason")
    for row in found:
        texts = (row["service"], row["topic"], row["key"], str(row["records"]), row["parked_at"][:19], row["reason"])
        table.add_row(*map(escape, texts))
    console.print(table)


@park_app.command()
def show(
    service: Service,
    topic: Topic,
    key: Key,
    limit: Annotated[int, typer.Option(min=1, max=200, help="How many records.")] = 5,
    url: Url = None,
    as_json: Json = False,
) -> None:
    """The records that wait under a key, in the order in which they will be handled.

    Every `pii` block is shown as "[redacted]". A value that is no JSON is not shown: nobody can tell where in it the
    personal data stands.
    """
    with failing():
        detail = _records(door(service, url or []), topic, key, limit)
    if as_json:
        print_json(detail)
        return
    for record in detail["records"]:
        place = f"{record['partition']}/{record['offset']}"
        stream = f"{record['stream_id']} version {record['stream_version']}" if record["stream_id"] else "no stream"
        console.print(f"[bold]{place}[/]  {escape(stream)}\n  [red]{escape(record['reason'])}[/]", soft_wrap=True)
        for name, text in record["headers"].items():
            console.print(f"  [dim]{escape(name)}:[/] {escape(text)}", soft_wrap=True)
        if record["value"] is None:
            console.print(f"  {record['value_bytes']} bytes that are no JSON")
        else:
            console.print_json(data=record["value"])
    rest = detail["waiting"] - len(detail["records"])
    console.print(f"{detail['waiting']} record(s) wait{f'; {rest} more than shown' if rest else ''}.")


@park_app.command()
def fix(
    service: Service,
    topic: Topic,
    key: Key,
    by: By,
    reason: Reason,
    value: Annotated[
        Path | None, typer.Option("--value", help="A file with the whole corrected value; - reads standard input.")
    ] = None,
    header: Annotated[list[str] | None, typer.Option("--header", help="NAME=VALUE to set, repeatable.")] = None,
    remove_header: Annotated[list[str] | None, typer.Option("--remove-header", help="NAME, repeatable.")] = None,
    record: Record = "",
    url: Url = None,
    as_json: Json = False,
) -> None:
    """Correct the first record under a key. It is handled only by the release that follows.

    What you do not name stays as it is. Write `"pii": "[redacted]"` as `show` prints it, and the personal data stays
    too. The correction must make the record readable, of the same key; the original is kept with your name and reason.
    """
    with failing():
        headers: dict[str, str | None] = dict.fromkeys(remove_header or [])
        for one in header or []:
            name, sign, text = one.partition("=")
            if not sign:
                raise typer.BadParameter(f"--header {one}: write NAME=VALUE")
            headers[name] = text
        if value is None and not headers:
            raise typer.BadParameter("give --value, --header or --remove-header")
        body: dict[str, Any] = {"headers": headers, **_word(topic, key, by, reason)}
        if value is not None:
            body["value"] = sys.stdin.read() if str(value) == "-" else value.read_text()
        one_door = door(service, url or [])
        done = one_door.post("/internal/parked/fix", {**body, **_place(one_door, topic, key, record)})
    _tell(as_json, done, f"Corrected {_where(done)}. 'oms park release' handles what waits.")


@park_app.command()
def skip(
    service: Service,
    topic: Topic,
    key: Key,
    by: By,
    reason: Reason,
    record: Record = "",
    url: Url = None,
    as_json: Json = False,
) -> None:
    """Drop the first record under a key for good: the service will never handle it.

    What it said is lost to this service; whatever should have followed is yours to see to. The record is kept with
    your name and reason. What waits behind it stays parked until the release that follows.
    """
    with failing():
        one_door = door(service, url or [])
        body = {**_word(topic, key, by, reason), **_place(one_door, topic, key, record)}
        done = one_door.post("/internal/parked/skip", body)
    rest = "Nothing waits behind it." if not done["waiting"] else f"{done['waiting']} wait: 'oms park release'."
    _tell(as_json, done, f"Dropped {_where(done)}. {rest}")


@park_app.command()
def release(
    service: Service, topic: Topic, key: Key, by: By, reason: Reason, url: Url = None, as_json: Json = False
) -> None:
    """Handle what waits under a key, in order, as far as it is sound. Repeating it is harmless.

    Exits with 0 when the key is free, with 1 when something stays, and says why.
    """
    total = {"released": 0, "waiting": 0, "stopped": ""}
    with failing():
        one_door = door(service, url or [])
        while True:
            done = one_door.post("/internal/parked/release", _word(topic, key, by, reason))
            total = {**done, "released": total["released"] + done["released"]}
            if not done["waiting"] or not done["released"]:
                break
    stays = f"; {total['waiting']} stay: {total['stopped']}" if total["waiting"] else "; the key is free"
    _tell(as_json, total, f"Released {total['released']} record(s){stays}.")
    if total["waiting"]:
        raise typer.Exit(1)


@park_app.command()
def history(
    limit: Annotated[int, typer.Option(min=1, max=200, help="How many of each service.")] = 20,
    url: Url = None,
    as_json: Json = False,
) -> None:
    """What was changed by hand, by whom and why: parked keys, positions, republished topics; the latest first."""
    with failing():
        found = [
            {"service": one.service, **action}
            for one in doors(url or [])
            for action in one.get("/internal/actions", limit=limit)
        ]
    found.sort(key=lambda action: action["at"], reverse=True)
    if as_json:
        print_json(found)
        return
    table = _table("at", "service", "action", "topic", "key", "by", "reason")
    for row in found:
        texts = (row["at"][:19], row["service"], row["action"], row["topic"], row["key"], row["by"], row["reason"])
        table.add_row(*(escape(text or "-") for text in texts))
    console.print(table if found else "Nothing was changed by hand.")


def _table(*names: str) -> Table:
    """Long keys are folded, not cut: they are copied from here."""
    table = Table()
    for name in names:
        table.add_column(name, overflow="fold")
    return table


def _records(one: Door, topic: str, key: str, limit: int) -> Any:
    return one.get("/internal/parked/records", topic=topic, key=key, limit=limit)


def _word(topic: str, key: str, by: str, reason: str) -> dict[str, Any]:
    return {"topic": topic, "key": key, "by": by, "reason": reason}


def _place(one: Door, topic: str, key: str, record: str) -> dict[str, int]:
    """The record that the change is for: the one named, or the one that is first now."""
    if record:
        partition, _, offset = record.partition("/")
        if not (partition.isdigit() and offset.isdigit()):
            raise typer.BadParameter(f"--record {record}: write PARTITION/OFFSET")
        return {"partition": int(partition), "offset": int(offset)}
    first = _records(one, topic, key, 1)["records"][0]
    return {"partition": first["partition"], "offset": first["offset"]}


def _where(done: dict[str, Any]) -> str:
    stream = f" ({done['stream_id']} version {done['stream_version']})" if done["stream_id"] else ""
    return f"{done['partition']}/{done['offset']}{stream}"


def _tell(as_json: bool, done: dict[str, Any], words: str) -> None:
    if as_json:
        print_json(done)
    else:
        console.print(words, markup=False, soft_wrap=True)
