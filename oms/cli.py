"""The `oms` command: the whole system on one machine."""

import asyncio
import json
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any, NoReturn, Self

import typer
from pydantic import ValidationError
from rich.console import Console
from rich.status import Status
from rich.table import Table

from libs.runtime.garbage import tune_garbage_collector
from oms.cluster import control
from oms.cluster.health import cluster_status
from oms.cluster.process import ClusterError
from oms.cluster.settings import ClusterSettings
from oms.cluster.state import StateDirectory
from oms.demo.day import NoData
from oms.demo.run import Options, run
from oms.operate import prepare
from oms.operate import republish as again
from oms.operate import verify as verifying
from oms.operate.doctor import access, doctor
from oms.operate.doors import doors, state_of_cluster
from oms.operate.keys import keys_app
from oms.operate.park import By, Reason, Url, park_app
from oms.operate.telling import Json, failing, print_json

app = typer.Typer(
    no_args_is_help=True,
    rich_markup_mode="markdown",
    pretty_exceptions_enable=False,
    help="Orderloom on this machine: a real Kafka and PostgreSQL, the five services and the simulators, as processes.",
)
app.add_typer(park_app, name="park")
app.add_typer(keys_app, name="keys")
app.command()(access)
app.command()(doctor)
console = Console(highlight=False)
errors = Console(stderr=True, highlight=False)

HEALTH_STYLE = {"ready": "green", "not ready": "yellow", "down": "red"}


@app.callback()
def oms() -> None:
    """Orderloom on this machine: a real Kafka and PostgreSQL, the five services and the simulators, as processes."""


@app.command()
def up(
    detach: Annotated[bool, typer.Option("--detach", "-d", help="Return when everything is ready.")] = False,
    infra: Annotated[
        bool, typer.Option("--infra", help="Only Kafka and PostgreSQL, with topics and databases.")
    ] = False,
    fresh: Annotated[bool, typer.Option("--fresh", help="Delete the data of earlier runs first.")] = False,
) -> None:
    """Start the cluster and keep it up until Ctrl-C.

    Needs no Docker, no Java and no root. Kafka's jars are fetched the first time (45 MB; OMS_MAVEN_MIRROR names
    another Maven repository). Everything listens on 127.0.0.1, on free ports that are printed. Data and logs are in
    OMS_STATE_DIR, by default ~/.local/state/orderloom (as root: /var/lib/orderloom), and are kept between runs.

    A cluster that already runs there is found, not started twice. OMS_KAFKA_BOOTSTRAP, or OMS_POSTGRES_HOST with
    _PORT, _USER and _PASSWORD, name outside servers to use instead.
    """
    settings = _settings()
    directory = StateDirectory(settings.state_dir)
    with Progress() as progress:
        if not detach:
            progress.on_ready = lambda: _tell_ready(directory, "Ctrl-C stops it.")
        try:
            found = control.up(settings, progress.report, infra=infra, fresh=fresh, detach=detach)
        except (ClusterError, OSError) as error:
            progress.stop()
            _fail(error)
    if found:
        console.print(f"Already running (pid {found.supervisor.pid}); 'oms down' ends it.")
        _print_status(directory)
    elif detach:
        _tell_ready(directory, "'oms status' shows it, 'oms down' ends it.")


@app.command()
def down(
    purge: Annotated[bool, typer.Option("--purge", help="Delete its data and logs too.")] = False,
) -> None:
    """Stop the cluster and wait until all of it has ended: services first, the servers last. The data stays."""
    directory = StateDirectory(_settings().state_dir)
    try:
        with errors.status("Stopping the cluster"):
            was_running = control.end(directory)
            if purge and directory.path.exists():
                directory.purge(everything=True)
    except (ClusterError, OSError) as error:
        _fail(error)
    console.print("Stopped." if was_running else "No cluster was running.", "Its data is deleted." if purge else "")


@app.command()
def status(
    as_json: Json = False,
) -> None:
    """Show every part: its process, address, health, and how far a service lags behind its topics.

    Exits with 0 if the cluster is up and every part is ready, with 1 if not.
    """
    try:
        healthy = _print_status(StateDirectory(_settings().state_dir), as_json=as_json)
    except (ClusterError, OSError) as error:
        _fail(error)
    if not healthy:
        raise typer.Exit(1)


