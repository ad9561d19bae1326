#!/usr/bin/env python3
"""Acts as SageMaker towards a container: loads models, invokes each, checks every answer, unloads.

Used by scripts/demo; needs only Python 3. scripts/make_recommenders.py writes the models and their
expected answers. Ends with status 1 if an answer is wrong.
"""

from __future__ import annotations

import argparse
import csv
import hashlib
import http.client
import io
import json
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

SCORE_TOLERANCE = 1e-4


@dataclass
class Timings:
    """Durations of calls of one kind, in milliseconds."""

    kind: str
    values: list[float] = field(default_factory=list)

    def row(self) -> str:
        ordered = sorted(self.values)
        median = ordered[len(ordered) // 2]
        p99 = ordered[min(len(ordered) - 1, len(ordered) * 99 // 100)]
        return f"  {self.kind:<28}{len(ordered):>7}{median:>12.2f}{p99:>12.2f}{ordered[-1]:>12.2f}"


class Container:
    """A container's port, over one persistent connection."""

    def __init__(self, address: str) -> None:
        self.connection = http.client.HTTPConnection(urlsplit(address).netloc, timeout=60)

    def send(
        self, method: str, path: str, body: bytes = b"", headers: dict[str, str] | None = None
    ) -> tuple[int, bytes]:
        """Sends a request; returns the status and the body."""
        self.connection.request(method, path, body, headers or {})
        response = self.connection.getresponse()
        return response.status, response.read()

    def call(
        self, timings: Timings | None, method: str, path: str, body: bytes = b"", headers: dict[str, str] | None = None
    ) -> bytes:
        """Sends a request that must succeed; returns the body."""
        started = time.perf_counter()
        status, answer = self.send(method, path, body, headers)
        if timings is not None:
            timings.values.append((time.perf_counter() - started) * 1e3)
        if status != 200:
            raise SystemExit(f"{method} {path}: {status} {answer.decode(errors='replace')}")
        return answer


def opaque_name(segment: str) -> str:
    """The model's name towards the container: the platform uses a hash of the archive's name."""
    return hashlib.sha256(f"{segment}.tar.gz".encode()).hexdigest()[:32]


def check_json(segment: str, answer: bytes, expected: dict[str, Any]) -> None:
    for row, prediction in enumerate(json.loads(answer)["predictions"]):
        for name in ("items", "titles"):
            if prediction[name] != expected[name][row]:
                raise SystemExit(f"{segment}: {name} are {prediction[name]}, expected {expected[name][row]}")
        for score, must in zip(prediction["scores"], expected["scores"][row], strict=True):
            if abs(score - must) > SCORE_TOLERANCE:
                raise SystemExit(f"{segment}: a score is {score}, expected {must}")


def check_csv(segment: str, answer: bytes, expected: dict[str, Any]) -> None:
    for row, cells in enumerate(csv.reader(io.StringIO(answer.decode()))):
        must = [str(item) for item in expected["items"][row]], expected["titles"][row]
        if (cells[:5], cells[10:]) != must:
            raise SystemExit(f"{segment}: the CSV response is {cells}, expected {must}")


def proc(pid: int, name: str) -> str:
    """A file of a process that may end meanwhile."""
    try:
        return "".join(file.read_text() for file in Path(f"/proc/{pid}").glob(name))
    except (FileNotFoundError, ProcessLookupError):
        return ""


def family(pid: int) -> list[int]:
    """A process with all its descendants."""
    children = proc(pid, "task/*/children").split()
    return [pid] + [process for child in children for process in family(int(child))]


def memory_mib(pid: int | None) -> float | None:
    """Anonymous resident memory of the container, after the processes that prepare models have
    ended, which takes seconds.
    """
    if pid is None:
        return None
    for _ in range(100):
        if not any("\0prepare\0" in proc(process, "cmdline") for process in family(pid)):
            break
        time.sleep(0.1)
    lines = (line for process in family(pid) for line in proc(process, "status").splitlines())
    return sum(int(line.split()[1]) for line in lines if line.startswith("RssAnon:")) / 1024


def listed(container: Container) -> int:
    """The models in the container's list, page by page."""
    count, token = 0, ""
    while True:
        page = json.loads(container.call(None, "GET", f"/models{token}"))
        count += len(page["models"])
        if "nextPageToken" not in page:
            return count
        token = f"?next_page_token={page['nextPageToken']}"


def gauges(container: Container) -> dict[str, float]:
    """The container's metrics that have no labels."""
    lines = container.call(None, "GET", "/metrics").decode().splitlines()
    values = (line.split() for line in lines if not line.startswith("#") and "{" not in line)
    return {name: float(value) for name, value in values}


def memory_rows(values: dict[str, float]) -> list[str]:
    """The memory that the loaded models take, and that they would take without sharing."""
    own, mapped, shared, saved = (
        values.get(f"longshore_{name}_bytes", 0) / 2**20
        for name in ("memory_reserved", "memory_mapped", "shared_constant", "shared_constant_saved")
    )
    count = int(values.get("longshore_shared_constants", 0))
    return [
        f"  memory of the models: {own + mapped:.1f} MiB, of which {mapped:.1f} MiB are mapped from files",
        f"  without sharing: {own + mapped + saved:.1f} MiB; large constants in memory: {count}, with {shared:.1f} MiB",
    ]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("address", help="address of the container, e.g. http://127.0.0.1:8080")
    parser.add_argument("models", type=Path, help="the folder that make_recommenders.py has written")
    parser.add_argument("--pid", type=int, help="the container's process, to report its memory")
    parser.add_argument("--keep", action="store_true", help="keep the models loaded, and print a curl line to try")
    arguments = parser.parse_args()

    segments: dict[str, Any] = json.loads((arguments.models / "segments.json").read_text())
    container = Container(arguments.address)
    container.call(None, "GET", "/ping")
    before = memory_mib(arguments.pid)

    first_load, load, as_json, as_csv, unload = (
        Timings(kind) for kind in ("load, first time", "load, prepared", "invoke, JSON", "invoke, CSV", "unload")
    )

    def load_all(timings: Timings) -> None:
        for segment in segments:
            wanted = {"model_name": opaque_name(segment), "url": str((arguments.models / segment).resolve())}
            headers = {"Content-Type": "application/json", "X-Amzn-SageMaker-Target-Model": f"{segment}.tar.gz"}
            container.call(timings, "POST", "/models", json.dumps(wanted).encode(), headers)

    def unload_all(timings: Timings) -> None:
        for segment in segments:
            container.call(timings, "DELETE", f"/models/{opaque_name(segment)}")

    # Like the platform when memory is short. The second load maps the prepared models.
    load_all(first_load)
    unload_all(unload)
    load_all(load)
    resident = listed(container)
    loaded = memory_mib(arguments.pid)

    for segment, facts in segments.items():
        path = f"/models/{opaque_name(segment)}/invoke"
        body = json.dumps({"instances": facts["request"]["bought"]}).encode()
        answer = container.call(as_json, "POST", path, body, {"Content-Type": "application/json"})
        check_json(segment, answer, facts["response"])
        body = "".join(",".join(map(str, row)) + "\n" for row in facts["request"]["bought"]).encode()
        headers = {"Content-Type": "text/csv", "Accept": "text/csv"}
        check_csv(segment, container.call(as_csv, "POST", path, body, headers), facts["response"])

    memory = memory_rows(gauges(container))

    segment = next(iter(segments))
    print(f"\nFor example {segment}, whose customer bought {', '.join(segments[segment]['bought_titles'][0])}:")
    for title, score in zip(*(segments[segment]["response"][name][0] for name in ("titles", "scores")), strict=True):
        print(f"  {score:6.3f}  {title}")

    if not arguments.keep:
        unload_all(unload)
    after = memory_mib(arguments.pid)

    print(f"\n{resident} models in one process, every answer checked:")
    print(f"  {'':<28}{'calls':>7}{'median ms':>12}{'p99 ms':>12}{'max ms':>12}")
    for timings in (first_load, load, as_json, as_csv, unload):
        if timings.values:
            print(timings.row())
    print(*memory, sep="\n")
    if before is not None and loaded is not None and after is not None:
        each = (loaded - before) * 1024 / len(segments)
        print(f"  anonymous memory: {before:.1f} MiB at the start, {loaded:.1f} MiB loaded ({each:.0f} KiB a model)", end="")
        print("" if arguments.keep else f", {after:.1f} MiB after unloading")
    if arguments.keep:
        request = json.dumps({"instances": segments[segment]["request"]["bought"]})
        print(f"\nTry it:\n  curl {arguments.address}/models/{opaque_name(segment)}/invoke \\")
        print(f"    -H 'Content-Type: application/json' -d '{request}'")


if __name__ == "__main__":
    try:
        main()
    except OSError as error:
        sys.exit(f"demo: {error}")
