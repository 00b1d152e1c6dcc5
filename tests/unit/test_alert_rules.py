"""Every alert fires on what it is for, and no other does; a healthy system raises none. Judged by promtool."""

import shutil
import subprocess
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import yaml

from oms.cluster.apps import SERVICES

ROOT = Path(__file__).parents[2]
RULES = sorted((ROOT / "deploy/prometheus/rules").glob("*.yaml"))
BEGINS = 40
"""Minutes of health before something breaks."""

needs_promtool = pytest.mark.skipif(
    shutil.which("promtool") is None, reason="promtool is not there: apt-get install -y prometheus"
)
Series = dict[str, str]


def healthy(minutes: int) -> Series:
    """What Prometheus sees of a quiet, healthy system, once a minute."""
    still, busy = f"0x{minutes}", f"0+60x{minutes}"
    series: Series = {}
    for service in SERVICES:
        name, at = f'service_name="oms-{service}"', f'instance="{service}",job="oms"'
        of_partition = f'{name},topic="oms.order.events",partition="0"'
        series |= {
            f'target_info{{{at},{name},service_namespace="oms"}}': f"1x{minutes}",
            f"process_start_time_seconds{{{at}}}": f"1000x{minutes}",
            f'oms_dependency_up{{{name},dependency="kafka"}}': f"1x{minutes}",
            f'oms_dependency_up{{{name},dependency="postgres"}}': f"1x{minutes}",
            f'oms_unsafe{{{name},finding="fsync"}}': still,
            f'oms_alarms_total{{{name},what="partition_halted"}}': still,
            f"oms_consumer_lag_records{{{of_partition}}}": still,
            f"oms_consumer_lag_seconds{{{of_partition}}}": still,
            f"oms_consumer_halted{{{of_partition}}}": still,
            f"oms_parked_keys{{{name}}}": still,
            f"oms_outbox_oldest_age_seconds{{{name}}}": still,
            f"oms_wakes_late_seconds{{{name}}}": still,
            f"oms_effects_late_seconds{{{name}}}": still,
            f"oms_callbacks_refused_total{{{name}}}": still,
            f'http_server_request_duration_seconds_count{{{name},http_response_status_code="200"}}': busy,
            f'http_server_request_duration_seconds_count{{{name},http_response_status_code="503"}}': still,
            f'oms_effects_total{{{name},kind="capture",outcome="performed"}}': busy,
            f'oms_effects_total{{{name},kind="capture",outcome="postponed"}}': f"0+1x{minutes}",
            **buckets("oms_event_loop_lag_seconds", name, quick=busy, all=busy),
            **buckets("oms_commit_duration_seconds", name, quick=busy, all=busy),
        }
    return {
        **series,
        **buckets("oms_order_duration_seconds", 'until="confirmed"', quick=busy, all=busy),
        'oms_view_rows{view="open_exceptions",value=""}': still,
        event("order.OrderReceived"): busy,
        event("payment.PaymentAuthorized"): busy,
        event("payment.PaymentDeclined"): f"0+6x{minutes}",
        event("payment.PaymentOutcomeUnknown"): still,
    }


def buckets(metric: str, labels: str, *, quick: str, all: str) -> Series:
    return {
        f'{metric}_bucket{{{labels},le="0.01"}}': quick,
        f'{metric}_bucket{{{labels},le="300"}}': all,
        f'{metric}_bucket{{{labels},le="+Inf"}}': all,
    }


def event(name: str) -> str:
    return f'oms_events_appended_total{{service_name="oms-{name.partition(".")[0]}",type="oms.{name}"}}'


@dataclass
class Case:
    """`broken` replaces series from minute `begins` on; `fires` is what is expected `after` minutes of it, and nothing
    before nor after `quiet` ones. Samples are `step` minutes apart."""

    fires: Mapping[str, list[dict[str, str]]]
    broken: Series
    after: int = 12
    quiet: int = 0
    begins: int = BEGINS
    step: int = 1


def then(before: str, after: str, begins: int = BEGINS) -> str:
    return f"{before}x{begins - 1} {after}x100"


def payment(metric: str, **labels: str) -> str:
    named = "".join(f',{name}="{value}"' for name, value in labels.items())
    return f'{metric}{{service_name="oms-payment"{named}}}'


PLACE = {"topic": "oms.order.events", "partition": "0"}
OURS = {"service_name": "oms-payment"}
WARNING, CRITICAL = {"severity": "warning"}, {"severity": "critical"}
TARGET = 'target_info{instance="payment",job="oms",service_name="oms-payment",service_namespace="oms"}'