@app.command()
def demo(
    orders: Annotated[int | None, typer.Option(min=1, help="Only the first so many orders of the day.")] = None,
    pace: Annotated[float, typer.Option(min=1, help="Messages a second.")] = 50.0,
    seed: Annotated[int, typer.Option(help="The same seed, the same declines, short orders and cancellations.")] = 1,
    json_path: Annotated[Path, typer.Option("--json", help="Where the summary is written.")] = Path("build/demo.json"),
    keep: Annotated[bool, typer.Option("--keep", help="Leave everything running until Ctrl-C.")] = False,
) -> None:
    """Play a real day of orders through a cluster of its own, and check the books.

    Publishes 2017-12-24 of the Complete Journey data set: stores as locations, three channels, about one order in
    twenty without stock; some payments are declined or time out, some customers cancel, some orders are sent twice or
    are none. Exits with 0 only if the books balance. Leaves no process and no data behind.
    """
    options = Options(orders=orders, pace=pace, seed=seed, json_path=json_path, keep=keep)
    with Progress() as progress:
        try:
            balanced = run(options, _settings(), console, progress.report)
        except (ClusterError, NoData, OSError) as error:
            progress.stop()
            _fail(error)
        except KeyboardInterrupt:
            raise typer.Exit(130) from None
    if not balanced:
        raise typer.Exit(1)


@app.command()
def republish(
    topic: Annotated[str, typer.Argument(help="The topic that was lost, such as oms.payment.events.")],
    by: By,
    reason: Reason,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only say what would be done.")] = False,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")] = False,
    url: Url = None,
    kafka: Annotated[str, typer.Option("--kafka", help="Kafka's address; without it the local cluster's.")] = "",
    as_json: Json = False,
) -> None:
    """Make a topic anew that was deleted, lost or damaged on Kafka, from its owner's event store.

    Deletes what is left of the topic. Its owner publishes every event once more, in order; every service that reads
    it begins at its beginning and drops what it has heard, so nothing happens twice. Services go on meanwhile; only
    what follows from this topic waits, for about half a minute. A command that failed half way is given again.
    """
    with failing():
        plan = again.plan(topic, doors(url or []), kafka or state_of_cluster().kafka_bootstrap)
        errors.print(str(plan), markup=False, soft_wrap=True)
        if dry_run:
            errors.print("Nothing was done (--dry-run).")
            return
        if not yes:
            typer.confirm("Do it?", abort=True, err=True)
        done = again.republish(plan, by, reason, _step)
        again.wait_until_heard(plan, _step)
    if as_json:
        print_json(done)
    else:
        console.print(
            f"{topic} is whole again: {done['events']} events published once more, "
            f"heard by {', '.join(done['readers'])}. 'oms verify' proves it.",
            soft_wrap=True,
        )


@app.command()
def verify(
    wait: Annotated[float, typer.Option(min=0, help="Seconds that the system may take to come to rest.")] = 15.0,
    all_ended: Annotated[
        bool, typer.Option("--all-ended", help="An order that is still open is a fault, too.")
    ] = False,
    dsn: Annotated[
        list[str] | None,
        typer.Option(
            "--dsn",
            envvar="OMS_VERIFY_DSNS",
            help="SERVICE=DSN of a role that may read its tables, repeatable; better in the variable than in view.",
        ),
    ] = None,
    kafka: Annotated[str, typer.Option("--kafka", help="Kafka's address.")] = "",
    psp: Annotated[str, typer.Option("--psp", help="The address of the PSP and its ledger.")] = "",
    as_json: Json = False,
) -> None:
    """Check a running system, and name the order and the reason of whatever is wrong. Only reads.

    - nothing is parked;

    - the books of stock and money, and the PSP's own ledger, for every order that has ended;

    - every event store against its topics: whole, in order, byte by byte;

    - every view against its log, folded anew.

    Without options it looks at the local cluster. Exits with 0 if all is sound, with 1 if not.
    """
    with failing():
        what = verifying.asked(dsn or [], kafka, psp, wait, all_ended)
        tune_garbage_collector()
        findings = verifying.run(what, console, errors, quiet=as_json)
    told = verifying.as_data(findings)
    if as_json:
        print_json(told)
    else:
        console.print("[green]All is sound.[/]" if told["sound"] else "[red]Not all is sound.[/]")
    if not told["sound"]:
        raise typer.Exit(1)


