"""S3 for tests: moto behind HTTP on a free port of the loopback interface.

Prints its address in one line when it answers, and ends with its standard input: whoever started it need not be able to
stop it. Objects are in memory. Any credentials are accepted.
"""

import logging
import os
import sys
import threading


def end_with_standard_input() -> None:
    while sys.stdin.buffer.read(1):
        pass
    # Without waiting for connections that clients keep.
    os._exit(0)


def serve() -> None:
    # Takes about a second, in which the caller may go.
    from moto.moto_server.werkzeug_app import (
        DomainDispatcherApplication,
        MotoRequestHandler,
        create_backend_app,
    )
    from werkzeug.serving import make_server

    class Handler(MotoRequestHandler):
        # Else a client's delayed acknowledgement of the head holds the body up.
        disable_nagle_algorithm = True

    logging.getLogger("werkzeug").setLevel(logging.ERROR)
    application = DomainDispatcherApplication(create_backend_app)
    # It listens from here on.
    server = make_server("127.0.0.1", 0, application, threaded=True, request_handler=Handler)
    print(f"127.0.0.1:{server.server_port}", flush=True)
    server.serve_forever()


threading.Thread(target=end_with_standard_input, daemon=True).start()
serve()
