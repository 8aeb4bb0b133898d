"""`python -m infra.backends NAME …`: runs servers to develop against, until Ctrl-C."""

import signal
import sys
from collections.abc import Sequence
from types import FrameType

from infra.backends.catalog import BACKENDS
from infra.backends.service import ServiceError


def main(arguments: Sequence[str]) -> int:
    """Starts the named servers (NAME or NAME:PORT) and says where each is; all go at the end."""
    wanted = [argument.partition(":") for argument in arguments]
    if not wanted or any(name not in BACKENDS for name, _, _ in wanted):
        print(f"usage: infra/scripts/start NAME[:PORT] …   NAME: {', '.join(BACKENDS)}")
        return 2
    for name, _, _ in wanted:
        lacking = BACKENDS[name].missing()
        if lacking is not None:
            print(f"{name} needs {lacking}")
            return 1
    signal.signal(signal.SIGTERM, _interrupt)
    services = []
    try:
        for name, _, port in wanted:
            services.append(BACKENDS[name].make(int(port) if port else None))
            services[-1].start()
            print(f"{name}: {services[-1].uri}", flush=True)
        print("Ctrl-C ends them and deletes their temporary folders.", flush=True)
        signal.pause()
    except KeyboardInterrupt:
        print("ending")
    except ServiceError as error:
        print(error)
        return 1
    finally:
        for service in services:
            service.remove()
    return 0


def _interrupt(_signal: int, _frame: FrameType | None) -> None:
    raise KeyboardInterrupt


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
