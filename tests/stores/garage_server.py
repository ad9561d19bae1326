"""Garage on free ports of the loopback interface, and the requests that it received.

Used by tests/stores/garage_check.py. The requests are read from garage's log, which has each with
its headers.
"""

from __future__ import annotations

import re
import secrets
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

import boto3

from demo_store import PREFIX
from processes import alive, free_addresses, listens, running, until
from store_checks import Request

BUCKET = "shop"
REGION = "us-east-1"

# Matches lines of the log, which have other fields in front.
REQUEST = re.compile(r"Request \{ method: GET, uri: (\S+), .*?headers: \{(.*)\}, body")
HEADER = re.compile(r'"([a-z0-9-]+)": "((?:[^"\\]|\\.)*)"')


@dataclass(frozen=True)
class Keys:
    id: str
    secret: str

    @staticmethod
    def new() -> Keys:
        return Keys(f"GK{secrets.token_hex(12)}", secrets.token_hex(32))

    def environment(self) -> dict[str, str]:
        return {"AWS_ACCESS_KEY_ID": self.id, "AWS_SECRET_ACCESS_KEY": self.secret}


def parsed(line: str) -> Request | None:
    """The request in a line of the log."""
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
    name: str = "garage"
    url: str = f"s3://{BUCKET}"

    def environment(self) -> dict[str, str]:
        return {"AWS_ENDPOINT_URL_S3": self.endpoint, "AWS_REGION": REGION, **self.keys.environment()}

    def requests(self, name: str) -> list[Request]:
        """The requests of longshore for an object."""
        found = (parsed(line) for line in self.log.read_text(errors="replace").splitlines())
        path = f"/{BUCKET}/{PREFIX}/{name}"
        return [
            request
            for request in found
            if request and request.path == path and request.headers["user-agent"].startswith("longshore/")
        ]

    def reported_unchanged(self) -> bool:
        return "304 Not Modified" in self.log.read_text(errors="replace")

    def put(self, name: str, body: bytes) -> str:
        """Writes an object, and returns its tag."""
        return str(self.s3.put_object(Bucket=BUCKET, Key=f"{PREFIX}/{name}", Body=body)["ETag"])

    def delete(self, name: str) -> None:
        self.s3.delete_object(Bucket=BUCKET, Key=f"{PREFIX}/{name}")

    def keys_without_rights(self) -> Keys:
        keys = Keys.new()
        command = [self.binary, "-c", self.config, "key", "import", "--yes", "-n", "without-rights", keys.id, keys.secret]
        subprocess.run([*map(str, command)], check=True, capture_output=True)
        return keys


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
        # Logs requests with their headers, in lines without colours.
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
        # Garage opens this port last, when the bucket exists.
        until("garage", lambda: alive(process, listens(api)))
        yield Garage(binary, config, log, f"http://{api}", keys, s3)
