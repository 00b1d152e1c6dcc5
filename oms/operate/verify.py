"""`oms verify`: checks a running system and names whatever is wrong."""

import asyncio
from collections.abc import Sequence
from typing import Any

from rich.console import Console

from oms.audit.evidence import WRITING, Sources
from oms.audit.finding import Finding
from oms.audit.verify import Asked, verify
from oms.operate.doors import DoorError, state_of_cluster

SERVICES = (*WRITING, "tracking")
SHOWN = 10


def asked(dsns: Sequence[str], kafka: str, psp: str, wait: float, all_ended: bool) -> Asked:
    """Where to look: at what is named, or at the local cluster. Raises DoorError."""
    named = dict(one.split("=", 1) for one in dsns if "=" in one)
    if not dsns:
        state = state_of_cluster()
        named = {name: service.dsn["owner"] for name, service in state.services.items() if service.dsn}
        kafka = kafka or state.kafka_bootstrap
        psp = psp or (state.simulators["psp"].url if "psp" in state.simulators else "")
    missing = [name for name in SERVICES if name not in named]
    if missing or not kafka or not psp:
        raise DoorError(
            f"Name --dsn SERVICE=DSN for each of {', '.join(SERVICES)}, --kafka and --psp, or start a local cluster."
        )
    sources = Sources(dsns={name: named[name] for name in SERVICES}, psp_url=psp)
    return Asked(sources=sources, bootstrap=kafka, wait_seconds=wait, all_ended=all_ended)


def run(what: Asked, console: Console, progress: Console, *, quiet: bool) -> list[Finding]:
    """Prints each finding as it is made, unless `quiet`."""
    return asyncio.run(_run(what, console, progress, quiet))


async def _run(what: Asked, console: Console, progress: Console, quiet: bool) -> list[Finding]:
    findings = []
    with progress.status("Verifying") as status:
        async for one in verify(what, lambda doing: status.update(f"Verifying: {doing}")):
            findings.append(one)
            if not quiet:
                _print(console, one)
    return findings


def _print(console: Console, one: Finding) -> None:
    console.print(f"  {'[green]✓[/]' if one.sound else '[red]✗[/]'} {one.check}: {one.figures}", soft_wrap=True)
    for offender in one.offenders[:SHOWN]:
        console.print(f"      {offender}", style="red", markup=False, soft_wrap=True)
    if len(one.offenders) > SHOWN:
        console.print(f"      and {len(one.offenders) - SHOWN} more (--json names them all)", style="red")


def as_data(findings: Sequence[Finding]) -> dict[str, Any]:
    return {
        "sound": all(one.sound for one in findings),
        "findings": [
            {"check": one.check, "sound": one.sound, "figures": one.figures, "offenders": list(one.offenders)}
            for one in findings
        ],
    }
