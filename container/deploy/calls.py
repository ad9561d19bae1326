"""Calls of AWS's API: made, or only printed."""

import json
import os
import shlex
from io import BufferedIOBase
from typing import Any

import boto3
from botocore import xform_name
from botocore.config import Config
from botocore.exceptions import BotoCoreError, ClientError
from botocore.model import Shape

from trouble import Trouble, code_of, explained

# In a dry run nobody is asked.
UNKNOWN_ACCOUNT = "000000000000"
# Services whose command of the AWS CLI has another name.
COMMANDS = {"s3": "s3api"}


class Aws:
    """With `dry_run`, calls are printed as commands of the AWS CLI and not made, as if nothing existed in the account."""

    def __init__(self, dry_run: bool):
        self.dry_run = dry_run
        # Other AWS tools read this one as well.
        region = os.environ.get("AWS_REGION") or None
        try:
            self.session = boto3.Session(region_name=region)
        except BotoCoreError as error:
            raise explained(error, "AWS") from None
        if self.session.region_name is None:
            raise Trouble("no region is set; set AWS_REGION, e.g. AWS_REGION=eu-central-1")
        self.region: str = self.session.region_name
        self.clients: dict[str, Any] = {}

    def client(self, service: str) -> Any:
        if service not in self.clients:
            config = Config(read_timeout=70, retries={"mode": "standard"})
            self.clients[service] = self.session.client(service, config=config)
        return self.clients[service]

    def call(self, service: str, operation: str, **arguments: Any) -> dict[str, Any]:
        """Makes a call such as `CreateModel`. Arguments may be written as CloudFormation has them. What AWS refuses is
        botocore's ClientError."""
        arguments = fitted(self.client(service).meta.service_model.operation_model(operation).input_shape, arguments)
        if self.dry_run:
            self.show(service, xform_name(operation, "-"), arguments)
            return {}
        try:
            return getattr(self.client(service), xform_name(operation))(**arguments)
        except BotoCoreError as error:
            raise explained(error, operation) from None

    def find(self, service: str, operation: str, absent: set[str], **arguments: Any) -> dict[str, Any] | None:
        """As `call`; nothing when the answer is one of the codes `absent`, which mean that there is no such thing."""
        try:
            return self.call(service, operation, **arguments) or None
        except ClientError as error:
            # SageMaker has no code of its own for it.
            missing = code_of(error) == "ValidationException" and "could not find" in str(error).lower()
            if code_of(error) in absent or missing:
                return None
            raise

    def items(self, service: str, operation: str, key: str, **arguments: Any) -> list[dict[str, Any]]:
        """All items of all pages."""
        if self.dry_run:
            self.show(service, xform_name(operation, "-"), arguments)
            return []
        pages = self.client(service).get_paginator(xform_name(operation)).paginate(**arguments)
        return [item for page in pages for item in page[key]]

    def say(self, what: str, name: str, done: str) -> None:
        """Tells what was done, which in a dry run is nothing."""
        if not self.dry_run:
            print(f"{what} {name}: {done}", flush=True)

    def show(self, service: str, operation: str, arguments: dict[str, Any]) -> None:
        command = ["aws", COMMANDS.get(service, service), *operation.split()]
        given = ""
        for name, value in arguments.items():
            flag = xform_name(name, "-")
            match value:
                case bool():
                    command.append(f"--{flag}" if value else f"--no-{flag}")
                case str():
                    command += [f"--{flag}", value]
                case bytes():
                    # As an argument, version 2 of the CLI would take it for Base64.
                    command += [f"--{flag}", "fileb:///dev/stdin", "/dev/stdout"]
                    given = f" <<<{shlex.quote(value.decode())}"
                case BufferedIOBase():
                    command += [f"--{flag}", str(value.name)]
                case _:
                    command += [f"--{flag}", json.dumps(value)]
        print(shlex.join(command) + given)


def fitted(shape: Shape, value: Any) -> Any:
    """A value as boto3 takes it: CloudFormation begins all members with a capital, and writes booleans as text."""
    match shape.type_name:
        case "structure" if isinstance(value, dict):
            members = {name.lower(): (name, member) for name, member in shape.members.items()}
            fitting = {}
            for name, inner in value.items():
                if name.lower() not in members:
                    raise Trouble(f"{shape.name} has no {name}")
                known, member = members[name.lower()]
                fitting[known] = fitted(member, inner)
            return fitting
        case "list" if isinstance(value, list):
            return [fitted(shape.member, inner) for inner in value]
        case "boolean" if isinstance(value, str):
            return value == "true"
        case "string" if isinstance(value, dict):
            # A policy.
            return json.dumps(value)
        case _:
            return value
