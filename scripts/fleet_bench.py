#!/usr/bin/env python3
"""Measures a fleet in one run, and prints Markdown tables. Used by `scripts/fleet bench`.

All parts share one machine: its cores are divided among the servers, HAProxy, the bucket and the
clients. So the requests per second are a lower bound, and ratios between rows mean more than rows.
"""

from __future__ import annotations

import argparse
import http.client
import itertools
import random
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from fleet_processes import PATIENCE, TARGET_MODEL, WIDTH, Bucket, Fleet, FleetError, eventually, name_of

SERVERS = 3
BODY = f"[{[0.5] * WIDTH}]".encode()
# A request that takes a server milliseconds.
ROWS = 64
MANY = f"{[[0.5] * WIDTH] * ROWS}".encode()
SLOWSTART = 5
# What HAProxy itself answers when a server ends with a request (haproxy.cfg).
CUT = b"the server ended while it had the request"


@dataclass
class Answer:
    model: int
    status: int
    server: str
    seconds: float
    was_cut: bool


class Client:
    """A client with one connection to the balancer."""

    def __init__(self, address: str) -> None:
        self.connection = http.client.HTTPConnection(address, timeout=PATIENCE)

    def ask(self, model: int, body: bytes = BODY) -> Answer:
        started = time.perf_counter()
        headers = {TARGET_MODEL: name_of(model), "Content-Type": "application/json"}
        try:
            self.connection.request("POST", "/invocations", body, headers)
            response = self.connection.getresponse()
            answer, server = response.read(), response.getheader("X-Longshore-Server", "")
            status = response.status
        except (OSError, http.client.HTTPException) as error:
            self.connection.close()
            # HAProxy answers 502 to the first request of a connection only, and else closes it.
            answer, server, status = CUT, "", 0
        return Answer(model, status, server, time.perf_counter() - started, CUT in answer)


def zipf(models: int, seed: int) -> Iterator[int]:
    """Models by Zipf's law: the n-th gets 1/n of the requests of the first."""
    generator = random.Random(seed)
    order = list(range(models))
    # The same order for all clients, and not that of the names.
    random.Random(0).shuffle(order)
    shares = list(itertools.accumulate(1 / rank for rank in range(1, models + 1)))
    while True:
        yield from generator.choices(order, cum_weights=shares, k=1000)


def skewed(models: int, seed: int) -> Iterator[int]:
    """One model gets ten requests for each request to any other model."""
    generator = random.Random(seed)
    while True:
        yield 0 if generator.random() < 10 / 11 else generator.randrange(1, models)


def drive(fleet: Fleet, clients: int, traffic: Callable[[int], Iterator[int]], requests: int = 0,
          until: threading.Event | None = None, body: bytes = BODY) -> tuple[list[Answer], float]:
    """Sends requests from parallel clients: a number of them, or until an event. Returns the
    answers and the duration."""

    def work(client: int) -> list[Answer]:
        connection, models = Client(fleet.address), traffic(client)
        answers: list[Answer] = []
        while len(answers) < requests // clients if until is None else not until.is_set():
            answers.append(connection.ask(next(models), body))
        return answers

    started = time.perf_counter()
    with ThreadPoolExecutor(clients) as pool:
        answers = [answer for some in pool.map(work, range(clients)) for answer in some]
    return answers, time.perf_counter() - started


def owners(fleet: Fleet, models: int) -> dict[int, str]:
    """The server of each model, asked for one after the other."""
    client = Client(fleet.address)
    return {model: client.ask(model).server for model in range(models)}


def row(*cells: object) -> None:
    print("| " + " | ".join(str(cell) for cell in cells) + " |", flush=True)


def head(*cells: str) -> None:
    row(*cells)
    row(*["---"] * len(cells))


def quantile(answers: list[Answer], share: float) -> float:
    ordered = sorted(answer.seconds for answer in answers)
    return ordered[min(len(ordered) - 1, int(len(ordered) * share))]


def milliseconds(seconds: float) -> str:
    return f"{seconds * 1000:.1f} ms"


