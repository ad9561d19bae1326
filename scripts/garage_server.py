"""Garage on free ports of the loopback interface, and what was asked of it.

Used by scripts/garage_check.py. What was asked is read in garage's log, which has every request with its headers.
"""

from __future__ import annotations

import os
import re
import secrets
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar
from urllib.parse import unquote, urlsplit

import boto3

from demo_store import PREFIX

BUCKET = "shop"
REGION = "us-east-1"
# For what happens within a second on any machine that is not stuck.
PATIENCE = 30.0

# In lines of the log that have what else was done in front.
REQUEST = re.compile(r"Request \{ method: GET, uri: (\S+), .*?headers: \{(.*)\}, body")
HEADER = re.compile(r'"([a-z0-9-]+)": "((?:[^"\\]|\\.)*)"')

Found = TypeVar("Found")


def until(what: str, look: Callable[[], Found | None]) -> Found:
    """What is found, once something is."""
    end = time.monotonic() + PATIENCE
    while (found := look()) is None:
        if time.monotonic() > end:
            raise SystemExit(f"{what}: not within {PATIENCE:.0f} s")
        time.sleep(0.02)
    return found


@contextmanager
def running(command: list[object], environment: dict[str, str], log: Path) -> Iterator[subprocess.Popen[bytes]]:
    """A process until the block ends. When that fails, the end of its log is shown."""
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
    """What was found, unless the process has ended."""
    if process.poll() is not None:
        raise SystemExit(f"{process.args!r} ended with {process.returncode}")
    return found


@dataclass(frozen=True)
class Keys:
    id: str
    secret: str

    @staticmethod
    def new() -> Keys:
        return Keys(f"GK{secrets.token_hex(12)}", secrets.token_hex(32))


@dataclass(frozen=True)
class Request:
    """What longshore has asked of garage."""

    path: str
    headers: dict[str, str]

    @staticmethod
    def parse(line: str) -> Request | None:
        if not (found := REQUEST.search(line)):
            return None
        headers = {name: value.replace('\\"', '"') for name, value in HEADER.findall(found[2])}
        return Request(unquote(urlsplit(found[1]).path), headers)


@dataclass(frozen=True)
class Garage:
    """Garage with an empty bucket."""

    binary: Path
    config: Path
    log: Path
    endpoint: str
    keys: Keys
    s3: Any

    def requests(self, name: str) -> list[Request]:
        """Those of longshore for an object."""
        found = (Request.parse(line) for line in self.log.read_text(errors="replace").splitlines())
        path = f"/{BUCKET}/{PREFIX}/{name}"
        return [
            request
            for request in found
            if request and request.path == path and request.headers["user-agent"].startswith("longshore/")
        ]

    def put(self, name: str, body: bytes) -> str:
        """The object's tag."""
        return str(self.s3.put_object(Bucket=BUCKET, Key=f"{PREFIX}/{name}", Body=body)["ETag"])

    def keys_without_rights(self) -> Keys:
        keys = Keys.new()
        command = [self.binary, "-c", self.config, "key", "import", "--yes", "-n", "nobody", keys.id, keys.secret]
        subprocess.run([*map(str, command)], check=True, capture_output=True)
        return keys


def listens(address: str) -> bool | None:
    """True if so, else nothing."""
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


@contextmanager
def garage_in(folder: Path, binary: Path) -> Iterator[Garage]:
    folder.mkdir()
    rpc, api = free_addresses(2)
    config, log = folder / "garage.toml", folder / "garage.log"
    config.write_text(
        f"""
        metadata_dir = "{folder}/metadata"
        data_dir = "{folder}/data"
        db_engine = "sqlite"
        replication_factor = 1
        rpc_bind_addr = "{rpc}"
        rpc_public_addr = "{rpc}"
        rpc_secret = "{secrets.token_hex(32)}"
        [s3_api]
        s3_region = "{REGION}"
        api_bind_addr = "{api}"
        """
    )
    keys = Keys.new()
    environment = {
        "GARAGE_DEFAULT_ACCESS_KEY": keys.id,
        "GARAGE_DEFAULT_SECRET_KEY": keys.secret,
        "GARAGE_DEFAULT_BUCKET": BUCKET,
        # Requests with their headers, in lines without colours.
        "RUST_LOG": "garage=info,garage_api_common=debug",
        "NO_COLOR": "1",
    }
    command = [binary, "-c", config, "server", "--single-node", "--default-bucket"]
    s3 = boto3.client(
        "s3",
        endpoint_url=f"http://{api}",
        region_name=REGION,
        aws_access_key_id=keys.id,
        aws_secret_access_key=keys.secret,
    )
    with running(command, environment, log) as process:
        # It listens last, when the bucket is there.
        until("garage", lambda: alive(process, listens(api)))
        yield Garage(binary, config, log, f"http://{api}", keys, s3)
