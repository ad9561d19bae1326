"""Processes of servers, which end with their block, and free ports of the loopback interface.

Used by tests/stores/garage_server.py, tests/stores/cloud_servers.py and
tests/stores/store_checks.py.
"""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TypeVar

# A timeout for things that take less than a second on any working machine.
PATIENCE = 30.0

Found = TypeVar("Found")


def until(what: str, look: Callable[[], Found | None]) -> Found:
    """Polls until `look` finds something, and returns it."""
    end = time.monotonic() + PATIENCE
    while (found := look()) is None:
        if time.monotonic() > end:
            raise SystemExit(f"timeout of {PATIENCE:.0f} s while waiting for {what}")
        time.sleep(0.02)
    return found


@contextmanager
def running(command: list[object], environment: dict[str, str], log: Path) -> Iterator[subprocess.Popen[bytes]]:
    """Runs a process until the block ends. If the block fails, prints the end of the process's
    log.
    """
    variables = {**os.environ, **environment}
    with log.open("wb") as output:
        process = subprocess.Popen(
            [*map(str, command)], env=variables, stdin=subprocess.DEVNULL, stdout=output, stderr=output
        )
    try:
        yield process
    except (Exception, SystemExit):
        tail = log.read_text(errors="replace").splitlines()[-20:]
        print(f"the end of {log.name}:", *(line[:400] for line in tail), sep="\n", file=sys.stderr)
        raise
    finally:
        process.terminate()
        process.wait()


def alive(process: subprocess.Popen[bytes], found: Found | None) -> Found | None:
    """Returns `found`; fails if the process has ended."""
    if process.poll() is not None:
        raise SystemExit(f"{process.args!r} ended with {process.returncode}")
    return found


def listens(address: str) -> bool | None:
    """True, or None if not."""
    host, port = address.split(":")
    try:
        socket.create_connection((host, int(port))).close()
    except ConnectionRefusedError:
        return None
    return True


def free_addresses(count: int) -> list[str]:
    sockets = [socket.create_server(("127.0.0.1", 0)) for _ in range(count)]
    addresses = [f"127.0.0.1:{each.getsockname()[1]}" for each in sockets]
    for each in sockets:
        each.close()
    return addresses
