"""All checks over one history."""

from tests.faults.oracle import calls, money, orders, stock, streams, topics
from tests.faults.oracle.history import History, Violation

CHECKS = (*streams.CHECKS, *orders.CHECKS, *stock.CHECKS, *money.CHECKS, *topics.CHECKS, *calls.CHECKS)

LEFT_OUT = {
    "I-5": "no hash chain is built yet (security item S8)",
    "I-21": "one deployment serves one tenant",
    "I-22": "a scan for personal data belongs to the privacy issue",
}


def judge(history: History) -> list[Violation]:
    return [violation for check in CHECKS for violation in check(history)]
