"""Every service's own openapi.json against the running service: no 5xx but a documented 503 or 504, and no answer in a
status, media type or shape that it does not document."""

from pathlib import Path

import pytest

from libs.testing.outside import SERVICES
from oms.cluster.cluster import LocalCluster
from tests.conformance import held_to_its_openapi

pytestmark = pytest.mark.integration


@pytest.mark.parametrize("service", SERVICES)
async def test_service_answers_nothing_that_its_openapi_does_not_document(
    system: LocalCluster, service: str, tmp_path: Path
) -> None:
    await held_to_its_openapi(system.url(service), tmp_path)
