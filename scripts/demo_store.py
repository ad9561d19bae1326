#!/usr/bin/env python3
"""Uploads the models of scripts/make_recommenders.py to a bucket, and invokes each through a
server with --model-store.

Used by scripts/demo in two steps: `upload` packs the models and uploads them with boto3, and `ask`
needs only Python 3. Checks every answer; ends with status 1 if one is wrong.
tests/stores/store_checks.py also uses `ask`.
"""

from __future__ import annotations

import argparse
import io
import json
import sys
import tarfile
from pathlib import Path
from typing import Any

from demo_client import Container, Timings, check_json, listed

PREFIX = "segments"


def archive(folder: Path) -> bytes:
    """A model.tar.gz as SageMaker accepts it."""
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w:gz", compresslevel=1) as tar:
        for file in sorted(folder.iterdir()):
            tar.add(file, arcname=file.name)
    return packed.getvalue()


def upload(models: Path, s3: Any, bucket: str) -> None:
    """Uploads all archives to an existing bucket, with a client of boto3."""
    segments = json.loads((models / "segments.json").read_text())
    size = 0
    for segment in segments:
        packed = archive(models / segment)
        size += len(packed)
        s3.put_object(Bucket=bucket, Key=f"{PREFIX}/{segment}.tar.gz", Body=packed)
    print(f"{len(segments)} archives, {size / 2**20:.1f} MiB, in s3://{bucket}/{PREFIX}")


def ask(models: Path, address: str, kinds: list[str]) -> None:
    segments: dict[str, Any] = json.loads((models / "segments.json").read_text())
    container = Container(address)
    container.call(None, "GET", "/ping")
    rounds = [Timings(kind) for kind in kinds]
    for timings in rounds:
        for segment, facts in segments.items():
            body = json.dumps({"instances": facts["request"]["bought"]}).encode()
            headers = {
                "Content-Type": "application/json",
                "X-Amzn-SageMaker-Target-Model": f"{segment}.tar.gz",
            }
            check_json(segment, container.call(timings, "POST", "/invocations", body, headers), facts["response"])
    if listed(container) != len(segments):
        raise SystemExit(f"{listed(container)} models are loaded, expected {len(segments)}")
    for timings in rounds:
        print(timings.row())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("models", type=Path, help="the folder that make_recommenders.py has written")
    steps = parser.add_subparsers(dest="step", required=True)
    step = steps.add_parser("upload", help="upload the models to a new bucket")
    step.add_argument("endpoint", help="address of the S3 server, e.g. http://127.0.0.1:5000")
    step.add_argument("bucket")
    step = steps.add_parser("ask", help="invoke every model once in each round")
    step.add_argument("address", help="address of the server, e.g. http://127.0.0.1:8080")
    step.add_argument("kinds", nargs="+", help="name of each round, for the table")
    arguments = parser.parse_args()
    if arguments.step == "upload":
        import boto3

        s3 = boto3.client("s3", endpoint_url=arguments.endpoint)
        region = {"LocationConstraint": s3.meta.region_name}
        s3.create_bucket(Bucket=arguments.bucket, CreateBucketConfiguration=region)
        upload(arguments.models, s3, arguments.bucket)
    else:
        ask(arguments.models, arguments.address, arguments.kinds)


if __name__ == "__main__":
    try:
        main()
    except OSError as error:
        sys.exit(f"demo: {error}")
