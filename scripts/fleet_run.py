#!/usr/bin/env python3
"""Runs a fleet until it is interrupted. Used by scripts/fleet."""

from __future__ import annotations

import argparse
import signal
import sys
import tempfile
import time
from pathlib import Path

from fleet_processes import SLOTS, TARGET_MODEL, WIDTH, Bucket, Fleet, name_of


def main() -> None:
    parser = argparse.ArgumentParser(prog="scripts/fleet")
    parser.add_argument("--servers", type=int, default=3)
    parser.add_argument("--models", type=int, default=30)
    parser.add_argument("--memory", default="512MiB")
    parser.add_argument("--port", type=int, default=8080)
    arguments = parser.parse_args()
    if not 1 <= arguments.servers <= SLOTS or arguments.models < 1:
        parser.error(f"expected 1 to {SLOTS} servers, and a model at least")
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    with tempfile.TemporaryDirectory(prefix="longshore-fleet-") as folder:
        bucket = Bucket()
        fleet = Fleet(Path(folder), bucket, arguments.memory, [])
        try:
            bucket.upload(arguments.models)
            for server in range(arguments.servers):
                fleet.start_server(server)
            fleet.balance(arguments.port)
            row = Path(folder) / "row.json"
            row.write_text(f"[{[0.5] * WIDTH}]")
            print(f"{arguments.servers} servers with {arguments.models} models, {name_of(0)} and so on:")
            for server in range(arguments.servers):
                print(f"  server {server}      http://{fleet.host(server)}/")
            print(f"  balancer      http://{fleet.address}")
            print(f"  statistics    http://{fleet.status}/")
            print(f"  logs          {folder}\n")
            print("The header X-Longshore-Server of an answer names its server:\n")
            print(f"  curl -i http://{fleet.address}/invocations -H '{TARGET_MODEL}: {name_of(0)}' -d @{row}\n")
            print("Ctrl-C stops the fleet.", flush=True)
            while True:
                time.sleep(3600)
        except KeyboardInterrupt:
            print("stopping", file=sys.stderr)
        finally:
            # A second Ctrl-C must not leave processes.
            signal.signal(signal.SIGINT, signal.SIG_IGN)
            fleet.stop()
            bucket.stop()


main()
