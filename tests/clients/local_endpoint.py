"""Shared by the tests of AWS's clients: clients, models in a bucket, and short calls to an
endpoint.

tests/it/endpoint/clients.rs runs each file of this folder by itself, with .clients/bin/python. It
starts the servers and passes their addresses in the variables that AWS's tools read. To run a file
by hand, set them:

    AWS_ENDPOINT_URL_SAGEMAKER, AWS_ENDPOINT_URL_SAGEMAKER_RUNTIME    `longshore endpoint`
    AWS_ENDPOINT_URL_S3                                               an S3 server, also for the endpoint
    AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY, AWS_DEFAULT_REGION      any values

The clients are unmodified, with their default configuration.
"""

from __future__ import annotations

import io
import json
import struct
import tarfile
import uuid
from collections.abc import Callable
from pathlib import Path
from typing import Any

import boto3
from botocore.exceptions import ClientError

MODELS = Path(__file__).parent.parent / "models"
ROLE = "arn:aws:iam::000000000000:role/service-role/shop"
IMAGE = "000000000000.dkr.ecr.eu-central-1.amazonaws.com/longshore:1"

sagemaker = boto3.client("sagemaker")
runtime = boto3.client("sagemaker-runtime")
s3 = boto3.client("s3")


# Models


def model(name: str) -> bytes:
    """The model of this name in tests/models."""
    return (MODELS / name / "model.onnx").read_bytes()


def scale(factor: float) -> bytes:
    """A model that multiplies by `factor`."""
    before = model("scale")
    after = before.replace(struct.pack("<f", 1234.5), struct.pack("<f", factor))
    assert after != before
    return after


def archive(files: dict[str, bytes]) -> bytes:
    """A model.tar.gz as SageMaker accepts it."""
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w:gz", compresslevel=1) as tar:
        for name, content in files.items():
            entry = tarfile.TarInfo(name)
            entry.size = len(content)
            tar.addfile(entry, io.BytesIO(content))
    return packed.getvalue()


class Bucket:
    """A new bucket."""

    def __init__(self) -> None:
        self.name = f"models-{uuid.uuid4().hex}"
        s3.create_bucket(Bucket=self.name, CreateBucketConfiguration={"LocationConstraint": s3.meta.region_name})

    def put(self, key: str, content: bytes) -> str:
        """Writes an object and returns its URL."""
        s3.put_object(Bucket=self.name, Key=key, Body=content)
        return f"s3://{self.name}/{key}"

    def put_model(self, key: str, model: bytes) -> str:
        return self.put(key, archive({"model.onnx": model}))

    def get(self, url: str) -> bytes:
        """The content at a URL, once it exists."""
        bucket, key = url.removeprefix("s3://").split("/", 1)
        s3.get_waiter("object_exists").wait(Bucket=bucket, Key=key, WaiterConfig={"Delay": 0.1, "MaxAttempts": 600})
        return s3.get_object(Bucket=bucket, Key=key)["Body"].read()


# Endpoints


def deploy(name: str, **model: Any) -> None:
    """Creates an endpoint for a model in the usual steps, and waits until it is in service."""
    sagemaker.create_model(ModelName=name, ExecutionRoleArn=ROLE, **model)
    configure(name, [variant(name)])
    sagemaker.create_endpoint(EndpointName=name, EndpointConfigName=name)
    wait(name)


def variant(model: str, name: str = "AllTraffic", **more: Any) -> dict[str, Any]:
    return {
        "VariantName": name,
        "ModelName": model,
        "InitialInstanceCount": 1,
        "InstanceType": "ml.m5.large",
        **more,
    }


def configure(name: str, variants: list[dict[str, Any]], **more: Any) -> None:
    sagemaker.create_endpoint_config(EndpointConfigName=name, ProductionVariants=variants, **more)


def container(url: str, **more: Any) -> dict[str, Any]:
    """A container in single-model mode."""
    return {"Image": IMAGE, "ModelDataUrl": url, **more}


def multi_model(url: str, **more: Any) -> dict[str, Any]:
    return container(url, Mode="MultiModel", **more)


def wait(endpoint: str, what: str = "in_service") -> None:
    sagemaker.get_waiter(f"endpoint_{what}").wait(EndpointName=endpoint)


# Invocations


def invoke(endpoint: str, body: Any, **more: Any) -> dict[str, Any]:
    """Invokes an endpoint with JSON. `Body` of the response is the parsed JSON."""
    more = {"ContentType": "application/json", "Accept": "application/json", **more}
    response = runtime.invoke_endpoint(EndpointName=endpoint, Body=json.dumps(body), **more)
    return response | {"Body": json.loads(response["Body"].read())}


def ask(endpoint: str, numbers: list[float], **more: Any) -> list[float]:
    """Invokes models of `scale`."""
    return invoke(endpoint, {"instances": numbers}, **more)["Body"]["predictions"]


def refusal(call: Callable[..., Any], *arguments: Any, **more: Any) -> dict[str, Any]:
    """The client's view of an error: name of its type, HTTP status, message, and further members.
    """
    try:
        call(*arguments, **more)
    except ClientError as error:
        response = error.response
        members = {name: value for name, value in response.items() if name not in ("Error", "ResponseMetadata")}
        return {
            "type": type(error).__name__,
            "code": response["Error"]["Code"],
            "status": response["ResponseMetadata"]["HTTPStatusCode"],
            "message": response["Error"]["Message"],
            **members,
        }
    raise AssertionError("the call was not refused")
