"""The detached supervisor's program: `oms up --detach` starts it and reads its progress from a pipe."""

import json
import os
import sys
from contextlib import suppress
from typing import Any

from oms.cluster.control import run, spec_of
from oms.cluster.process import ClusterBusy, ClusterError
from oms.cluster.settings import ClusterSettings


def main(pipe: int, mode: str, fresh: str) -> int:
    os.set_inheritable(pipe, False)
    progress = os.fdopen(pipe, "w")

    def report(event: str, **fields: Any) -> None:
        with suppress(OSError, ValueError):  # closed: whoever asked has left, or was told that we are ready
            progress.write(json.dumps({"event": event, **fields}) + "\n")
            progress.flush()
            if event == "cluster.ready":
                progress.close()

    try:
        run(ClusterSettings(), spec_of(mode == "infra"), report, fresh=bool(int(fresh)))
    except ClusterError as error:
        if isinstance(error, ClusterBusy):
            report("busy")
        report("error", message=str(error))
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(int(sys.argv[1]), sys.argv[2], sys.argv[3]))
