"""`oms keys`: API keys made, listed and revoked in the file that the services read."""

from pathlib import Path
from typing import Annotated

import typer
from pydantic import ValidationError
from rich.console import Console
from rich.table import Table

from libs.runtime.keys import SCOPES, Key, KeysUnreadable, Scope, new_key, read_keys, write_keys
from oms.operate.telling import Json, failing, print_json

keys_app = typer.Typer(no_args_is_help=True, rich_markup_mode="markdown")
console = Console(highlight=False)
errors = Console(stderr=True, highlight=False)

File = Annotated[
    Path, typer.Option("--file", envvar="OMS_API_KEYS_FILE", help="The services' file of keys; hashes only.")
]


@keys_app.callback()
def keys() -> None:
    """API keys: who may use the services' HTTP, and for what.

    The file holds hashes: give it to every service (`OMS_API_KEYS_FILE`); they read it anew within a second of a
    change. A key itself is shown once, when it is made.

    To replace a key without a gap: `create` another for the same client, let the client use it, `revoke` the old one.
    """


@keys_app.command()
def create(
    client: Annotated[str, typer.Argument(help="Whose key it is; what its actions are recorded as.")],
    scope: Annotated[list[str], typer.Option("--scope", help=f"{', '.join(SCOPES)}; repeatable.")],
    file: File,
    as_json: Json = False,
) -> None:
    """Make a key and show it, this once.

    - **channel** places and cancels orders, names payment methods, and sees orders and availability;

    - **operator** settles things by hand, changes stock and the network, and sees everything;

    - **reader** sees everything but what only operators see.
    """
    with failing():
        known = _known(file) if file.exists() else []
        try:
            key, text = new_key(client, _scopes(scope))
        except ValidationError as error:
            raise typer.BadParameter("; ".join(f"{one['loc'][0]}: {one['msg']}" for one in error.errors())) from None
        write_keys(file, [*known, key])
    if as_json:
        print_json({**_shown(key), "key": text})
    else:
        errors.print(f"Key {key.id} of {client} may: {', '.join(sorted(key.scopes))}. It is not shown again.")
        typer.echo(text)


@keys_app.command("list")
def list_keys(file: File, as_json: Json = False) -> None:
    """Every key that is valid: its id, client, scopes and age. Never the key."""
    with failing():
        found = [_shown(key) for key in sorted(_known(file), key=lambda key: (key.client, key.created_at))]
    if as_json:
        print_json(found)
        return
    table = Table("id", "client", "scopes", "created")
    for row in found:
        table.add_row(str(row["id"]), str(row["client"]), ", ".join(row["scopes"]), str(row["created_at"]))
    console.print(table if found else "There are no keys.")


@keys_app.command()
def revoke(
    key_id: Annotated[str, typer.Argument(metavar="ID", help="As `oms keys list` shows it.")], file: File
) -> None:
    """Make a key worthless. Services notice within a second of their file's change."""
    with failing():
        known = _known(file)
        left = [key for key in known if key.id != key_id]
        if len(left) == len(known):
            raise typer.BadParameter(f"there is no key {key_id}")
        write_keys(file, left)
    errors.print(f"Key {key_id} is revoked; {len(left)} stay.")


def _known(file: Path) -> list[Key]:
    try:
        return list(read_keys(file))
    except KeysUnreadable as error:
        raise OSError(str(error)) from None


def _scopes(named: list[str]) -> list[Scope]:
    for one in named:
        if one not in SCOPES:
            raise typer.BadParameter(f"--scope {one}: there are {', '.join(SCOPES)}")
    return [one for one in SCOPES if one in named]


def _shown(key: Key) -> dict[str, str | list[str]]:
    return {
        "id": key.id,
        "client": key.client,
        "scopes": sorted(key.scopes),
        "created_at": key.created_at.isoformat(),
    }
