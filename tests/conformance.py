"""Schemathesis against a running service, by the service's own openapi.json."""

import asyncio
import os
import sys
from pathlib import Path

CHECKS = (
    "not_a_server_error",
    "status_code_conformance",
    "content_type_conformance",
    "response_headers_conformance",
    "response_schema_conformance",
    "missing_required_header",
    "unsupported_method",
    "allow_header_conformance",
    "negative_data_rejection",
)
# Not positive_data_acceptance: the domain says no (404, 409, 422) to many a request of the right shape.

# A 504 is the documented answer to a version that does not come; what is too long to be read at all is a 413 or 431.
CONFIG = """
[checks.not_a_server_error]
expected-statuses = ["2xx", "3xx", "4xx", 503, 504]
[checks.negative_data_rejection]
expected-statuses = ["4xx"]
"""


async def held_to_its_openapi(url: str, folder: Path, *options: str) -> None:
    """Also where keys are on: `options` show one then, and leaving it out must be refused as documented."""
    (folder / "schemathesis.toml").write_text(CONFIG)
    command = ["run", f"{url}/openapi.json", "--phases", "coverage,fuzzing", "--seed", "1", *options]
    command += ["--checks", ",".join(CHECKS), "--max-examples", "20", "--request-timeout", "15", "--no-color"]
    run = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "schemathesis.cli", *command),
        cwd=folder,
        env={**os.environ, "NO_PROXY": "127.0.0.1"},
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
    )
    said = (await run.communicate())[0].decode()
    assert run.returncode == 0, said
