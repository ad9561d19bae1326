#!/usr/bin/env python3
"""Runs a fleet until it is interrupted. Used by scripts/fleet."""

from __future__ import annotations

import argparse
import contextlib
import signal
import sys
import tempfile
import time
from pathlib import Path

from fleet_processes import SLOTS, TARGET_MODEL, WIDTH, Bucket, Fleet, FleetError, name_of


def main() -> None:
    parser = argparse.ArgumentParser(prog="scripts/fleet")
    parser.add_argument("--servers", type=int, default=3)
    parser.add_argument("--models", type=int, default=30)
    parser.add_argument("--memory", default="512MiB")
    parser.add_argument("--port", type=int, default=8080)
    # Only reads the options.
    parser.add_argument("--check", action="store_true")
    arguments = parser.parse_args()
    if not 1 <= arguments.servers <= SLOTS or arguments.models < 1:
        parser.error(f"expected 1 to {SLOTS} servers, and a model at least")
    if arguments.check:
        return
    end_by_signals()
    with contextlib.ExitStack() as running, contextlib.suppress(KeyboardInterrupt):
        folder = running.enter_context(tempfile.TemporaryDirectory(prefix="longshore-fleet-"))
        bucket = Bucket()
        running.callback(bucket.stop)
        fleet = Fleet(Path(folder), bucket, arguments.memory, [])
        running.callback(fleet.stop)
        try:
            bucket.upload(arguments.models)
            for server in range(arguments.servers):
                fleet.start_server(server)
            fleet.balance(arguments.port)
        except FleetError as error:
            sys.exit(f"fleet: {error}")
        describe(fleet, arguments.models, Path(folder))
        while True:
            time.sleep(3600)


def end_by_signals() -> None:
    """Has Ctrl-C, SIGTERM and the end of the terminal stop the fleet. A second signal changes nothing:
    it must not end this process before the others."""
    has_come = False

    def end(*_: object) -> None:
        nonlocal has_come
        if not has_come:
            has_come = True
            # The terminal may be gone.
            with contextlib.suppress(OSError):
                print("stopping", file=sys.stderr, flush=True)
            raise KeyboardInterrupt

    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, end)


def describe(fleet: Fleet, models: int, folder: Path) -> None:
    row = folder / "row.json"
    row.write_text(f"[{[0.5] * WIDTH}]")
    print(f"{len(fleet.servers)} servers with {models} models, {name_of(0)} and so on:")
    for server in fleet.servers:
        print(f"  server {server}      http://{fleet.host(server)}/")
    print(f"  balancer      http://{fleet.address}")
    print(f"  statistics    http://{fleet.status}/")
    print(f"  logs          {folder}\n")
    print("The header X-Longshore-Server of an answer names its server:\n")
    print(f"  curl -i http://{fleet.address}/invocations -H '{TARGET_MODEL}: {name_of(0)}' -d @{row}\n")
    print("Ctrl-C stops the fleet.", flush=True)


main()
