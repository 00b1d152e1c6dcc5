"""Pictures of the figures, as PNG and SVG."""

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import matplotlib

matplotlib.use("Agg")
from matplotlib import pyplot as plt

from bench.report import CONTENDERS, CPU

COLOURS = ("#4063d8", "#389826", "#cb3c33")


def draw(folder: Path, flat: Mapping[str, Any]) -> None:
    matplotlib.rcParams.update({"svg.hashsalt": "orderloom", "font.size": 9, "figure.constrained_layout.use": True})
    found = [(name.strip(), prefix, flat[key]) for name, prefix, key in CONTENDERS if key in flat]
    if found:
        _orders(folder, [(name, value) for name, _, value in found])
        costs = [
            (name, [flat[prefix + group] for group in CPU]) for name, prefix, _ in found if prefix + CPU[0] in flat
        ]
        _cpu(folder, costs)
    points = sorted(
        (int(match[1]), key) for key in flat if (match := re.fullmatch(r"p99_confirmed_ms_(\d+)", key)) is not None
    )
    if points:
        _latency(folder, flat, [rate for rate, _ in points])
    if growth := sorted((int(key.split("_")[-1]), flat[key]) for key in flat if key.startswith("growth_orders_per_s_")):
        _growth(folder, growth)


def _orders(folder: Path, bars: list[tuple[str, float]]) -> None:
    figure, axes = plt.subplots(figsize=(7, 0.4 * len(bars) + 1))
    drawn = axes.barh([name for name, _ in bars], [value for _, value in bars], color=COLOURS[0])
    axes.bar_label(drawn, fmt="{:,.1f}", padding=3)
    axes.set_xscale("log")
    axes.set_xlim(right=4 * max(value for _, value in bars))  # room for the labels
    axes.invert_yaxis()
    axes.set_xlabel("orders a second (logarithmic)")
    _save(figure, folder / "orders")


def _cpu(folder: Path, bars: list[tuple[str, list[float]]]) -> None:
    figure, axes = plt.subplots(figsize=(7, 0.4 * len(bars) + 1))
    left = [0.0] * len(bars)
    for place, group in enumerate(("Python", "PostgreSQL", "Kafka")):
        widths = [costs[place] for _, costs in bars]
        axes.barh([name for name, _ in bars], widths, left=left, label=group, color=COLOURS[place])
        left = [start + width for start, width in zip(left, widths, strict=True)]
    axes.invert_yaxis()
    axes.set_xlim(0, 2 * sorted(left)[len(left) // 2])  # textbook would make all others invisible
    axes.set_xlabel("CPU of one order, µs")
    axes.legend()
    _save(figure, folder / "cpu")


def _latency(folder: Path, flat: Mapping[str, Any], rates: list[int]) -> None:
    figure, axes = plt.subplots(figsize=(6, 3))
    for place, quantile in enumerate(("p50", "p90", "p99")):
        values = [flat[f"{quantile}_confirmed_ms_{rate}"] for rate in rates]
        axes.plot(rates, values, marker="o", label=quantile, color=COLOURS[place])
    axes.axhline(250, linestyle=":", color="grey", label="goal of p99 at 300")
    axes.set_xlabel("orders a second, paced")
    axes.set_ylabel("placed → confirmed, ms")
    axes.set_yscale("log")
    axes.legend()
    _save(figure, folder / "latency")


def _growth(folder: Path, points: list[tuple[int, float]]) -> None:
    figure, axes = plt.subplots(figsize=(6, 3))
    axes.plot([str(orders) for orders, _ in points], [rate for _, rate in points], marker="o", color=COLOURS[0])
    axes.set_ylim(0, 1.1 * max(rate for _, rate in points))
    axes.set_xlabel("orders in the stores")
    axes.set_ylabel("orders a second")
    _save(figure, folder / "growth")


def _save(figure: Any, path: Path) -> None:
    for kind in ("png", "svg"):
        figure.savefig(path.with_suffix(f".{kind}"), dpi=150, metadata={"Date": None} if kind == "svg" else None)
    plt.close(figure)