def failed(answers: list[Answer]) -> int:
    return sum(answer.status != 200 for answer in answers)


def lookups(fleet: Fleet, state: str) -> float:
    return sum(fleet.metric(server, f'longshore_model_lookups_total{{state="{state}"}}') for server in fleet.servers)


class Bench:
    def __init__(self, arguments: argparse.Namespace, work: Path, bucket: Bucket) -> None:
        self.models, self.clients = arguments.models, arguments.clients
        self.requests, self.memory = arguments.requests, arguments.memory
        self.work, self.bucket, self.count = work, bucket, 0

    def fleet(self) -> Fleet:
        """Starts three servers that have never seen a model."""
        self.count += 1
        folder = self.work / f"fleet-{self.count}"
        folder.mkdir()
        fleet = Fleet(folder, self.bucket, self.memory, ["--threads", "2"])
        for server in range(SERVERS):
            fleet.start_server(server)
        return fleet

    def routing(self) -> None:
        print(f"### Consistent hashing and round robin\n\n{SERVERS} servers with `--memory-limit {self.memory}`, "
              f"{self.models} models, requests by Zipf's law from {self.clients} clients.\n")
        policies: list[tuple[str, bool, dict[str, str]]] = [
            ("round robin", True, {}),
            ("model", False, {}),
            ("model, load always bounded", False, {"LONGSHORE_FLEET_BUSY": "0"}),
        ]
        head("requests go by", "hit rate", "cold requests", "p50", "p99", "requests/s", "failed", "models in memory")
        measured = {}
        for name, in_turn, variables in policies:
            print(f"  {name}", file=sys.stderr)
            fleet = self.fleet()
            try:
                fleet.balance(variables=variables, in_turn=in_turn)
                # Each server first meets the models that it will serve, and has them on disk then.
                for server in range(SERVERS if in_turn else 1):
                    drive(fleet, 4, lambda client: iter(range(client, self.models, 4)), self.models // 4 * 4)
                drive(fleet, self.clients, lambda client: zipf(self.models, client), self.requests // 2)
                before = lookups(fleet, "warm"), lookups(fleet, "cold")
                answers, took = drive(fleet, self.clients, lambda client: zipf(self.models, 100 + client), self.requests)
                warm, cold = lookups(fleet, "warm") - before[0], lookups(fleet, "cold") - before[1]
                loaded = [int(fleet.metric(server, "longshore_models_loaded")) for server in fleet.servers]
            finally:
                fleet.stop()
            p50, p99 = quantile(answers, 0.5), quantile(answers, 0.99)
            measured[name] = (cold / (warm + cold), p99)
            row(name, f"{100 * warm / (warm + cold):.2f} %", int(cold), milliseconds(p50), milliseconds(p99),
                f"{len(answers) / took:.0f}", failed(answers), " + ".join(map(str, loaded)))
        first, best = measured["round robin"], measured["model"]
        print(f"\nRound robin has {100 * first[0]:.1f} % cold requests, and consistent hashing {100 * best[0]:.1f} %. Its p99 is "
              f"{first[1] / best[1]:.1f} times as long.\n")

    def changes(self) -> None:
        """A server is killed, comes back, and another one is added, all under load."""
        print("### A killed and an added server\n")
        fleet = self.fleet()
        steps: list[tuple[str, list[Answer], dict[int, str], dict[int, str]]] = []
        try:
            fleet.balance(variables={"LONGSHORE_FLEET_SLOWSTART": f"{SLOWSTART}s"})
            known = owners(fleet, self.models)

            def under_load(name: str, change: Callable[[], None], up: set[int]) -> None:
                nonlocal known
                print(f"  {name}", file=sys.stderr)
                done = threading.Event()
                # Servers end with the thread that starts them, so this one starts them.
                with ThreadPoolExecutor(1) as pool:
                    driving = pool.submit(drive, fleet, self.clients, lambda client: zipf(self.models, client), until=done)
                    try:
                        time.sleep(2)
                        change()
                        eventually(name, lambda: fleet.up() == up)
                        # A server that comes takes its models step by step.
                        time.sleep(SLOWSTART + 3)
                    finally:
                        done.set()
                    answers, _ = driving.result()
                now = owners(fleet, self.models)
                steps.append((name, answers, known, now))
                known = now

            under_load("server 1 is killed with SIGKILL", lambda: fleet.kill_server(1), {0, 2})
            under_load("server 1 comes back", lambda: fleet.start_server(1), {0, 1, 2})
            under_load("server 3 is added", lambda: fleet.start_server(3), {0, 1, 2, 3})
            under_load("server 0 stops (SIGTERM)", lambda: fleet.drain_server(0), {1, 2, 3})
        finally:
            fleet.stop()
        head("under load", "requests", "failed", "of these, cut off in that server", "models that moved",
             "moved, not from or to that server", "p99")
        for name, answers, before, after in steps:
            server = f"longshore-{next(digit for digit in name if digit.isdigit())}"
            moved = {model for model in before if before[model] != after[model]}
            others = sum(server not in (before[model], after[model]) for model in moved)
            cut = sum(answer.was_cut and before[answer.model] == server for answer in answers)
            row(name, len(answers), failed(answers), cut,
                f"{len(moved)} of {self.models} ({100 * len(moved) / self.models:.0f} %)", others,
                milliseconds(quantile(answers, 0.99)))
        print()

    def skew(self) -> None:
        clients = 4 * self.clients
        print(f"### One busy model\n\nOne model gets ten requests for each request to any other model, from {clients} "
              f"clients with {ROWS} rows in each request.\n")
        head("load", "server of the busy model", "second", "third", "p50", "p99", "requests/s", "failed")
        for name, busy in [("not bounded", 1_000_000), ("bounded (150 % of the mean)", 4)]:
            print(f"  {name}", file=sys.stderr)
            fleet = self.fleet()
            try:
                fleet.balance(variables={"LONGSHORE_FLEET_BUSY": str(busy)})
                drive(fleet, 4, lambda client: iter(range(client, self.models, 4)), self.models // 4 * 4)
                answers, took = drive(fleet, clients, lambda client: skewed(self.models, client), self.requests // 2,
                                      body=MANY)
            finally:
                fleet.stop()
            counts = Counter(answer.server for answer in answers if answer.model == 0)
            shares = [f"{100 * count / counts.total():.0f} %" for _, count in counts.most_common(SERVERS)]
            row(name, *(shares + ["0 %"] * SERVERS)[:SERVERS],
                milliseconds(quantile(answers, 0.5)), milliseconds(quantile(answers, 0.99)),
                f"{len(answers) / took:.0f}", failed(answers))
        print()


def main() -> None:
    parser = argparse.ArgumentParser(prog="scripts/fleet bench", description=__doc__,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("parts", nargs="*", help="routing, changes, skew (all)")
    parser.add_argument("--models", type=int, default=300, help="number of models, of 1 MB each (300)")
    parser.add_argument("--memory", default="288MiB", help="memory limit of a server, for some 120 models (288MiB)")
    parser.add_argument("--clients", type=int, default=8, help="number of parallel clients (8)")
    parser.add_argument("--requests", type=int, default=10_000, help="number of requests of each row (10000)")
    parser.add_argument("--check", action="store_true", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    parts = {"routing": Bench.routing, "changes": Bench.changes, "skew": Bench.skew}
    if unknown := set(arguments.parts) - set(parts):
        parser.error(f"unknown part {', '.join(sorted(unknown))}; choose from {', '.join(parts)}")
    if arguments.check:
        return
    with tempfile.TemporaryDirectory(prefix="longshore-fleet-") as folder:
        bucket = Bucket()
        try:
            print("  upload", file=sys.stderr)
            bucket.upload(arguments.models)
            bench = Bench(arguments, Path(folder), bucket)
            for name, part in parts.items():
                if not arguments.parts or name in arguments.parts:
                    part(bench)
        except FleetError as error:
            sys.exit(f"fleet: {error}")
        finally:
            bucket.stop()


main()
