"""The models of an endpoint: whether they are there, how they get there, and whether they answer."""

import hashlib
import time
from pathlib import Path
from typing import BinaryIO

from botocore.exceptions import ClientError

from calls import Aws
from resources import log_group
from trouble import Trouble, code_of

ABSENT = {"404", "NoSuchBucket", "NoSuchKey", "NotFound"}
# Of S3, for an object that is written by one call.
LARGEST = 5 << 30
# SageMaker goes on loading a model that long after it has told the client to come again.
LOADING_SECONDS = 360
SHOWN = 200


def upload(aws: Aws, folder: Path, bucket: str, prefix: str) -> None:
    """Puts the archives of a folder below the prefix, by their paths. None takes the place of another: SageMaker goes on
    serving the former one wherever it is in memory or on disk."""
    archives = sorted(folder.rglob("*.tar.gz"))
    if not archives:
        raise Trouble(f"--upload {folder}: there is no *.tar.gz in it; `longshore pack` makes them")
    for archive in archives:
        if archive.stat().st_size > LARGEST:
            raise Trouble(f"{archive} has more than 5 GiB; put it there by `aws s3 cp`")
        name = archive.relative_to(folder).as_posix()
        key = f"{prefix}/{name}"
        with archive.open("rb") as content:
            digest = sha256(content)
            there = aws.find("s3", "HeadObject", ABSENT, Bucket=bucket, Key=key)
            if there:
                if there["Metadata"].get("sha256") != digest:
                    raise Trouble(
                        f"s3://{bucket}/{key} is there with other content, and instances that have it go on serving it; "
                        "give the new version another name"
                    )
                continue
            content.seek(0)
            aws.call("s3", "PutObject", Bucket=bucket, Key=key, Metadata={"sha256": digest}, Body=content)
        aws.say("model", name, "uploaded")


def sha256(content: BinaryIO) -> str:
    digest = hashlib.sha256()
    while block := content.read(1 << 20):
        digest.update(block)
    return digest.hexdigest()


def must_have_bucket(aws: Aws, bucket: str) -> None:
    """That there is such a bucket, where SageMaker can read it."""
    found = aws.find("s3", "HeadBucket", ABSENT, Bucket=bucket)
    if not found and not aws.dry_run:
        raise Trouble(
            f"there is no bucket {bucket}; make it with `aws s3 mb s3://{bucket} --region {aws.region}`, or give the "
            "Bucket=... of the models"
        )
    region = (found or {}).get("BucketRegion", aws.region)
    if region != aws.region:
        raise Trouble(f"bucket {bucket} is in {region}, and SageMaker reads from its own region's; set AWS_REGION={region}")


def must_have(aws: Aws, bucket: str, prefix: str, archives: list[str]) -> None:
    """That these archives are there. Without any, models may come later, which is said."""
    for archive in archives:
        if not aws.find("s3", "HeadObject", ABSENT, Bucket=bucket, Key=f"{prefix}/{archive}") and not aws.dry_run:
            raise Trouble(f"there is no s3://{bucket}/{prefix}/{archive}; --upload puts it there from a folder")
    if not archives:
        found = aws.call("s3", "ListObjectsV2", Bucket=bucket, Prefix=f"{prefix}/", MaxKeys=1)
        if not found.get("KeyCount") and not aws.dry_run:
            aws.say("models", f"s3://{bucket}/{prefix}/", "there are none yet; they may come at any time")


def smoke(aws: Aws, endpoint: str, mode: str, target: str, body: str, content_type: str) -> None:
    """One request, whose answer is printed."""
    chosen = {"MultiModel": {"TargetModel": target}, "Direct": {"TargetContainerHostname": target}}.get(mode, {})
    deadline = time.monotonic() + LOADING_SECONDS
    while True:
        start = time.monotonic()
        try:
            answer = aws.call(
                "sagemaker-runtime", "InvokeEndpoint",
                EndpointName=endpoint, ContentType=content_type, Body=body.encode(), **chosen,
            )  # fmt: skip
            break
        except ClientError as error:
            if code_of(error) == "ModelNotReadyException" and time.monotonic() < deadline:
                aws.say("request", target, "the model is being loaded still; asking again")
                time.sleep(1)
                continue
            raise refused(endpoint, target, error) from None
    if not aws.dry_run:
        text = answer["Body"].read().decode(errors="replace")
        shown = text if len(text) <= SHOWN else f"{text[:SHOWN]}..."
        aws.say("request", target, f"200 in {(time.monotonic() - start) * 1000:.0f} ms: {shown.strip()}")


def refused(endpoint: str, target: str, error: ClientError) -> Trouble:
    said = error.response.get("OriginalMessage") or error.response["Error"].get("Message", "")
    if code_of(error) == "ModelError":
        status = error.response.get("OriginalStatusCode")
        return Trouble(f"request {target}: the container answered {status}: {said} (its log group is {log_group(endpoint)})")
    return Trouble(f"request {target}: {code_of(error)}: {said}")
