#!/usr/bin/env python3
"""Checks a model store in garage, an S3 server that verifies signatures.

Used by scripts/garage. Starts garage and, for each check, a longshore of its own with an empty cache; all end with it.
Ends with status 1 when something is not as it must be.
"""

from __future__ import annotations

import argparse
import io
import json
import random
import re
import signal
import subprocess
import sys
import tarfile
import tempfile
import textwrap
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any
from urllib.parse import quote

from demo_client import Container, check_json
from demo_store import PREFIX, archive, ask, upload
from garage_server import BUCKET, REGION, Garage, Keys, alive, garage_in, running, until

MODELS = 100
# Several parts of what longshore asks for at once.
FILLER = 14 << 20

# A signature covers them percent-encoded: a letter that one side encodes and the other does not is a refusal.
ARCHIVE_NAME = "a b/zürich+100%25&=~!'(),;:@$*.tar.gz"
FOLDER_NAME = "folder/köln +%20&=?#"


def step(text: str) -> None:
    print(f"\n== {text}", flush=True)


def row(what: str, number: object, text: str) -> None:
    print(f"  {what:<28}{number:>7}  {text}", flush=True)


def must(what: str, found: object, expected: object) -> None:
    if found != expected:
        raise SystemExit(f"{what}: {found}, must be {expected}")


@dataclass(frozen=True)
class Checks:
    """What all checks need."""

    work: Path
    binary: Path
    models: Path
    segments: dict[str, Any]
    garage: Garage

    @contextmanager
    def longshore(
        self, *arguments: str, bucket: str = BUCKET, keys: Keys | None = None, **environment: str
    ) -> Iterator[str]:
        """The address of a server that has fetched nothing yet."""
        keys = keys or self.garage.keys
        folder = Path(tempfile.mkdtemp(dir=self.work))
        log = folder / "longshore.log"
        credentials = {
            "AWS_ENDPOINT_URL_S3": self.garage.endpoint,
            "AWS_REGION": REGION,
            "AWS_ACCESS_KEY_ID": keys.id,
            "AWS_SECRET_ACCESS_KEY": keys.secret,
        }
        command = [self.binary, "serve", "--bind", "127.0.0.1", "--port", "0", "--cache-dir", folder / "cache"]
        command += ["--model-store", f"s3://{bucket}/{PREFIX}", *arguments]
        with running(command, credentials | environment, log) as process:
            listening = r"listening.*address=([0-9.:]+)"
            found = until("longshore", lambda: alive(process, re.search(listening, log.read_text())))
            yield f"http://{found[1]}"

    def send(self, container: Container, name: str, segment: str) -> tuple[int, bytes]:
        """Asks the model `name` what the model of `segment` has an answer to."""
        body = json.dumps({"instances": self.segments[segment]["request"]["bought"]}).encode()
        headers = {"Content-Type": "application/json"}
        return container.send("POST", f"/models/{quote(name, safe='')}/invoke", body, headers)

    def answers(self, container: Container, name: str, segment: str) -> None:
        """The model `name` must answer as that of `segment`."""
        status, answer = self.send(container, name, segment)
        if status != 200:
            raise SystemExit(f"{name}: {status} {answer.decode(errors='replace')}")
        check_json(name, answer, self.segments[segment]["response"])

    def on_first_request(self) -> None:
        step(f"{len(self.segments)} models out of garage, each on first request")
        upload(self.models, self.garage.s3, BUCKET)
        # Garage sends the head and the body of an answer apart and waits for the client's acknowledgement between them,
        # which comes after 40 ms on a connection that is kept.
        with self.longshore() as address:
            print(f"  {'':<28}{'calls':>7}{'median ms':>12}{'p99 ms':>12}{'max ms':>12}")
            ask(self.models, address, ["first request", "from memory"])
        for segment in self.segments:
            must(f"requests to garage for {segment}", len(self.garage.requests(f"{segment}.tar.gz")), 1)

    def what_is_signed(self) -> None:
        step("names and headers that a signature covers")
        segment = next(iter(self.segments))
        self.garage.put(ARCHIVE_NAME, archive(self.models / segment))
        self.garage.put(f"{FOLDER_NAME}/model.onnx", (self.models / segment / "model.onnx").read_bytes())
        self.garage.put(f"{FOLDER_NAME}/longshore.json", b"{}")
        for what, name, environment in (
            ("odd letters in a name", ARCHIVE_NAME, {}),
            ("a folder, which is listed", FOLDER_NAME, {}),
            ("a session token", f"{segment}.tar.gz", {"AWS_SESSION_TOKEN": "a/b+c=="}),
        ):
            with self.longshore(**environment) as address:
                self.answers(Container(address), name, segment)
            token = self.garage.requests(name)[-1].headers.get("x-amz-security-token")
            must("the session token", token, environment.get("AWS_SESSION_TOKEN"))
            row(what, 200, name)

    def in_parts(self) -> None:
        step("a large archive")
        segment = next(iter(self.segments))
        packed = io.BytesIO()
        with tarfile.open(fileobj=packed, mode="w:gz", compresslevel=1) as tar:
            # Nothing to compress.
            filler = tarfile.TarInfo("filler.bin")
            filler.size = FILLER
            tar.addfile(filler, io.BytesIO(random.Random(1).randbytes(FILLER)))
            tar.add(self.models / segment / "model.onnx", arcname="model.onnx")
        size = packed.tell()
        tag = self.garage.put("large.tar.gz", packed.getvalue())
        with self.longshore() as address:
            self.answers(Container(address), "large.tar.gz", segment)
        parts = {request.headers["range"]: request.headers for request in self.garage.requests("large.tar.gz")}
        ranges = sorted(tuple(map(int, part.removeprefix("bytes=").split("-"))) for part in parts)
        ends = [0] + [end + 1 for _, end in ranges]
        must("the parts' beginnings", [start for start, _ in ranges], ends[:-1])
        must("the end of the last part", ends[-1], size)
        if len(parts) < 3:
            raise SystemExit(f"{size} bytes came in {len(parts)} parts")
        # The first answer says what the others must match.
        conditions = [parts[f"bytes={start}-{end}"].get("if-match") for start, end in ranges]
        must("the parts' conditions", conditions, [None] + [tag] * (len(parts) - 1))
        row("ranges, with If-Match", len(parts), f"of {size / 2**20:.1f} MiB, all of version {tag}")

    def replaced(self) -> None:
        step("an archive that is replaced, and deleted")
        name = "replaced.tar.gz"
        old, new = list(self.segments)[:2]
        self.garage.put(name, archive(self.models / old))
        with self.longshore("--revalidate", "1ms", "--negative-ttl", "1ms") as address:
            container = Container(address)
            self.answers(container, name, old)
            before = self.send(container, name, new)
            until("an answer that it is still the same", lambda: self.unchanged(container, name, new))
            self.garage.put(name, archive(self.models / new))
            # Until the new one has come, the old one answers.
            until("the new model", lambda: None if self.send(container, name, new) == before else True)
            self.answers(container, name, new)
            looked = sum("if-none-match" in request.headers for request in self.garage.requests(name))
            must("requests with If-None-Match", looked, len(self.garage.requests(name)) - 1)
            row("replaced", 200, f"the new model answers; all but the first of {looked + 1} requests had If-None-Match")
            self.garage.s3.delete_object(Bucket=BUCKET, Key=f"{PREFIX}/{name}")
            status, answer = until("a deleted model", lambda: self.refusal(container, name, new))
            must("a deleted model", status, 404)
            row("deleted", status, shortened(answer))

    def unchanged(self, container: Container, name: str, segment: str) -> bool | None:
        """True once garage was asked whether there is another version, and there was not."""
        self.send(container, name, segment)
        return "304 Not Modified" in self.garage.log.read_text(errors="replace") or None

    def refusal(self, container: Container, name: str, segment: str) -> tuple[int, bytes] | None:
        status, answer = self.send(container, name, segment)
        return None if status == 200 else (status, answer)

    def what_is_refused(self) -> None:
        step("what is refused")
        keys = self.garage.keys
        segment = next(iter(self.segments))
        name = f"{segment}.tar.gz"
        of = f"s3://{BUCKET}/{PREFIX}/{name}"
        unknown, nobody = Keys.new(), self.garage.keys_without_rights()
        forbidden = f"{of} is refused: 403 AccessDenied (Forbidden:"
        missing = f"there is nothing at s3://{BUCKET}/{PREFIX}/missing.tar.gz"
        elsewhere = f"there is no bucket for s3://none/{PREFIX}/{name}"
        region = f"{of} is in another region ({REGION}); set AWS_REGION"
        wrong = replace(keys, secret=Keys.new().secret)
        for what, asked, settings, expected, says in (
            ("wrong secret", name, {"keys": wrong}, 503, f"{forbidden} Invalid signature); correct AWS_SECRET"),
            ("unknown access key", name, {"keys": unknown}, 503, f"{forbidden} No such key: {unknown.id}); correct"),
            ("key without rights", name, {"keys": nobody}, 503, f"{forbidden} Operation is not allowed"),
            ("no signature", name, {"AWS_SKIP_SIGNATURE": "true"}, 503, f"{forbidden} Garage does not support"),
            ("another region", name, {"AWS_REGION": "eu-west-1"}, 503, region),
            ("missing bucket", name, {"bucket": "none"}, 503, elsewhere),
            ("missing key", "missing.tar.gz", {}, 404, missing),
        ):
            with self.longshore(**settings) as address:
                status, answer = self.send(Container(address), asked, segment)
                must(what, status, expected)
                if says not in said(answer):
                    raise SystemExit(f"{what}: {said(answer)}; must say {says}")
                row(what, status, shortened(answer))


