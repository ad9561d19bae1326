"""Checks that apply to a model store on any server.

Used by tests/stores/garage_check.py and tests/stores/clouds_check.py. Each check starts a
longshore with an empty cache, which ends with the check. Any deviation ends the program with
status 1.
"""

from __future__ import annotations

import io
import json
import os
import random
import re
import subprocess
import sys
import tarfile
import tempfile
import textwrap
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol
from urllib.parse import quote

from demo_client import Container, check_json
from demo_store import PREFIX, archive, ask
from processes import alive, running, until

MODELS = 100

# Signatures cover these characters percent-encoded. If one side encodes a character and the other
# does not, the server refuses the request.
ARCHIVE_NAME = "a b/zürich+100%25&=~!'(),;:@$*.tar.gz"
FOLDER_NAME = "folder/köln +%20&=?#"


@dataclass(frozen=True)
class Request:
    """A request of longshore to the store."""

    path: str
    headers: dict[str, str]


class Store(Protocol):
    """A server with a bucket."""

    name: str
    # The value of --model-store, without the prefix.
    url: str

    def environment(self) -> dict[str, str]:
        """The variables with which longshore reaches the store."""

    def requests(self, name: str) -> list[Request]:
        """The requests of longshore for an object."""

    def reported_unchanged(self) -> bool:
        """Whether the server has reported an object as unchanged."""

    def put(self, name: str, body: bytes) -> str:
        """Writes an object, and returns its tag."""

    def delete(self, name: str) -> None: ...


@dataclass(frozen=True)
class Refusal:
    """A request that must fail, and a part of its message."""

    what: str
    name: str
    status: int
    says: str
    environment: dict[str, str] = field(default_factory=dict)
    # The URL of another store, with the prefix.
    url: str | None = None


def step(text: str) -> None:
    print(f"\n== {text}", flush=True)


def row(what: str, number: object, text: str) -> None:
    print(f"  {what:<28}{number:>7}  {text}", flush=True)


def must(what: str, found: object, expected: object) -> None:
    if found != expected:
        raise SystemExit(f"{what}: {found}, expected {expected}")


def made(work: Path, python: Path) -> Path:
    """The folder of the recommender models, which `python` makes."""
    step(f"{MODELS} recommender models")
    make = Path(__file__).parents[2] / "scripts" / "make_recommenders.py"
    subprocess.run([python, make, work / "models", "--count", str(MODELS)], check=True)
    return work / "models"