CASES = {
    "service absent": Case({"ServiceAbsent": [OURS | CRITICAL]}, {TARGET: f"1x{BEGINS - 1} stale"}, quiet=1),
    "consumer absent": Case(
        {"ConsumerAbsent": [OURS | CRITICAL]},
        {payment("oms_consumer_lag_records", **PLACE): f"0x{BEGINS - 1} stale"},
        quiet=2,
    ),
    "process restarts": Case(
        {"ProcessRestarts": [{**OURS, "instance": "payment", "job": "oms", **WARNING}]},
        {'process_start_time_seconds{instance="payment",job="oms"}': then("1000", "1001+60")},
        quiet=2,
    ),
    "dependency away": Case(
        {"DependencyAway": [{**OURS, "dependency": "kafka", **CRITICAL}]},
        {payment("oms_dependency_up", dependency="kafka"): then("1", "0")},
    ),
    "event loop slow": Case(
        {"EventLoopSlow": [OURS | WARNING]},
        {payment("oms_event_loop_lag_seconds_bucket", le="0.01"): then("0+60", "2400+1")},
        after=20,
        quiet=9,
    ),
    "commits slow": Case(
        {"CommitsSlow": [OURS | WARNING]},
        {payment("oms_commit_duration_seconds_bucket", le="0.01"): then("0+60", "2400+1")},
        after=20,
        quiet=9,
    ),
    "runs unsafe": Case(
        {"RunsUnsafe": [{**OURS, "finding": "fsync", **WARNING}]},
        {payment("oms_unsafe", finding="fsync"): then("0", "1")},
        quiet=9,
    ),
    "alarm raised": Case(
        {"AlarmRaised": [{**OURS, "what": "partition_halted", **CRITICAL}]},
        {payment("oms_alarms_total", what="partition_halted"): then("0", "1")},
        after=1,
    ),
    "consumer behind": Case(
        {"ConsumerBehind": [OURS | WARNING]},
        {payment("oms_consumer_lag_seconds", **PLACE): then("0", "61")},
        quiet=4,
    ),
    "consumer far behind": Case(
        {"ConsumerBehind": [OURS | WARNING, OURS | CRITICAL]},
        {payment("oms_consumer_lag_seconds", **PLACE): then("0", "601")},
    ),
    "partition halted": Case(
        {"PartitionHalted": [{**OURS, **PLACE, **CRITICAL}]},
        {payment("oms_consumer_halted", **PLACE): then("0", "1")},
    ),
    "keys parked": Case({"ParkedKeys": [OURS | WARNING]}, {payment("oms_parked_keys"): then("0", "1")}, quiet=4),
    "outbox stuck": Case(
        {"OutboxStuck": [OURS | CRITICAL]}, {payment("oms_outbox_oldest_age_seconds"): then("0", "61")}, quiet=1
    ),
    "wakes late": Case({"WakesLate": [OURS | CRITICAL]}, {payment("oms_wakes_late_seconds"): then("0", "61")}, quiet=4),
    "calls late": Case(
        {"CallsLate": [OURS | CRITICAL]}, {payment("oms_effects_late_seconds"): then("0", "121")}, quiet=4
    ),
    "calls postponed": Case(
        {"CallsPostponed": [{**OURS, "kind": "capture", **WARNING}]},
        {payment("oms_effects_total", kind="capture", outcome="postponed"): then("0+1", "40+90")},
        after=20,
        quiet=9,
    ),
    "callbacks refused": Case(
        {"CallbacksRefused": [OURS | WARNING]}, {payment("oms_callbacks_refused_total"): then("0", "0+5")}, quiet=4
    ),
    "requests fail": Case(
        {"RequestsFail": [OURS | CRITICAL]},
        {payment("http_server_request_duration_seconds_count", http_response_status_code="503"): then("0", "0+10")},
        quiet=4,
    ),
    "orders slow": Case(
        {"OrdersSlow": [{"until": "confirmed", **WARNING}]},
        {'oms_order_duration_seconds_bucket{until="confirmed",le="0.01"}': then("0+60", "2400+1")},
        after=20,
        quiet=9,
    ),
    "orders stopped": Case(
        {"OrdersStopped": [WARNING]},
        {event("order.OrderReceived"): "0+600x144 86400x10"},
        begins=24 * 60 + 10,
        after=50,
        quiet=20,
        step=10,
    ),
    "order service started anew and no order came": Case(
        {"OrdersStopped": [WARNING]},
        {event("order.OrderReceived"): "0+600x144 stale"},
        begins=24 * 60 + 10,
        after=50,
        quiet=20,
        step=10,
    ),
    "exceptions open": Case(
        {"ExceptionsOpen": [WARNING]},
        {'oms_view_rows{view="open_exceptions",value="STUCK"}': f"_x{BEGINS} 1x100"},
        after=35,
        quiet=29,
    ),
    "payments declined": Case(
        {"PaymentsDeclined": [WARNING]},
        {event("payment.PaymentDeclined"): then("0+6", "240+60")},
        after=25,
        quiet=14,
    ),
    "payments unknown": Case(
        {"PaymentsUnknown": [CRITICAL]},
        {event("payment.PaymentOutcomeUnknown"): then("0", "0+2")},
        after=25,
        quiet=9,
    ),
}


