"""A container for `longshore endpoint --container NAME=http://ADDRESS`, which responds in parts.

Prints its address in one line once it serves, and ends with its standard input. It echoes the body
of a request in parts of four bytes. The body "break" makes it break off after the first part, and
"refuse" makes it refuse.
"""

import os
import sys
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        self.answer(200, b"")

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"]))
        if body == b"refuse":
            return self.answer(400, b"refused as asked")
        self.send_response(200)
        self.send_header("Content-Type", self.headers["Accept"])
        self.send_header("Transfer-Encoding", "chunked")
        self.end_headers()
        for start in range(0, len(body), 4):
            part = body[start : start + 4]
            self.wfile.write(b"%x\r\n%s\r\n" % (len(part), part))
            if body == b"break":
                self.close_connection = True
                return
        self.wfile.write(b"0\r\n\r\n")

    def answer(self, status: int, body: bytes) -> None:
        self.send_response(status)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        pass


server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
threading.Thread(target=server.serve_forever, daemon=True).start()
print(f"127.0.0.1:{server.server_port}", flush=True)
while sys.stdin.buffer.read(1):
    pass
# Does not wait for connections that clients keep open.
os._exit(0)
