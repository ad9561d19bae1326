#!/usr/bin/env python3
"""Deploys the models of scripts/make_recommenders.py with boto3 and invokes them, like a program
written for AWS.

Used by scripts/demo, which starts `longshore endpoint` in place of AWS and sets
AWS_ENDPOINT_URL_SAGEMAKER and AWS_ENDPOINT_URL_SAGEMAKER_RUNTIME to its address. Checks every
answer; ends with status 1 if one is wrong.
"""

from __future__ import annotations

import argparse
import io
import json
import sys
import tarfile
import time
from pathlib import Path
from typing import Any

import boto3
from demo_client import Timings, check_json

IMAGE = "000000000000.dkr.ecr.eu-central-1.amazonaws.com/longshore:1"
ROLE = "arn:aws:iam::000000000000:role/shop"

sagemaker = boto3.client("sagemaker")
runtime = boto3.client("sagemaker-runtime")


def deploy(name: str, **model: Any) -> None:
    """Creates an endpoint for a model, and returns when it is in service."""
    started = time.perf_counter()
    sagemaker.create_model(ModelName=name, ExecutionRoleArn=ROLE, **model)
    variant = {
        "VariantName": "AllTraffic",
        "ModelName": name,
        "InstanceType": "ml.m5.large",
        "InitialInstanceCount": 1,
    }
    sagemaker.create_endpoint_config(EndpointConfigName=name, ProductionVariants=[variant])
    sagemaker.create_endpoint(EndpointName=name, EndpointConfigName=name)
    sagemaker.get_waiter("endpoint_in_service").wait(EndpointName=name)
    print(f"CreateModel, CreateEndpointConfig, CreateEndpoint: {name} is in service after ", end="")
    print(f"{time.perf_counter() - started:.1f} s")


def invoke(endpoint: str, question: Any, **more: Any) -> bytes:
    request = {"EndpointName": endpoint, "ContentType": "application/json", "Accept": "application/json"}
    return runtime.invoke_endpoint(**request, Body=json.dumps({"instances": question}), **more)["Body"].read()


def many(segments: dict[str, Any], url: str) -> None:
    """Deploys all models as one multi-model endpoint."""
    deploy("segments", PrimaryContainer={"Image": IMAGE, "Mode": "MultiModel", "ModelDataUrl": url})
    rounds = [Timings(kind) for kind in ("first InvokeEndpoint", "InvokeEndpoint")]
    for timings in rounds:
        for segment, facts in segments.items():
            started = time.perf_counter()
            answer = invoke("segments", facts["request"]["bought"], TargetModel=f"{segment}.tar.gz")
            timings.values.append((time.perf_counter() - started) * 1e3)
            check_json(segment, answer, facts["response"])
    print(f"\n{len(segments)} models behind one endpoint, every answer checked; the times include boto3:")
    print(f"  {'':<28}{'calls':>7}{'median ms':>12}{'p99 ms':>12}{'max ms':>12}")
    for timings in rounds:
        print(timings.row())


def upload(model: Path, bucket: str, key: str) -> str:
    """Uploads the archive of a model, and returns its URL."""
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w:gz") as tar:
        tar.add(model, arcname="model.onnx")
    boto3.client("s3").put_object(Bucket=bucket, Key=key, Body=packed.getvalue())
    return f"s3://{bucket}/{key}"


def pipeline(models: Path, segment: str, facts: dict[str, Any], encoder: Path, bucket: str) -> None:
    """Deploys a model that knows titles, and after it a recommender that knows numbers."""
    names = {
        "ContainerHostname": "titles-to-numbers",
        "Image": IMAGE,
        "ModelDataUrl": upload(encoder, bucket, "pipeline/encoder.tar.gz"),
        # The content type that the second container reads.
        "Environment": {"SAGEMAKER_DEFAULT_INVOCATIONS_ACCEPT": "text/csv"},
    }
    recommender = {
        "ContainerHostname": "recommender",
        "Image": IMAGE,
        "ModelDataUrl": upload(models / segment / "model.onnx", bucket, "pipeline/recommender.tar.gz"),
    }
    deploy("titles", Containers=[names, recommender])
    titles = facts["bought_titles"]
    answer = invoke("titles", titles)
    check_json(segment, answer, facts["response"])
    print(f"\nA customer of {segment} bought\n  {', '.join(titles[0])}.")
    print("titles-to-numbers passes their numbers to the next container, as CSV:")
    print(f"  {','.join(map(str, facts['request']['bought'][0]))}")
    print("recommender responds with JSON:")
    (row,) = json.loads(answer)["predictions"]
    for title, score in zip(row["titles"], row["scores"], strict=True):
        print(f"  {score:6.3f}  {title}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("models", type=Path, help="the folder that make_recommenders.py has written")
    acts = parser.add_subparsers(dest="act", required=True)
    act = acts.add_parser("many", help="all models behind one endpoint")
    act.add_argument("url", help="URL of their archives, e.g. s3://bucket/segments/")
    act = acts.add_parser("pipeline", help="one of the models behind a model that knows titles")
    act.add_argument("encoder", type=Path, help="the model that knows titles, made by make_encoder.py")
    act.add_argument("segment")
    act.add_argument("bucket", help="bucket for both models")
    arguments = parser.parse_args()
    segments: dict[str, Any] = json.loads((arguments.models / "segments.json").read_text())
    if arguments.act == "many":
        many(segments, arguments.url)
    else:
        segment = arguments.segment
        pipeline(arguments.models, segment, segments[segment], arguments.encoder, arguments.bucket)


if __name__ == "__main__":
    try:
        main()
    except OSError as error:
        sys.exit(f"demo: {error}")