def rules() -> list[dict[str, Any]]:
    return [yaml.safe_load(path.read_text()) for path in RULES]


def alerts() -> dict[str, list[dict[str, Any]]]:
    """By name; the same alert may be of two severities."""
    found: dict[str, list[dict[str, Any]]] = {}
    for file in rules():
        for group in file["groups"]:
            for rule in group["rules"]:
                if "alert" in rule:
                    found.setdefault(rule["alert"], []).append(rule)
    return found


_OF_ORDERS = ("target_info", "oms_consumer_lag_records", "oms_events_appended_total")


def expected(case: Case, minute: int, firing: bool) -> Iterator[dict[str, Any]]:
    for name in alerts():
        labels = case.fires.get(name, []) if firing else []
        yield {"eval_time": f"{minute}m", "alertname": name, "exp_alerts": [{"exp_labels": one} for one in labels]}


def as_test(name: str, case: Case) -> dict[str, Any]:
    series = {**healthy((case.begins + case.after) // case.step), **case.broken}
    if case.step > 1:  # rates over five minutes see nothing of it
        series = {at: values for at, values in series.items() if at.startswith(_OF_ORDERS)}
    moments = [(case.begins - 1, False), (case.begins + case.quiet, False), (case.begins + case.after, True)]
    if name == "alarm raised":
        moments.pop(1)
    return {
        "name": name,
        "interval": f"{case.step}m",
        "input_series": [{"series": at, "values": values} for at, values in series.items()],
        "alert_rule_test": [one for minute, firing in moments for one in expected(case, minute, firing)],
    }


def judged(folder: Path, cases: Mapping[str, Case]) -> subprocess.CompletedProcess[str]:
    """Of one step. Without annotations, which promtool would compare as well."""
    (step,) = {case.step for case in cases.values()}
    tests = [as_test(name, case) for name, case in cases.items()]
    files = []
    for number, content in enumerate(rules()):
        for group in content["groups"]:
            for rule in group["rules"]:
                rule.pop("annotations", None)
        files.append(folder / f"rules{number}.yaml")
        files[-1].write_text(yaml.safe_dump(content))
    plan = {"rule_files": [str(file) for file in files], "evaluation_interval": f"{step}m", "tests": tests}
    (folder / "test.yaml").write_text(yaml.safe_dump(plan))
    command = ["promtool", "test", "rules", str(folder / "test.yaml")]
    return subprocess.run(command, capture_output=True, text=True, check=False, timeout=100)


def test_every_alert_has_a_case() -> None:
    fired = {
        (name, one["severity"]) for case in CASES.values() for name, labels in case.fires.items() for one in labels
    }
    assert fired == {(name, rule["labels"]["severity"]) for name, found in alerts().items() for rule in found}


@needs_promtool
def test_rules_are_well_formed() -> None:
    done = subprocess.run(["promtool", "check", "rules", *RULES], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


@needs_promtool
@pytest.mark.parametrize("step", [1, 10])
def test_alert_fires_on_what_it_is_for_and_no_other_does(tmp_path: Path, step: int) -> None:
    done = judged(tmp_path, {name: case for name, case in CASES.items() if case.step == step})
    assert done.returncode == 0, done.stdout + done.stderr


@needs_promtool
def test_judge_notices_an_alert_that_does_not_fire(tmp_path: Path) -> None:
    assert judged(tmp_path, {"nothing broken": Case({"ParkedKeys": [OURS | WARNING]}, {})}).returncode != 0
