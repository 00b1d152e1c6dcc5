"""What the fault campaign found about processes that should have gone on, or ended, and did neither."""

import subprocess
import sys

import asyncpg
import pytest

from libs.runtime.errors import Unavailable, sorted_error

HUNG = """
import asyncio
from libs.runtime import worker

worker.ENDING_SECONDS = 0.2

async def fails():
    raise RuntimeError("a defect")

async def does_not_let_itself_be_stopped():
    while True:
        try:
            await asyncio.sleep(60)
        except asyncio.CancelledError:
            pass

async def main():
    async with asyncio.TaskGroup() as group:
        for task in (group.create_task(fails()), group.create_task(does_not_let_itself_be_stopped())):
            task.add_done_callback(worker._end_if_failed)

asyncio.run(main())
"""


@pytest.mark.parametrize("error", [asyncpg.InternalClientError, asyncpg.ProtocolError])
def test_connection_cut_in_the_middle_of_an_answer_is_a_database_that_is_away(error: type[Exception]) -> None:
    assert isinstance(
        sorted_error(error("cannot switch to state 15; another operation (2) is in progress")), Unavailable
    )


def test_process_ends_when_a_loop_fails_and_another_cannot_be_stopped() -> None:
    ended = subprocess.run([sys.executable, "-c", HUNG], timeout=30, check=False, capture_output=True)
    assert ended.returncode == 1
    assert b"process.failed" in ended.stdout + ended.stderr
