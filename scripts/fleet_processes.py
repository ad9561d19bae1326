"""The processes of a fleet on one machine: servers, HAProxy and a bucket in moto.

Used by scripts/fleet; scripts/plan-check uses parts of it. Server N listens on 127.x.y.N, because
haproxy.cfg makes the address of a server from a text before its number and one after it. A fleet
has its own x and y.
"""

from __future__ import annotations

import csv
import http.client
import io
import os
import random
import re
import signal
import socket
import subprocess
import sys
import tarfile
import time
from array import array
from collections.abc import Callable
from pathlib import Path
from typing import BinaryIO

ROOT = Path(__file__).resolve().parents[1]
CONFIG = ROOT / "container/deploy/fleet/haproxy.cfg"
TARGET_MODEL = "X-Amzn-SageMaker-Target-Model"
# Numbers that a model takes, and those between its two products.
WIDTH, HIDDEN = 16, 16_384
BUCKET = "fleet"
SLOTS = 16
# Far above the time of any step, even on a busy machine.
PATIENCE = 60.0


class FleetError(Exception):
    """A process of the fleet did not do what the fleet needs."""


def eventually(what: str, condition: Callable[[], bool]) -> None:
    started = time.monotonic()
    while not condition():
        if time.monotonic() - started > PATIENCE:
            raise FleetError(f"{what} did not happen in {PATIENCE:.0f} seconds")
        time.sleep(0.02)


def field(number: int, value: bytes | int) -> bytes:
    """A field of a protocol buffer: bytes or a number."""

    def varint(number: int) -> bytes:
        digits = []
        while number > 0x7F:
            digits.append(number & 0x7F | 0x80)
            number >>= 7
        return bytes([*digits, number])

    if isinstance(value, int):
        return varint(number << 3) + varint(value)
    return varint(number << 3 | 2) + varint(len(value)) + value


def network(seed: int) -> bytes:
    """An ONNX model with 1 MB of weights of its own: y = x w v, from WIDTH numbers to one."""
    generator = random.Random(seed)

    def value(name: bytes, columns: int) -> bytes:
        shape = field(1, field(2, b"batch")) + field(1, field(1, columns))
        return field(1, name) + field(2, field(1, field(1, 1) + field(2, shape)))

    def weights(name: bytes, rows: int, columns: int) -> bytes:
        numbers = array("f", (generator.uniform(-1, 1) for _ in range(rows * columns)))
        return field(1, rows) + field(1, columns) + field(2, 1) + field(8, name) + field(9, numbers.tobytes())

    def product(left: bytes, right: bytes, result: bytes) -> bytes:
        return field(1, left) + field(1, right) + field(2, result) + field(4, b"MatMul")

    graph = field(1, product(b"x", b"w", b"h")) + field(1, product(b"h", b"v", b"y")) + field(2, b"rows")
    graph += field(5, weights(b"w", WIDTH, HIDDEN)) + field(5, weights(b"v", HIDDEN, 1))
    graph += field(11, value(b"x", WIDTH)) + field(12, value(b"y", 1))
    return field(1, 8) + field(7, graph) + field(8, field(2, 17))


def archive(model: bytes) -> bytes:
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w:gz", compresslevel=1) as tar:
        entry = tarfile.TarInfo("model.onnx")
        entry.size = len(model)
        tar.addfile(entry, io.BytesIO(model))
    return packed.getvalue()


def name_of(model: int) -> str:
    return f"models/{model}.tar.gz"


class Bucket:
    """S3 in moto, which ends with this process."""

    def __init__(self) -> None:
        server = [sys.executable, str(ROOT / "tests/s3/server.py")]
        self.process = subprocess.Popen(server, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
                                        start_new_session=True)
        assert self.process.stdout
        self.address = f"http://{self.process.stdout.readline().strip()}"
        self.variables = {
            "AWS_ENDPOINT_URL_S3": self.address,
            "AWS_ACCESS_KEY_ID": "key",
            "AWS_SECRET_ACCESS_KEY": "secret",
            "AWS_REGION": "eu-central-1",
            "AWS_DEFAULT_REGION": "eu-central-1",
            "AWS_EC2_METADATA_DISABLED": "true",
        }

    def upload(self, models: int) -> None:
        import boto3  # type: ignore[import-untyped]

        os.environ.update(self.variables)
        s3 = boto3.client("s3", endpoint_url=self.address)
        s3.create_bucket(Bucket=BUCKET, CreateBucketConfiguration={"LocationConstraint": "eu-central-1"})
        for model in range(models):
            s3.put_object(Bucket=BUCKET, Key=name_of(model), Body=archive(network(model)))

    def stop(self) -> None:
        self.process.kill()
        self.process.wait()


def free_port(host: str) -> int:
    with socket.socket() as probe:
        probe.bind((host, 0))
        return int(probe.getsockname()[1])


