#!/usr/bin/env python3
"""Deploys the artifacts of scripts/make_pipelines.py with boto3, as one container and as several,
and invokes them.

Used by scripts/demo, which starts `longshore endpoint` in place of AWS. Checks every answer; ends
with status 1 if one is wrong.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from pathlib import Path
from typing import Any

import boto3
from demo_client import Timings
from demo_endpoint import IMAGE, deploy, runtime
from demo_store import archive

ROUNDS = 20
NEAR = 1e-4
"""Largest difference between the scores of one artifact and of several."""

NPY = "application/x-npy"
TENSORS = "application/vnd.sagemaker-triton.binary+json"
"""Several tensors in one body, in the form of the Open Inference Protocol."""


class Parts:
    """The artifacts, in a bucket."""

    def __init__(self, folder: Path, bucket: str) -> None:
        self.folder, self.bucket = folder, bucket

    def container(self, name: str, passes: str | None = None) -> dict[str, Any]:
        """A container with an artifact, and the content type that it passes to the next container.
        """
        packed = archive(self.folder / name)
        key = f"pipelines/{name}.tar.gz"
        boto3.client("s3").put_object(Bucket=self.bucket, Key=key, Body=packed)
        print(f"  {name + '.tar.gz':<26}{len(packed) / 1024:6.1f} KiB  {', '.join(self.files(name))}")
        container = {"ContainerHostname": name, "Image": IMAGE, "ModelDataUrl": f"s3://{self.bucket}/{key}"}
        if passes:
            container["Environment"] = {"SAGEMAKER_DEFAULT_INVOCATIONS_ACCEPT": passes}
        return container

    def files(self, name: str) -> list[str]:
        return sorted(file.name for file in (self.folder / name).iterdir())


def ask(endpoint: str, content_type: str, body: bytes, timings: Timings | None = None) -> Any:
    """The response of an endpoint, as parsed JSON."""
    started = time.perf_counter()
    response = runtime.invoke_endpoint(
        EndpointName=endpoint, ContentType=content_type, Accept="application/json", Body=body
    )
    answer = response["Body"].read()
    if timings is not None:
        timings.values.append((time.perf_counter() - started) * 1e3)
    return json.loads(answer)


def check(what: str, right: str, one: list[dict[str, Any]], several: list[dict[str, Any]]) -> None:
    """Checks that both answers have the right label first, and equal scores."""
    for answer in (one, several):
        if answer[0]["label"] != right:
            raise SystemExit(f"{what}: the label is {answer[0]}, expected {right}")
    scores = ({row["label"]: row["score"] for row in answer} for answer in (one, several))
    first, second = scores
    if first.keys() != second.keys() or any(abs(first[label] - second[label]) > NEAR for label in first):
        raise SystemExit(f"{what}: one artifact answers {one}, several answer {several}")


def compare(name: str, content_type: str, questions: dict[str, tuple[bytes, str]]) -> None:
    """Invokes the endpoint of one artifact and that of two by turns."""
    both = {"two containers": f"{name}-in-two", "one artifact": f"{name}-in-one"}
    timings = {kind: Timings(kind) for kind in both}
    for number in range(ROUNDS):
        for what, (body, right) in questions.items():
            # The first round loads code and data.
            answers = [
                ask(endpoint, content_type, body, timings[kind] if number else None) for kind, endpoint in both.items()
            ]
            check(what, right, *answers)
            if not number:
                print(f"  {what:<58}{answers[0][0]['label']:<22}{answers[0][0]['score']:.3f}")
    print(f"  {'':<28}{'calls':>7}{'median ms':>12}{'p99 ms':>12}{'max ms':>12}")
    for kind in timings.values():
        print(kind.row())


def pictures(parts: Parts, questions: dict[str, str]) -> None:
    deploy("thing-in-two", Containers=[parts.container("pixels", NPY), parts.container("things")])
    deploy("thing-in-one", Containers=[parts.container("picture-to-thing")])
    print("\nFrom a JPEG to a label, with the same result from two containers and from one artifact:")
    bodies = {name: ((parts.folder / name).read_bytes(), thing) for name, thing in questions.items()}
    compare("thing", "image/jpeg", bodies)


def sentences(parts: Parts, questions: dict[str, str]) -> None:
    print()
    deploy("opinion-in-two", Containers=[parts.container("tokens", TENSORS), parts.container("opinions")])
    deploy("opinion-in-one", Containers=[parts.container("review-to-opinion")])
    print("\nFrom a sentence to a label:")
    bodies = {review: (json.dumps({"inputs": review}).encode(), opinion) for review, opinion in questions.items()}
    compare("opinion", "application/json", bodies)


def ensemble(parts: Parts, questions: dict[str, str]) -> None:
    """Deploys a regressor on the probabilities of a classifier."""
    print()
    deploy("stars", Containers=[parts.container("review-to-opinion", NPY), parts.container("stars")])
    print("\nFrom a sentence to a classifier's probabilities, and from these to stars:")
    bounds = {"negative": (0.0, 2.5), "neutral": (2.0, 4.0), "positive": (3.5, 6.0)}
    for review, opinion in questions.items():
        answer = ask("stars", "application/json", json.dumps({"inputs": review}).encode())
        (stars,) = answer["predictions"]
        stars = stars[0] if isinstance(stars, list) else stars
        lowest, highest = bounds[opinion]
        if not lowest <= stars <= highest:
            raise SystemExit(f"{review}: {stars} stars, expected {lowest} to {highest}")
        print(f"  {review:<58}{stars:5.2f}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, help="the folder that make_pipelines.py has written")
    parser.add_argument("bucket", help="bucket for the artifacts")
    arguments = parser.parse_args()
    parts = Parts(arguments.folder, arguments.bucket)
    questions: dict[str, dict[str, str]] = json.loads((arguments.folder / "questions.json").read_text())
    pictures(parts, questions["pictures"])
    sentences(parts, questions["reviews"])
    ensemble(parts, questions["reviews"])


if __name__ == "__main__":
    try:
        main()
    except OSError as error:
        sys.exit(f"demo: {error}")
