"""`python -m services.<name> api|worker|migrate|describe`: one image, one command, every role."""

import asyncio
import os
import sys
from collections.abc import Callable
from typing import Annotated, Any, NoReturn

import typer
from pydantic import ValidationError
from rich import progress

from libs.runtime import telemetry
from libs.runtime.configuration import check_links
from libs.runtime.errors import NewerRelease
from libs.runtime.garbage import tune_garbage_collector
from libs.runtime.migrate import MigrationFailed, migrate
from libs.runtime.preflight import Refused, unsafe
from libs.runtime.rebuild import RebuildRefused, rebuild
from libs.runtime.service import Service
from libs.runtime.settings import Settings
from libs.runtime.worker import Process

Build = Callable[[Settings], Service[Any]]

ROLES = ("api", "worker", "migrate", "describe", "rebuild")


def main(name: str, build: Build) -> None:
    """Runs the command line of one service. `build` makes its record from the settings."""

    def command(
        roles: Annotated[
            list[str],
            typer.Argument(
                help="`api` serves HTTP; `worker` consumes, relays, calls and wakes; both may share a process. "
                "`migrate` brings the database to this release and ends. `describe` prints what the service consumes, "
                "publishes and serves. `rebuild VIEW …` rebuilds views from the log while reads go on."
            ),
        ],
    ) -> None:
        views = roles[1:] if roles[0] == "rebuild" else []
        roles = roles[: len(roles) - len(views)]
        unknown = [role for role in roles if role not in ROLES]
        if unknown:
            raise typer.BadParameter(f"{', '.join(unknown)}: choose from {', '.join(ROLES)}")
        try:
            settings = Settings()
            service = build(settings)
        except ValidationError as error:
            _refuse(name, _misconfigured(error))
        _run(name, service, settings, frozenset(roles), views)

    typer.run(command)


def _refuse(name: str, why: str) -> NoReturn:
    """Exit code 2: a process that would not run otherwise when started again."""
    typer.echo(f"{name} does not start:\n{why}", err=True)
    sys.exit(2)


def _misconfigured(error: ValidationError) -> str:
    """Without the values, which may be secrets."""
    return "\n".join(
        f"  setting {'.'.join(str(part) for part in fault['loc']).upper()}: {fault['msg']}" for fault in error.errors()
    )


def _run(name: str, service: Service[Any], settings: Settings, roles: frozenset[str], views: list[str]) -> None:
    exporter = None
    if settings.otlp_endpoint or os.environ.get("OTEL_EXPORTER_OTLP_ENDPOINT"):
        from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter

        ours = f"{settings.otlp_endpoint.rstrip('/')}/v1/traces" if settings.otlp_endpoint else None
        exporter = OTLPSpanExporter(endpoint=ours)  # None: where OpenTelemetry's own variables say
    telemetry.configure(
        f"oms-{name}", log_level=settings.log_level, trace_ratio=settings.trace_ratio, exporter=exporter
    )
    if "describe" in roles:
        typer.echo(describe(service))
        return
    if roles & {"migrate", "rebuild"} and (refused := unsafe(check_links(settings), settings.allow_unsafe)):
        _refuse(name, str(Refused(refused)))
    if "migrate" in roles:
        try:
            asyncio.run(migrate(service, settings))
        except MigrationFailed as error:
            typer.echo(f"migration failed: {error}", err=True)
            sys.exit(1)
        return
    if "rebuild" in roles:
        tune_garbage_collector()
        for view in views or [projection.name for projection in service.projections]:
            _rebuild(service, settings, view)
        return
    try:
        _serve(Process(service, settings, roles))
    except Refused as refused:
        _refuse(name, str(refused))


def _serve(process: Process) -> None:
    if sys.platform != "win32":
        import uvloop

        uvloop.run(process.run())
    else:
        asyncio.run(process.run())


def _rebuild(service: Service[Any], settings: Settings, view: str) -> None:
    """Rebuilds a view with progress and an estimate of the time left."""
    with progress.Progress(*progress.Progress.get_default_columns(), progress.MofNCompleteColumn()) as bar:
        task = bar.add_task(view, total=None)
        try:
            done = asyncio.run(
                rebuild(service, settings, view, lambda at, of: bar.update(task, completed=at, total=of))
            )
        except (RebuildRefused, NewerRelease) as error:
            typer.echo(f"refused: {error}", err=True)
            sys.exit(1)
    typer.echo(f"{view}: {done.rows} rows from {done.events} events; {done.differing} were not as the log says")


def describe(service: Service[Any]) -> str:
    """What a service consumes, publishes and serves, from its own record."""
    lines = [f"service   {service.name}"]
    lines += [f"consumes  {topic.name}" for topic in service.subscribes]
    lines += [f"reacts to {name}" for name in sorted(cls.__name__ for cls in service.wants)]
    if service.decider is not None:
        lines += [f"writes    {aggregate.category}-…" for aggregate in service.decider.aggregates]
    lines += [f"projects  {projection.name}" for projection in service.projections]
    if service.router is not None:
        for route in service.router.routes:
            methods = ",".join(sorted(getattr(route, "methods", None) or []))
            lines.append(f"serves    {methods} {getattr(route, 'path', '')}")
    return "\n".join(lines)
