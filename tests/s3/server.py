"""S3 for tests: moto behind HTTP on a free port of the loopback interface.

Prints its address in one line once it serves, and ends with its standard input, so it never
outlives its parent. It keeps objects in memory, and accepts any credentials.
"""

import logging
import os
import sys
import threading


def end_with_standard_input() -> None:
    while sys.stdin.buffer.read(1):
        pass
    # Does not wait for connections that clients keep open.
    os._exit(0)


def serve() -> None:
    # The import takes about a second, in which the parent may end.
    from moto.moto_server.werkzeug_app import (
        DomainDispatcherApplication,
        MotoRequestHandler,
        create_backend_app,
    )
    from werkzeug.serving import make_server

    class Handler(MotoRequestHandler):
        # Otherwise the client's delayed acknowledgement of the head delays the body.
        disable_nagle_algorithm = True

    logging.getLogger("werkzeug").setLevel(logging.ERROR)
    application = DomainDispatcherApplication(create_backend_app)
    # The server listens from here on.
    server = make_server("127.0.0.1", 0, application, threaded=True, request_handler=Handler)
    print(f"127.0.0.1:{server.server_port}", flush=True)
    server.serve_forever()


threading.Thread(target=end_with_standard_input, daemon=True).start()
serve()
