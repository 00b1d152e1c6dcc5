"""What the demo prints: progress while it runs, then the outcome, one order's story, and the books."""

from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, Progress, TaskID, TextColumn, TimeElapsedColumn
from rich.table import Table
from rich.text import Text

from oms.demo.summary import Latency, Summary
from oms.demo.watch import Counts

STORY_LINES = 40


class OrderProgress(Progress):
    """Three bars: placed, confirmed, ended."""

    def __init__(self, console: Console, orders: int, expected: int) -> None:
        super().__init__(
            TextColumn("  {task.description:<10}"),
            BarColumn(bar_width=40),
            TextColumn("{task.completed:>5.0f} / {task.total:.0f}"),
            TimeElapsedColumn(),
            console=console,
        )
        self._placed = self.add_task("placed", total=expected)
        self._confirmed = self.add_task("confirmed", total=orders)
        self._ended = self.add_task("ended", total=expected)

    def show(self, placed: int, counts: Counts) -> None:
        done: Mapping[TaskID, int] = {
            self._placed: placed,
            self._confirmed: counts.confirmed,
            self._ended: counts.ended,
        }
        for task, count in done.items():
            self.update(task, completed=count)


def print_summary(console: Console, summary: Summary) -> None:
    source, sent = summary.source, summary.sent
    console.print(
        f"\n{source.day}: {sent.orders} orders of {source.data_set} at {source.locations} stores. "
        f"Left out: {source.lines_dropped} lines without quantity or value, and {source.baskets_dropped} basket(s) "
        f"of nothing else. Also sent: {sent.bad_orders} bad orders, {sent.repeats} exact and {sent.changed_repeats} "
        f"changed repeats, {sent.cancellations} cancellations."
    )
    console.print(_outcomes(summary))
    console.print(_latencies(summary))
    console.print(
        f"{summary.split_orders} orders left in several parcels; {summary.orders_paid_after_a_decline} were paid at "
        f"another attempt after a decline; {summary.cancellations_refused} cancellation(s) came too late and were "
        f"refused; {summary.changed_repeats_detected} changed repeat(s) were noticed."
    )


def _outcomes(summary: Summary) -> Table:
    table = Table("outcome", title="What became of them", title_justify="left")
    table.add_column("orders", justify="right")
    table.add_column("share", justify="right")
    for name, count in sorted(summary.outcomes.items(), key=lambda item: -item[1]):
        table.add_row(name, str(count), f"{100 * count / summary.orders:.1f} %")
    table.add_section()
    table.add_row("all", str(summary.orders), "")
    return table


def _latencies(summary: Summary) -> Table:
    table = Table("", title="How long it took", title_justify="left")
    for name in ("orders", "p50", "p99", "longest"):
        table.add_column(name, justify="right")
    for name, took in (("confirmed", summary.placed_to_confirmed), ("completed", summary.placed_to_completed)):
        table.add_row(f"placed → {name}", *_figures(took))
    return table


def _figures(took: Latency | None) -> Sequence[str]:
    if took is None:
        return ["0", "-", "-", "-"]
    return [str(took.orders), *(f"{ms:,} ms" for ms in (took.p50_ms, took.p99_ms, took.max_ms))]


def print_timeline(console: Console, reference: str, entries: Sequence[Mapping[str, Any]]) -> None:
    table = Table(title=f"One order's story: {reference}", title_justify="left", box=None, padding=(0, 1))
    table.add_column("seconds", justify="right")
    table.add_column("service")
    table.add_column("what happened")
    first = datetime.fromisoformat(entries[0]["recorded_at"])
    for entry in entries[:STORY_LINES]:
        after = (datetime.fromisoformat(entry["recorded_at"]) - first).total_seconds()
        table.add_row(f"{after:.2f}", entry["service"], Text(entry["summary"]))
    if len(entries) > STORY_LINES:
        table.add_row("", "", f"and {len(entries) - STORY_LINES} more")
    console.print(table)


def print_books(console: Console, summary: Summary) -> None:
    console.print("\nThe books")
    for one in summary.books:
        mark = "[green]✓[/]" if one.sound else "[red]✗[/]"
        console.print(f"  {mark} {one.check}: {one.figures}")
        for offender in one.offenders[:10]:
            console.print(f"      {offender}", style="red", markup=False)
        if len(one.offenders) > 10:
            console.print(f"      and {len(one.offenders) - 10} more", style="red")
    for problem in summary.problems:
        console.print(problem, style="red", markup=False)
    verdict = "[green]The books balance.[/]"
    if summary.problems:
        verdict = "[red]The demo did not come to its end.[/]"
    elif not summary.balanced:
        verdict = "[red]The books do not balance.[/]"
    console.print(f"{verdict} {summary.seconds.total:.0f} s in all.")
