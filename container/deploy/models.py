"""The models of an endpoint: uploaded, checked and invoked."""

import hashlib
import time
from pathlib import Path
from typing import Any, BinaryIO

from botocore.exceptions import ClientError

from aws import Aws
from errors import DeployError, error_code, error_text

# S3 takes no larger object in one call.
LARGEST = 5 << 30
# SageMaker goes on loading a model for this long after it has asked the client to retry.
LOADING_SECONDS = 360
SHOWN_CHARACTERS = 200


def upload(aws: Aws, folder: Path, bucket: str, prefix: str) -> None:
    """Uploads the archives of a folder below the prefix, by their paths.

    An archive never replaces another one: SageMaker would go on serving the old one from memory
    and disk.
    """
    archives = sorted(folder.rglob("*.tar.gz"))
    if not archives:
        raise DeployError(f"--upload {folder}: there is no *.tar.gz in it; make archives with `longshore pack`")
    for archive in archives:
        if archive.stat().st_size > LARGEST:
            raise DeployError(f"{archive} is larger than 5 GiB; upload it with `aws s3 cp`")
        name = archive.relative_to(folder).as_posix()
        key = f"{prefix}/{name}"
        with archive.open("rb") as content:
            digest = sha256(content)
            found = aws.find("s3", "HeadObject", Bucket=bucket, Key=key)
            if found and found["Metadata"].get("sha256") != digest:
                raise DeployError(
                    f"s3://{bucket}/{key} exists with other content, and instances that have it go on serving it; "
                    "give the new version another name"
                )
            if found:
                continue
            content.seek(0)
            aws.call("s3", "PutObject", Bucket=bucket, Key=key, Metadata={"sha256": digest}, Body=content)
        aws.report(f"model {name}: uploaded")


def sha256(content: BinaryIO) -> str:
    """The SHA-256 of a file, read in parts."""
    digest = hashlib.sha256()
    while block := content.read(1 << 20):
        digest.update(block)
    return digest.hexdigest()


def check_bucket(aws: Aws, bucket: str) -> None:
    """Checks that the bucket exists in the region of the endpoint."""
    found = aws.find("s3", "HeadBucket", Bucket=bucket)
    if not found and not aws.dry_run:
        raise DeployError(
            f"there is no bucket {bucket}; make it with `aws s3 mb s3://{bucket} --region {aws.region}`, or give "
            "another Bucket=..."
        )
    region = (found or {}).get("BucketRegion", aws.region)
    if region != aws.region:
        raise DeployError(f"bucket {bucket} is in {region}, and the endpoint in {aws.region}; set AWS_REGION={region}")


def check_archives(aws: Aws, bucket: str, prefix: str, archives: list[str]) -> None:
    """Checks that the archives exist. A multi-model endpoint needs none yet."""
    for archive in archives:
        if not aws.find("s3", "HeadObject", Bucket=bucket, Key=f"{prefix}/{archive}") and not aws.dry_run:
            raise DeployError(f"there is no s3://{bucket}/{prefix}/{archive}; --upload puts it there from a folder")
    if not archives:
        found = aws.call("s3", "ListObjectsV2", Bucket=bucket, Prefix=f"{prefix}/", MaxKeys=1)
        if not found.get("KeyCount"):
            aws.report(f"models: s3://{bucket}/{prefix}/ has none yet; they may be added at any time")


def smoke(aws: Aws, endpoint: str, mode: str, target: str, body: str, content_type: str) -> None:
    """Sends one request and prints the answer."""
    chosen: dict[str, Any] = {}
    if mode == "MultiModel":
        chosen = {"TargetModel": target}
    elif mode == "Direct":
        chosen = {"TargetContainerHostname": target}
    deadline = time.monotonic() + LOADING_SECONDS
    while True:
        start = time.monotonic()
        try:
            answer = aws.call(
                "sagemaker-runtime",
                "InvokeEndpoint",
                EndpointName=endpoint,
                ContentType=content_type,
                Body=body.encode(),
                **chosen,
            )
            break
        except ClientError as error:
            if error_code(error) != "ModelNotReadyException" or time.monotonic() > deadline:
                raise refusal(endpoint, target, error) from None
        aws.report(f"request {target}: the model is still loading")
        time.sleep(1)
    if not aws.dry_run:
        text = answer["Body"].read().decode(errors="replace").strip()
        shown = text if len(text) <= SHOWN_CHARACTERS else f"{text[:SHOWN_CHARACTERS]}..."
        print(f"request {target}: 200 in {(time.monotonic() - start) * 1000:.0f} ms: {shown}")


def refusal(endpoint: str, target: str, error: ClientError) -> DeployError:
    """The error of a request that failed, with the container's own answer when there is one."""
    if error_code(error) == "ModelError":
        status, message = (error.response.get(name, "") for name in ("OriginalStatusCode", "OriginalMessage"))
        log = f"/aws/sagemaker/Endpoints/{endpoint}"
        return DeployError(f"request {target}: the container answered {status}: {message} (its log group is {log})")
    return DeployError(f"request {target}: {error_text(error)}")