def said(answer: bytes) -> str:
    """The reason in a refusal."""
    return str(json.loads(answer)["message"]).partition("from the store: ")[2]


def shortened(answer: bytes) -> str:
    """As much of the reason as makes a row."""
    return textwrap.shorten(said(answer).rpartition("is refused: ")[2], 90, placeholder=" ...", break_on_hyphens=False)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("garage", type=Path, help="the program")
    parser.add_argument("longshore", type=Path, help="the program")
    parser.add_argument("python", type=Path, help="one that has what make_recommenders.py needs")
    arguments = parser.parse_args()
    # So that the processes end with this one.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit("ended by a signal"))
    with tempfile.TemporaryDirectory(prefix="longshore-garage-") as folder:
        work = Path(folder)
        step(f"{MODELS} recommender models")
        make = Path(__file__).with_name("make_recommenders.py")
        subprocess.run([arguments.python, make, work / "models", "--count", str(MODELS)], check=True)
        segments = json.loads((work / "models" / "segments.json").read_text())
        with garage_in(work / "garage", arguments.garage) as garage:
            checks = Checks(work, arguments.longshore, work / "models", segments, garage)
            checks.on_first_request()
            checks.what_is_signed()
            checks.in_parts()
            checks.replaced()
            checks.what_is_refused()
    print("\nAll is as it must be.")


if __name__ == "__main__":
    main()
