"""Every kind of fault by name."""

from tests.faults.kinds import database, machine, network, outside, processes, records
from tests.faults.kinds.kind import Make

KINDS: dict[str, Make] = {
    **processes.KINDS,
    **network.KINDS,
    **records.KINDS,
    **outside.KINDS,
    **database.KINDS,
    **machine.KINDS,
}