app.command()(prepare.topics)
app.command()(prepare.databases)


def _step(words: str) -> None:
    errors.print(f"  {words}", markup=False, soft_wrap=True)


class Progress:
    """Prints one line for each step that is done, and what is being waited for."""

    def __init__(self) -> None:
        self._status: Status = errors.status("Starting")
        self._waiting: dict[str, str] = {}
        self._lock = threading.Lock()
        self.on_ready: Callable[[], None] = lambda: None

    def __enter__(self) -> Self:
        self._status.start()
        return self

    def __exit__(self, *unused: object) -> None:
        self.stop()

    def stop(self) -> None:
        self._status.stop()

    def report(self, event: str, **fields: Any) -> None:
        with self._lock:
            self._report(event, fields)

    def _report(self, event: str, fields: dict[str, Any]) -> None:
        match event:
            case "cluster.starting":
                self._waiting[fields["step"]] = fields["step"]
            case "cluster.fetched":
                if not fields["done"]:
                    console.print(f"  Fetching {fields['total']} jars of Apache Kafka, once")
                self._waiting["jars"] = f"jars {fields['done']}/{fields['total']}"
            case "cluster.started":
                self._waiting.pop(fields["step"], None)
                address = f"  {fields['address']}" if "address" in fields else ""
                console.print(f"  [green]✓[/] {fields['step']:<11}{fields['seconds']:>6.1f} s{address}")
            case "cluster.ready":
                self.stop()
                self.on_ready()
            case "cluster.stopping":
                self._waiting.clear()
                console.print("Stopping")
            case "cluster.child_died":
                console.print(
                    f"[yellow]{fields['name']} ended with code {fields['exit_code']}; "
                    f"restarting in {fields['restart_in']} s[/]"
                )
            case "cluster.child_restarted":
                console.print(f"[yellow]{fields['name']} restarted, pid {fields['pid']}[/]")
        self._status.update("Starting " + ", ".join(self._waiting.values()))


def _tell_ready(directory: StateDirectory, hint: str) -> None:
    _print_status(directory)
    console.print(f"Logs and data: {directory.path}\n{hint}", soft_wrap=True)


def _print_status(directory: StateDirectory, *, as_json: bool = False) -> bool:
    data = asyncio.run(cluster_status(directory.read()))
    data["state_dir"] = str(directory.path)
    parts = {"kafka": data["kafka"], "postgres": data["postgres"], **data["services"], **data["simulators"]}
    healthy = data["running"] and all(part and part["health"] == "ready" for part in parts.values())
    if as_json:
        typer.echo(json.dumps(data, indent=2))
    elif data["phase"] == "absent":
        console.print("No cluster was ever started here. 'oms up' starts one.")
    else:
        table = Table(
            "name", "pid", "address", "health", "lag", title=f"cluster: {data['phase']}", title_justify="left"
        )
        for name, part in parts.items():
            pid = "outside" if part.get("external") else str(part["pid"] or "-")
            health = f"[{HEALTH_STYLE[part['health']]}]{part['health']}[/]"
            restarts = f" ({part['restarts']} restarts)" if part["restarts"] else ""
            lag = ", ".join(f"{key} {value}" for key, value in (part.get("lag") or {}).items())
            table.add_row(name, pid, part["address"], health + restarts, lag or "-")
        console.print(table)
        if data.get("error"):
            console.print(data["error"], style="red", markup=False, soft_wrap=True)
    return healthy


def _settings() -> ClusterSettings:
    try:
        return ClusterSettings()
    except ValidationError as error:
        wrong = (f"OMS_{'_'.join(map(str, one['loc'])).upper()}: {one['msg']}" for one in error.errors())
        _fail(ClusterError("\n".join(wrong)))


def _fail(error: Exception) -> NoReturn:
    errors.print(str(error), style="red", markup=False, soft_wrap=True)
    raise typer.Exit(1)


if __name__ == "__main__":
    app()
