"""Calls of the AWS API, which a dry run prints instead of making them."""

import json
import os
from io import BufferedIOBase
from typing import Any

import boto3
from botocore import xform_name
from botocore.config import Config
from botocore.exceptions import BotoCoreError, ClientError

from errors import DeployError, error_code, explain

# Error codes of AWS for a thing that does not exist.
ABSENT = {
    "404",
    "ImageNotFoundException",
    "NoSuchBucket",
    "NoSuchKey",
    "NotFound",
    "RepositoryNotFoundException",
}
# A dry run prints longer texts, such as templates, by their length.
PRINTED_CHARACTERS = 200


class Aws:
    """The AWS API of one region. In a dry run every answer is empty, as of an empty account."""

    def __init__(self, dry_run: bool):
        self.dry_run = dry_run
        # boto3 itself reads AWS_DEFAULT_REGION and the profile's region only.
        region = os.environ.get("AWS_REGION") or None
        try:
            self.session = boto3.Session(region_name=region)
        except BotoCoreError as error:
            raise explain(error, "AWS") from None
        if self.session.region_name is None:
            raise DeployError("no region is set; set AWS_REGION, e.g. AWS_REGION=eu-central-1")
        self.region: str = self.session.region_name
        self.clients: dict[str, Any] = {}

    def client(self, service: str) -> Any:
        """The client of a service, made on first use."""
        if service not in self.clients:
            # InvokeEndpoint may take a minute.
            config = Config(read_timeout=70, retries={"mode": "standard"})
            self.clients[service] = self.session.client(service, config=config)
        return self.clients[service]

    def call(self, service: str, operation: str, **parameters: Any) -> dict[str, Any]:
        """Makes a call such as `CreateChangeSet`. A refusal of AWS raises `ClientError`."""
        if self.dry_run:
            shown = {name: printable(value) for name, value in parameters.items()}
            print(f"{service}.{operation} {json.dumps(shown)}")
            return {}
        try:
            return getattr(self.client(service), xform_name(operation))(**parameters)
        except BotoCoreError as error:
            raise explain(error, operation) from None

    def find(self, service: str, operation: str, **parameters: Any) -> dict[str, Any] | None:
        """Makes a call that describes one thing; returns None when the thing does not exist."""
        try:
            return self.call(service, operation, **parameters) or None
        except ClientError as error:
            # CloudFormation has no error code of its own for a missing stack.
            missing = error_code(error) == "ValidationError" and "does not exist" in str(error)
            if missing or error_code(error) in ABSENT:
                return None
            raise

    def report(self, text: str) -> None:
        """Prints what has happened; in a dry run nothing happens."""
        if not self.dry_run:
            print(text, flush=True)


def printable(value: Any) -> Any:
    """A parameter as a dry run prints it: files by name, long texts by length."""
    match value:
        case bytes():
            return value.decode()
        case BufferedIOBase():
            return f"<{getattr(value, 'name', 'file')}>"
        case str() if len(value) > PRINTED_CHARACTERS:
            return f"<{len(value)} characters>"
        case _:
            return value
