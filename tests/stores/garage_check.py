#!/usr/bin/env python3
"""Checks a model store in garage, an S3 server that verifies signatures.

Used by scripts/garage. Starts garage and, for each check, a longshore with an empty cache; all of
them end with this program. Ends with status 1 on any error.
"""

from __future__ import annotations

import argparse
import signal
import sys
import tempfile
from dataclasses import replace
from pathlib import Path

from demo_client import Container
from demo_store import PREFIX
from garage_server import BUCKET, REGION, Garage, Keys, garage_in
from store_checks import ARCHIVE_NAME, FOLDER_NAME, Checks, Refusal, made, must, row, step


def what_is_signed(checks: Checks) -> None:
    step("names and headers that a signature covers")
    garage, segment = checks.store, checks.segment
    garage.put(ARCHIVE_NAME, checks.archive(segment))
    checks.put_folder(FOLDER_NAME, segment)
    for what, name, environment in (
        ("special characters", ARCHIVE_NAME, {}),
        ("a folder, which is listed", FOLDER_NAME, {}),
        ("a session token", f"{segment}.tar.gz", {"AWS_SESSION_TOKEN": "a/b+c=="}),
    ):
        with checks.longshore(**environment) as address:
            checks.answers(Container(address), name, segment)
        token = garage.requests(name)[-1].headers.get("x-amz-security-token")
        must("the session token", token, environment.get("AWS_SESSION_TOKEN"))
        row(what, 200, name)


def refusals(garage: Garage, segment: str) -> list[Refusal]:
    name = f"{segment}.tar.gz"
    of = f"s3://{BUCKET}/{PREFIX}/{name}"
    unknown, without_rights = Keys.new(), garage.keys_without_rights()
    wrong = replace(garage.keys, secret=Keys.new().secret)
    forbidden = f"{of} is refused: 403 AccessDenied (Forbidden:"
    missing = f"there is nothing at s3://{BUCKET}/{PREFIX}/missing.tar.gz"
    elsewhere = f"there is no bucket for s3://none/{PREFIX}/{name}"
    region = f"{of} is in another region ({REGION}); set AWS_REGION"
    unsigned = {"AWS_SKIP_SIGNATURE": "true"}
    return [
        Refusal("wrong secret", name, 503, f"{forbidden} Invalid signature); correct AWS_SECRET", wrong.environment()),
        Refusal(
            "unknown access key", name, 503, f"{forbidden} No such key: {unknown.id}); correct", unknown.environment()
        ),
        Refusal("key without rights", name, 503, f"{forbidden} Operation is not allowed", without_rights.environment()),
        Refusal("no signature", name, 503, f"{forbidden} Garage does not support", unsigned),
        Refusal("another region", name, 503, region, {"AWS_REGION": "eu-west-1"}),
        Refusal("missing bucket", name, 503, elsewhere, url=f"s3://none/{PREFIX}"),
        Refusal("missing key", "missing.tar.gz", 404, missing),
    ]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("garage", type=Path, help="the program")
    parser.add_argument("longshore", type=Path, help="the program")
    parser.add_argument("python", type=Path, help="an interpreter with the packages of make_recommenders.py")
    arguments = parser.parse_args()
    # Raises an exception, so the processes end with this one.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit("ended by a signal"))
    with tempfile.TemporaryDirectory(prefix="longshore-garage-") as folder:
        work = Path(folder)
        models = made(work, arguments.python)
        with garage_in(work / "garage", arguments.garage) as garage:
            checks = Checks(work, arguments.longshore, models, garage)
            # Garage sends the head and the body of a response separately. In between it waits for
            # the client's acknowledgement, which comes after 40 ms on a persistent connection.
            checks.on_first_request()
            what_is_signed(checks)
            # Several of the parts that longshore requests at once.
            checks.in_parts(14)
            checks.replaced()
            step("what is refused")
            checks.refuses(refusals(garage, checks.segment))
    print("\nAll checks passed.")


if __name__ == "__main__":
    main()
