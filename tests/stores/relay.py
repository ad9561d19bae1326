"""A relay in front of a store's server: records longshore's requests, and can damage or replace
responses.

Used by tests/stores/cloud_servers.py. All other clients connect to the server directly.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.client import HTTPConnection, HTTPResponse
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import unquote, urlsplit

from store_checks import Request

CHUNK = 1 << 16


@dataclass(frozen=True)
class Answer:
    """A response of the relay itself."""

    status: int
    body: bytes = b""


# Returns a replacement for a response of the server with this status and these headers, if any.
Rule = Callable[[Request, int, dict[str, str]], Answer | None]


@dataclass
class Relay:
    server: str
    rule: Rule = lambda _request, _status, _headers: None
    address: str = ""
    seen: list[tuple[Request, int]] = field(default_factory=list)
    # Number of bytes after which longer bodies are cut off, and number of cuts.
    cut_after: int = 0
    cuts: int = 0
    # Text that is added to the query of each list request to Azure.
    lists: str = ""
    lock: threading.Lock = field(default_factory=threading.Lock)

    def requests(self, path: str) -> list[Request]:
        with self.lock:
            return [request for request, _ in self.seen if request.path == path]

    def statuses(self, path: str) -> list[int]:
        with self.lock:
            return [status for request, status in self.seen if request.path == path]

    def note(self, request: Request, status: int) -> None:
        with self.lock:
            self.seen.append((request, status))

    def allowed(self, length: int) -> int:
        """Number of bytes of a body to send."""
        with self.lock:
            if not self.cuts or length <= self.cut_after:
                return length
            self.cuts -= 1
            return self.cut_after


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    # Otherwise the client's delayed acknowledgement of the head delays the body.
    disable_nagle_algorithm = True
    relay: Relay

    def do_GET(self) -> None:
        headers = {name.lower(): value for name, value in self.headers.items()}
        request = Request(unquote(urlsplit(self.path).path), headers)
        target = self.path + (self.relay.lists if "comp=list" in self.path else "")
        connection = HTTPConnection(self.relay.server, timeout=60)
        try:
            # Keeps the server's own host, by which fake-gcs-server recognises the request.
            connection.putrequest("GET", target, skip_accept_encoding=True)
            for name, value in self.headers.items():
                if name.lower() != "host":
                    connection.putheader(name, value)
            connection.endheaders()
            self.pass_on(request, connection.getresponse())
        finally:
            connection.close()

    def pass_on(self, request: Request, response: HTTPResponse) -> None:
        headers = {name.lower(): value for name, value in response.getheaders()}
        own = self.relay.rule(request, response.status, headers)
        self.relay.note(request, own.status if own else response.status)
        if own:
            self.answer(own.status, {"content-type": "application/xml"}, len(own.body))
            self.wfile.write(own.body)
            return
        if response.length is None:
            body = response.read()
            self.answer(response.status, headers, len(body))
            self.wfile.write(body)
            return
        left = self.relay.allowed(response.length)
        self.close_connection = left < response.length
        self.answer(response.status, headers, response.length)
        while chunk := response.read(min(CHUNK, left)):
            self.wfile.write(chunk)
            left -= len(chunk)

    def answer(self, status: int, headers: dict[str, str], length: int) -> None:
        self.send_response_only(status)
        for name, value in headers.items():
            if name not in ("connection", "content-length", "keep-alive", "transfer-encoding"):
                self.send_header(name, value)
        if status != 304:
            self.send_header("content-length", str(length))
        self.end_headers()

    def log_message(self, *_: object) -> None:
        pass


class Server(ThreadingHTTPServer):
    daemon_threads = True

    def handle_error(self, *_: object) -> None:
        """Ignores clients that close the connection during a response."""


@contextmanager
def serving(handler: type[BaseHTTPRequestHandler]) -> Iterator[Server]:
    """A server on a free port."""
    server = Server(("127.0.0.1", 0), handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield server
    finally:
        server.shutdown()
        server.server_close()


@contextmanager
def relaying(relay: Relay) -> Iterator[None]:
    with serving(type("Handler", (Handler,), {"relay": relay})) as server:
        relay.address = f"127.0.0.1:{server.server_port}"
        yield
