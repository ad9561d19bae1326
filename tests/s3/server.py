"""S3 for tests: moto behind HTTP on a free port of the loopback interface.

Prints its address in one line when it answers, and ends with its standard input: whoever started it need not be able to
stop it. Objects are in memory. Any credentials are accepted, and requests without any.
"""

import logging
import os
import sys
import threading

from moto.moto_server.werkzeug_app import (
    DomainDispatcherApplication,
    MotoRequestHandler,
    create_backend_app,
)
from werkzeug.serving import make_server


class Handler(MotoRequestHandler):
    # A client that waits for the acknowledgement of a head would see 40 ms in every answer.
    disable_nagle_algorithm = True


def main() -> None:
    logging.getLogger("werkzeug").setLevel(logging.ERROR)
    application = DomainDispatcherApplication(create_backend_app)
    server = make_server("127.0.0.1", 0, application, threaded=True, request_handler=Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    print(f"127.0.0.1:{server.server_port}", flush=True)
    while sys.stdin.buffer.read(1):
        pass
    # Without waiting for connections that clients keep.
    os._exit(0)


main()