@dataclass(frozen=True)
class Checks:
    """The inputs of all checks."""

    work: Path
    binary: Path
    models: Path
    store: Store

    @property
    def segments(self) -> dict[str, Any]:
        return json.loads((self.models / "segments.json").read_text())

    @property
    def segment(self) -> str:
        """The name of one segment."""
        return next(iter(self.segments))

    def command(self, url: str | None, folder: Path, *arguments: str) -> list[object]:
        command = [self.binary, "serve", "--bind", "127.0.0.1", "--port", "0", "--log-format", "text", "--cache-dir",
                   folder / "cache"]
        return [*command, "--model-store", url or f"{self.store.url}/{PREFIX}", *arguments]

    @contextmanager
    def longshore(self, *arguments: str, url: str | None = None, **environment: str) -> Iterator[str]:
        """The address of a server that has not fetched anything yet."""
        folder = Path(tempfile.mkdtemp(dir=self.work))
        log = folder / "longshore.log"
        command = self.command(url, folder, *arguments)
        with running(command, self.store.environment() | environment, log) as process:
            listening = r"listening.*address=([0-9.:]+)"
            found = until("longshore", lambda: alive(process, re.search(listening, log.read_text())))
            yield f"http://{found[1]}"

    def send(self, container: Container, name: str, segment: str) -> tuple[int, bytes]:
        """Sends the request of `segment` to the model `name`."""
        body = json.dumps({"instances": self.segments[segment]["request"]["bought"]}).encode()
        headers = {"Content-Type": "application/json"}
        return container.send("POST", f"/models/{quote(name, safe='')}/invoke", body, headers)

    def answers(self, container: Container, name: str, segment: str) -> None:
        """Asserts that the model `name` answers like that of `segment`."""
        status, answer = self.send(container, name, segment)
        if status != 200:
            raise SystemExit(f"{name}: {status} {answer.decode(errors='replace')}")
        check_json(name, answer, self.segments[segment]["response"])

    def archive(self, segment: str) -> bytes:
        return archive(self.models / segment)

    def put_folder(self, name: str, segment: str) -> None:
        self.store.put(f"{name}/model.onnx", (self.models / segment / "model.onnx").read_bytes())
        self.store.put(f"{name}/longshore.json", b"{}")

    def on_first_request(self) -> None:
        step(f"{len(self.segments)} models from {self.store.name}, each on its first request")
        for segment in self.segments:
            self.store.put(f"{segment}.tar.gz", self.archive(segment))
        with self.longshore() as address:
            print(f"  {'':<28}{'calls':>7}{'median ms':>12}{'p99 ms':>12}{'max ms':>12}")
            ask(self.models, address, ["first request", "from memory"])
        for segment in self.segments:
            must(f"requests for {segment}", len(self.store.requests(f"{segment}.tar.gz")), 1)

    def large(self, megabytes: int, segment: str) -> bytes:
        """An archive with this many MiB of incompressible data next to the model."""
        packed = io.BytesIO()
        with tarfile.open(fileobj=packed, mode="w:gz", compresslevel=1) as tar:
            filler = tarfile.TarInfo("filler.bin")
            filler.size = megabytes << 20
            tar.addfile(filler, io.BytesIO(random.Random(1).randbytes(filler.size)))
            tar.add(self.models / segment / "model.onnx", arcname="model.onnx")
        return packed.getvalue()

    def in_parts(self, megabytes: int) -> None:
        step("a large archive")
        packed = self.large(megabytes, self.segment)
        tag = self.store.put("large.tar.gz", packed)
        with self.longshore() as address:
            self.answers(Container(address), "large.tar.gz", self.segment)
        parts = {request.headers["range"]: request.headers for request in self.store.requests("large.tar.gz")}
        ranges = sorted(tuple(map(int, part.removeprefix("bytes=").split("-"))) for part in parts)
        ends = [0] + [end + 1 for _, end in ranges]
        must("the parts' beginnings", [start for start, _ in ranges], ends[:-1])
        must("the end of the last part", ends[-1], len(packed))
        if len(parts) < 3:
            raise SystemExit(f"{len(packed)} bytes came in {len(parts)} parts")
        # The first response has the version that the other requests must name.
        conditions = [parts[f"bytes={start}-{end}"].get("if-match") for start, end in ranges]
        must("the parts' conditions", conditions, [None] + [tag] * (len(parts) - 1))
        row("ranges, with If-Match", len(parts), f"of {len(packed) / 2**20:.1f} MiB, all of version {tag}")

    def replaced(self) -> None:
        step("an archive that is replaced and deleted")
        name = "replaced.tar.gz"
        old, new = list(self.segments)[:2]
        self.store.put(name, self.archive(old))
        with self.longshore("--revalidate", "1ms", "--negative-ttl", "1ms") as address:
            container = Container(address)
            self.answers(container, name, old)
            before = self.send(container, name, new)
            until("an answer that it is still the same", lambda: self.unchanged(container, name, new))
            self.store.put(name, self.archive(new))
            # The old model serves until the new one is loaded.
            until("the new model", lambda: None if self.send(container, name, new) == before else True)
            self.answers(container, name, new)
            looked = sum("if-none-match" in request.headers for request in self.store.requests(name))
            must("requests with If-None-Match", looked, len(self.store.requests(name)) - 1)
            row("replaced", 200, f"the new model answers; all but the first of {looked + 1} requests had If-None-Match")
            self.store.delete(name)
            status, answer = until("a deleted model", lambda: self.refusal(container, name, new))
            must("a deleted model", status, 404)
            row("deleted", status, shortened(answer))

    def unchanged(self, container: Container, name: str, segment: str) -> bool | None:
        """True once the store has reported that there is no new version."""
        self.send(container, name, segment)
        return self.store.reported_unchanged() or None

    def refusal(self, container: Container, name: str, segment: str) -> tuple[int, bytes] | None:
        status, answer = self.send(container, name, segment)
        return None if status == 200 else (status, answer)

    def refuses(self, refusals: list[Refusal], *arguments: str) -> None:
        for refusal in refusals:
            with self.longshore(*arguments, url=refusal.url, **refusal.environment) as address:
                status, answer = self.send(Container(address), refusal.name, self.segment)
            must(refusal.what, status, refusal.status)
            if refusal.says not in reason_of(answer):
                raise SystemExit(f"{refusal.what}: {reason_of(answer)}; must say {refusal.says}")
            row(refusal.what, status, shortened(answer))

    def refuses_to_start(self, what: str, says: str, **environment: str) -> None:
        folder = Path(tempfile.mkdtemp(dir=self.work))
        variables = {**os.environ, **self.store.environment(), **environment}
        command = [*map(str, self.command(None, folder))]
        ended = subprocess.run(command, env=variables, capture_output=True, text=True, timeout=60)
        if ended.returncode == 0 or says not in ended.stderr + ended.stdout:
            raise SystemExit(f"{what}: {ended.returncode} {ended.stderr}{ended.stdout}; must say {says}")
        text = (ended.stderr + ended.stdout).rpartition("settings in the environment: ")[2]
        row(what, ended.returncode, textwrap.shorten(text, 90, placeholder=" ...", break_on_hyphens=False))


def reason_of(answer: bytes) -> str:
    """The reason in an error message."""
    try:
        return str(json.loads(answer)["message"]).partition("from the store: ")[2]
    except (ValueError, KeyError):
        sys.exit(f"{answer!r} is not an error message")


def shortened(answer: bytes) -> str:
    """The reason, shortened to the width of a row."""
    return textwrap.shorten(reason_of(answer).rpartition("is refused: ")[2], 90, placeholder=" ...", break_on_hyphens=False)