def start(command: list[str], parting: str, environment: dict[str, str], output: BinaryIO) -> subprocess.Popen[bytes]:
    """Starts a process that ends with the calling thread, also if this process is killed: the kernel
    then sends the signal `parting`. A session of its own has the process get no Ctrl-C, and lets a
    signal reach all of its processes."""
    tether = [os.environ["LONGSHORE"], "tether", "--parent", str(os.getpid()), "--parting", parting, "--"]
    return subprocess.Popen(tether + command, env=environment, stdin=subprocess.DEVNULL, stdout=output, stderr=output,
                            start_new_session=True)


class Fleet:
    """Servers and a balancer. All of them end with `stop`, and with the thread that starts them."""

    def __init__(self, work: Path, bucket: Bucket, memory: str, options: list[str]) -> None:
        self.work, self.bucket = work, bucket
        self.options = ["--memory-limit", memory, *options]
        self.net = f"127.{random.randrange(64, 250)}.{random.randrange(1, 250)}."
        self.port = free_port(f"{self.net}0")
        self.servers: dict[int, subprocess.Popen[bytes]] = {}
        self.haproxy: subprocess.Popen[bytes] | None = None
        self.address = self.status = ""

    def host(self, server: int) -> str:
        return f"{self.net}{server}:{self.port}"

    def start_server(self, server: int) -> None:
        """Starts a server, with the models on disk that it had before."""
        log = self.work / f"server-{server}.log"
        command = [os.environ["LONGSHORE"], "serve", "--bind", f"{self.net}{server}", "--port", str(self.port)]
        command += ["--model-store", f"s3://{BUCKET}", "--cache-dir", str(self.work / f"cache-{server}")]
        command += self.options
        environment = {**os.environ, **self.bucket.variables, "LONGSHORE_BEHIND_BALANCER": "true"}
        with log.open("wb") as output:
            process = start(command, "term", environment, output)
        self.servers[server] = process

        def listens() -> bool:
            if process.poll() is not None:
                raise FleetError(f"server {server} does not start:\n{log.read_text()}")
            return "listening" in log.read_text()

        eventually(f"the start of server {server}", listens)

    def kill_server(self, server: int) -> None:
        """Kills a server with SIGKILL, as a machine that fails."""
        process = self.servers.pop(server)
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()

    def drain_server(self, server: int) -> None:
        process = self.servers.pop(server)
        process.terminate()
        process.wait()

    def balance(self, port: int = 0, variables: dict[str, str] | None = None, in_turn: bool = False) -> None:
        """Starts HAProxy, and waits until it knows which servers are up. With `in_turn`, requests
        go to the servers by round robin instead of by their model."""
        text = CONFIG.read_text()
        if in_turn:
            text = re.sub(r"(?m)^ *hash-(type|balance-factor) .*\n", "", text)
            text = text.replace("balance hash var(txn.model)", "balance roundrobin")
        config = self.work / "haproxy.cfg"
        config.write_text(text)
        self.address = f"127.0.0.1:{port or free_port('127.0.0.1')}"
        self.status = f"127.0.0.1:{free_port('127.0.0.1')}"
        environment = {
            **os.environ,
            "LONGSHORE_FLEET_PREFIX": self.net,
            "LONGSHORE_FLEET_SUFFIX": f":{self.port}",
            "LONGSHORE_FLEET_BIND": self.address,
            "LONGSHORE_FLEET_STATUS": self.status,
            **(variables or {}),
        }
        log = self.work / "haproxy.log"
        with log.open("wb") as output:
            haproxy = start(["haproxy", "-db", "-f", str(config)], "kill", environment, output)
        self.haproxy = haproxy

        def knows() -> bool:
            if haproxy.poll() is not None:
                raise FleetError(f"HAProxy does not start:\n{log.read_text()}")
            return self.up() == set(self.servers)

        eventually("the health check of all servers", knows)

    def stop_balancer(self) -> None:
        if self.haproxy:
            self.haproxy.terminate()
            self.haproxy.wait()
            self.haproxy = None

    def statistics(self) -> dict[int, dict[str, str]]:
        """HAProxy's own figures of each server."""
        try:
            text = get(self.status, "/;csv").removeprefix("# ")
        except OSError:
            return {}
        rows = csv.DictReader(io.StringIO(text))
        names = {f"longshore-{server}": server for server in range(SLOTS)}
        return {names[row["svname"]]: row for row in rows if row["pxname"] == "models" and row["svname"] in names}

    def up(self) -> set[int]:
        return {server for server, row in self.statistics().items() if row["status"].startswith("UP")}

    def metric(self, server: int, name: str) -> float:
        found = re.search(rf"(?m)^{re.escape(name)} (\S+)$", get(self.host(server), "/metrics"))
        return float(found.group(1)) if found else 0.0

    def stop(self) -> None:
        self.stop_balancer()
        for server in list(self.servers):
            self.drain_server(server)


def get(address: str, path: str) -> str:
    connection = http.client.HTTPConnection(address, timeout=PATIENCE)
    connection.request("GET", path)
    text = connection.getresponse().read().decode()
    connection.close()
    return text
