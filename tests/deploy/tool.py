"""Tests scripts/deploy against moto: each test runs the tool and then looks at what moto has.

Run it with .moto/bin/python (scripts/moto installs that) of Python 3.11 or later;
tests/it/deploy.rs does.

moto's CloudFormation makes the roles, repositories, models of one container, endpoint
configurations and endpoints of our templates. These parts of CloudFormation it does not have:

- Alarms and scaling: it leaves resources of these types out.
- Models of several containers: it fails. So stacks here have the modes MultiModel and Single, and
  tests/deploy/local_endpoint.py deploys the other two.
- The `EndpointName` of an endpoint: it chooses another name.
- Checks of parameters, beyond those that are missing, and the rules of a template.
- Changes of a change set that only parameters make: it lists none of them.
- The outputs and the parameters of a stack after a change set, and a failure of a change set:
  `ExecuteChangeSet` below adds these three.
"""

from __future__ import annotations

import contextlib
import hashlib
import io
import json
import logging
import os
import pty
import re
import runpy
import subprocess
import sys
import tempfile
import unittest
import warnings
from pathlib import Path
from typing import Any
from unittest import mock

import boto3
from moto.cloudformation.exceptions import ValidationError
from moto.cloudformation.models import CloudFormationBackend, Stack, cloudformation_backends
from moto.moto_api._internal.models import moto_api_backend
from moto.server import ThreadedMotoServer

ROOT = Path(__file__).resolve().parents[2]
REGION = "us-east-1"
# moto's own implementation.
ACCOUNT = "123456789012"
BUCKET = "shop"
MANIFEST = "application/vnd.docker.distribution.manifest.v2+json"

execute_as_moto = CloudFormationBackend.execute_change_set


def execute_change_set(backend: CloudFormationBackend, change_set_name: str, stack_name: str | None = None) -> None:
    """Executes a change set as moto does, and then does what CloudFormation also does.

    Where moto fails, the stack has the events and the state of a deployment that was rolled back.
    """
    change_set: Any = backend.describe_change_set(change_set_name)
    stack: Stack = backend.stacks[change_set.stack_id]
    try:
        execute_as_moto(backend, change_set_name, stack_name)
    except Exception as error:
        creates = change_set.change_set_type == "CREATE"
        verb = "CREATE" if creates else "UPDATE"
        for name, kind, reason in [
            ("Configuration", "AWS::SageMaker::EndpointConfig", str(error)),
            ("ExecutionRole", "AWS::IAM::Role", f"Resource {verb.lower()[:-1]}ion cancelled"),
        ]:
            stack._add_stack_event(f"{verb}_FAILED", resource_status_reason=reason)
            stack.events[-1].logical_resource_id = name
            stack.events[-1].resource_type = kind
        stack.status = "ROLLBACK_COMPLETE" if creates else "UPDATE_ROLLBACK_COMPLETE"
        return
    stack.template_dict = change_set.template_dict
    stack.parameters = change_set.parameters
    stack.output_map = stack._create_output_map()


class Tool(unittest.TestCase):
    """Each test has its own moto with one bucket."""

    def setUp(self) -> None:
        self.enterContext(mock.patch.object(CloudFormationBackend, "execute_change_set", execute_change_set))
        # moto warns of each resource that it leaves out, and logs each request.
        warnings.simplefilter("ignore")
        logging.disable()
        server = ThreadedMotoServer(port=0, verbose=False)
        server.start()
        self.addCleanup(server.stop)
        host, port = server.get_host_and_port()
        self.url = f"http://{host}:{port}"
        # The state of moto is global to the process.
        self.enterContext(mock.patch.dict(os.environ, AWS_ACCESS_KEY_ID="key", AWS_SECRET_ACCESS_KEY="secret"))
        self.sagemaker, self.cloudformation, self.iam, self.s3, self.ecr = (
            boto3.client(service, region_name=REGION, endpoint_url=self.url)
            for service in ("sagemaker", "cloudformation", "iam", "s3", "ecr")
        )
        self.addCleanup(self.reset)
        self.s3.create_bucket(Bucket=BUCKET)
        self.folder = Path(self.enterContext(tempfile.TemporaryDirectory()))

    def reset(self) -> None:
        """Empties moto."""
        moto_api_backend.reset()

    def environment(self, variables: dict[str, str]) -> dict[str, str]:
        """The variables of the tool: those of moto, and these, of which empty ones are unset."""
        every = {
            "PATH": os.environ["PATH"],
            "HOME": str(self.folder),
            "AWS_ENDPOINT_URL": self.url,
            "AWS_ACCESS_KEY_ID": "key",
            "AWS_SECRET_ACCESS_KEY": "secret",
            "AWS_REGION": REGION,
            "AWS_EC2_METADATA_DISABLED": "true",
        } | variables
        return {name: value for name, value in every.items() if value}

    def run_tool(self, *arguments: str, **variables: str) -> tuple[int, str, str]:
        """Runs the tool in this process, which saves the second that boto3 takes to load.

        Returns exit code, output and errors.
        """
        with (
            mock.patch.dict(os.environ, self.environment(variables), clear=True),
            mock.patch.object(sys, "argv", ["scripts/deploy", *arguments]),
            mock.patch.object(sys, "stdin", io.StringIO()),
            contextlib.redirect_stdout(io.StringIO()) as output,
            contextlib.redirect_stderr(io.StringIO()) as errors,
        ):
            try:
                runpy.run_path(str(ROOT / "container/deploy"), run_name="__main__")
            except SystemExit as end:
                # Python prints the text and ends with exit code 1.
                return 1, output.getvalue(), f"{errors.getvalue()}{end.code}\n"
        return 0, output.getvalue(), errors.getvalue()

    def run_program(self, *arguments: str, stdin: Any = subprocess.DEVNULL, **variables: str) -> tuple[int, str, str]:
        """Runs scripts/deploy; returns exit code, output and errors."""
        done = subprocess.run(
            [ROOT / "scripts/deploy", *arguments],
            env=self.environment(variables),
            stdin=stdin,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            timeout=60,
        )
        return done.returncode, done.stdout, done.stderr

    def succeed(self, *arguments: str, **variables: str) -> str:
        """The output of a run that must succeed."""
        code, output, errors = self.run_tool(*arguments, **variables)
        self.assertEqual((code, errors), (0, ""), output)
        return output

    def fail_with(self, message: str, *arguments: str, **variables: str) -> str:
        """The output of a run that must fail with one error that contains `message`."""
        code, output, errors = self.run_tool(*arguments, **variables)
        self.assertEqual(code, 1, output)
        self.assertTrue(errors.startswith("scripts/deploy: "), errors)
        self.assertIn(message, errors, arguments)
        return output

    def deploy(self, *arguments: str) -> str:
        """The output of a deployment without an image that must succeed."""
        return self.succeed("segments", f"Bucket={BUCKET}", "Tag=1", "--skip-image", *arguments)

    def stack(self, name: str = "segments") -> Any:
        """The stack of this name in moto, or None."""
        found = [stack for stack in self.cloudformation.describe_stacks()["Stacks"] if stack["StackName"] == name]
        self.assertLessEqual(len(found), 1)
        return found[0] if found else None

    def configuration(self) -> dict[str, Any]:
        """The only endpoint configuration in moto."""
        (found,) = self.sagemaker.list_endpoint_configs()["EndpointConfigs"]
        return self.sagemaker.describe_endpoint_config(EndpointConfigName=found["EndpointConfigName"])

    def test_creates_a_stack_by_a_change_set_that_is_shown(self) -> None:
        output = self.deploy()
        lines = [
            "models: s3://shop/models/ has none yet",
            "stack segments: to be created",
            "  Add     AWS::IAM::Role                              ExecutionRole",
            "  Add     AWS::SageMaker::Endpoint                    Endpoint",
            "  CREATE_IN_PROGRESS          segments (AWS::CloudFormation::Stack): User Initiated",
            "  CREATE_COMPLETE             segments (AWS::CloudFormation::Stack)",
            "Endpoint: ",
            f"Role: arn:aws:iam::{ACCOUNT}:role/segments-ExecutionRole-",
        ]
        position = 0
        for line in lines:
            position = output.find(line, position)
            self.assertNotEqual(position, -1, f"{line} is missing, or not in its place: {output}")
        (model,) = self.sagemaker.list_models()["Models"]
        container = self.sagemaker.describe_model(ModelName=model["ModelName"])["PrimaryContainer"]
        self.assertEqual(
            container,
            {
                "Image": f"{ACCOUNT}.dkr.ecr.us-east-1.amazonaws.com/longshore:1",
                "Mode": "MultiModel",
                "ModelDataUrl": "s3://shop/models/",
                "Environment": {"LONGSHORE_LOG_FORMAT": "json"},
            },
        )
        (variant,) = self.configuration()["ProductionVariants"]
        self.assertEqual(variant["ModelName"], model["ModelName"])
        (role,) = self.iam.list_roles()["Roles"]
        policy = self.iam.get_role_policy(RoleName=role["RoleName"], PolicyName="serve")["PolicyDocument"]
        self.assertIn("arn:aws:s3:::shop/models/*", policy)

    def test_changes_nothing_when_nothing_has_changed(self) -> None:
        self.deploy()
        before = self.configuration()["EndpointConfigName"]
        self.assertIn("stack segments: nothing to change\n", self.deploy())
        self.assertEqual(self.configuration()["EndpointConfigName"], before)
        summaries = self.cloudformation.list_change_sets(StackName="segments")["Summaries"]
        self.assertEqual([summary["ExecutionStatus"] for summary in summaries], ["EXECUTE_COMPLETE"])

    def test_updates_the_stack_when_a_parameter_has_changed(self) -> None:
        self.deploy()
        output = self.deploy("MinInstances=2")
        self.assertIn("stack segments: to be updated\n", output)
        self.assertEqual(output.count("UPDATE_COMPLETE "), 1, output)
        self.assertEqual(self.configuration()["ProductionVariants"][0]["InitialInstanceCount"], 2)
        # An omitted parameter has its default again.
        self.deploy()
        self.assertEqual(self.configuration()["ProductionVariants"][0]["InitialInstanceCount"], 1)

    def test_ends_the_scaling_before_it_changes_the_instance_type(self) -> None:
        self.deploy("InstanceType=ml.m5.large", "MinInstances=2")
        output = self.deploy("InstanceType=ml.c5.large", "MinInstances=1")
        self.assertIn("the scaling ends by a change set of its own\n", output)
        self.assertEqual(output.count("stack segments: to be updated\n"), 2, output)
        summaries = self.cloudformation.list_change_sets(StackName="segments")["Summaries"]
        chosen = []
        for summary in summaries:
            described = self.cloudformation.describe_change_set(ChangeSetName=summary["ChangeSetId"])
            values = {one["ParameterKey"]: one["ParameterValue"] for one in described["Parameters"]}
            chosen.append([values[name] for name in ("InstanceType", "MinInstances", "MaxInstances")])
        self.assertEqual(chosen, [["ml.m5.large", "2", "4"], ["ml.m5.large", "2", "2"], ["ml.c5.large", "1", "4"]])
        self.deploy("InstanceType=ml.c5.large", "MinInstances=2", "MaxInstances=2")
        output = self.deploy("InstanceType=ml.m5.large", "MinInstances=2", "MaxInstances=2")
        self.assertEqual(output.count("stack segments: to be updated\n"), 1, output)

    def test_reports_why_a_creation_failed_and_creates_the_stack_again(self) -> None:
        # moto has an old list of instance types.
        arguments = ["segments", f"Bucket={BUCKET}", "Tag=1", "--skip-image"]
        code, output, errors = self.run_tool(*arguments, "InstanceType=ml.c7i.large")
        self.assertEqual(code, 1, output)
        first, reason = errors.splitlines()
        self.assertEqual(first, "scripts/deploy: stack segments failed and is in state ROLLBACK_COMPLETE:")
        expected = "  Configuration (AWS::SageMaker::EndpointConfig): "
        expected += "ValidationException: Value 'ml.c7i.large' at 'instanceType' failed"
        self.assertTrue(reason.startswith(expected), reason)
        self.assertIn(
            "  CREATE_FAILED               ExecutionRole (AWS::IAM::Role): Resource creation cancelled", output
        )

        output = self.deploy()
        self.assertIn("stack segments: its creation failed; deleting it and creating it again\n", output)
        self.assertEqual(output.count("stack segments: to be "), 1, output)
        self.assertEqual(self.stack()["StackStatus"], "CREATE_COMPLETE")

    def test_reports_why_an_update_failed(self) -> None:
        self.deploy("MaxInstances=1")
        self.fail_with(
            "stack segments failed and is in state UPDATE_ROLLBACK_COMPLETE:\n"
            "  Configuration (AWS::SageMaker::EndpointConfig): ValidationException: ",
            "segments", f"Bucket={BUCKET}", "Tag=1", "--skip-image", "MaxInstances=1", "InstanceType=ml.c7i.large",
        )  # fmt: skip
        self.assertEqual(len(self.sagemaker.list_endpoints()["Endpoints"]), 1)

    def test_does_not_touch_a_stack_that_is_changing_or_can_only_be_deleted(self) -> None:
        self.deploy()
        arguments = ["segments", f"Bucket={BUCKET}", "Tag=2", "--skip-image"]
        for status, message in [
            ("DELETE_FAILED", "stack segments is in state DELETE_FAILED; delete it first with --delete"),
            ("UPDATE_IN_PROGRESS", "stack segments is in state UPDATE_IN_PROGRESS; wait until that has ended"),
        ]:
            (stack,) = cloudformation_backends[ACCOUNT][REGION].stacks.values()
            stack.status = status
            self.fail_with(message, *arguments)

    def test_deletes_the_stack(self) -> None:
        self.deploy()
        output = self.succeed("segments", "--delete")
        self.assertIn("  DELETE_COMPLETE             segments (AWS::CloudFormation::Stack)\n", output)
        self.assertIsNone(self.stack())
        self.assertEqual(self.sagemaker.list_endpoints()["Endpoints"], [])
        self.assertEqual(self.sagemaker.list_endpoint_configs()["EndpointConfigs"], [])
        self.assertEqual(self.sagemaker.list_models()["Models"], [])
        self.assertEqual(self.iam.list_roles()["Roles"], [])
        self.assertEqual(self.succeed("segments", "--delete"), "stack segments: there is none\n")

    def test_asks_at_a_terminal_and_discards_the_change_set_on_no(self) -> None:
        arguments = ["segments", f"Bucket={BUCKET}", "Tag=1", "--skip-image"]
        for word, options, code in [("n", [], 1), ("y", [], 0), ("n", ["--yes", "MinInstances=2"], 0)]:
            terminal, stdin = pty.openpty()
            os.write(terminal, f"{word}\n".encode())
            done = self.run_program(*arguments, *options, stdin=stdin)
            os.close(terminal)
            os.close(stdin)
            self.assertEqual(done[0], code, done)
            self.assertEqual("Execute these changes? [y/N]" in done[1], not options, done)
            if code == 1:
                self.assertEqual(done[2], "scripts/deploy: the change set was not executed\n")
                self.assertIsNone(self.stack())
        self.assertEqual(self.stack()["StackStatus"], "UPDATE_COMPLETE")

    def test_a_dry_run_prints_every_call_and_makes_none(self) -> None:
        (self.folder / "scale.tar.gz").write_bytes(b"archive")
        # Neither an address that responds nor credentials.
        nothing = {"AWS_ENDPOINT_URL": "http://127.0.0.1:9", "AWS_ACCESS_KEY_ID": "", "AWS_SECRET_ACCESS_KEY": ""}
        arguments = ["dry", "Bucket=shop", "Tag=1", "--upload", str(self.folder), "--smoke", "scale.tar.gz", "[2]"]
        code, output, errors = self.run_program(*arguments, "--dry-run", **nothing)
        self.assertEqual((code, errors), (0, ""))
        output = re.sub(r"deploy-\d{8}-\d{6}", "deploy-TIME", output)
        # The parameters of the change set are tested below.
        output = re.sub(r'"Parameters": \[.*?\], ', "", output).replace(f"{ROOT}/", "").replace(f"{self.folder}/", "")
        template = len((ROOT / "container/deploy/endpoint.yaml").read_text())
        repository = len((ROOT / "container/deploy/repository.yaml").read_text())
        digest = hashlib.sha256(b"archive").hexdigest()
        image = "000000000000.dkr.ecr.us-east-1.amazonaws.com/longshore:1"
        change_set = '"ChangeSetName": "deploy-TIME"'
        capabilities = '"Capabilities": ["CAPABILITY_IAM"]'
        self.assertEqual(
            output.splitlines(),
            [
                's3.HeadBucket {"Bucket": "shop"}',
                's3.HeadObject {"Bucket": "shop", "Key": "models/scale.tar.gz"}',
                's3.PutObject {"Bucket": "shop", "Key": "models/scale.tar.gz", '
                f'"Metadata": {{"sha256": "{digest}"}}, "Body": "<scale.tar.gz>"}}',
                's3.ListObjectsV2 {"Bucket": "shop", "Prefix": "models/", "MaxKeys": 1}',
                'ecr.DescribeImages {"repositoryName": "longshore", "imageIds": [{"imageTag": "1"}]}',
                'cloudformation.DescribeStacks {"StackName": "dry"}',
                'cloudformation.DescribeStacks {"StackName": "dry"}',
                f'cloudformation.CreateChangeSet {{"StackName": "dry", {change_set}, "ChangeSetType": "CREATE", '
                f'"TemplateBody": "<{template} characters>", {capabilities}}}',
                f'cloudformation.DescribeChangeSet {{"StackName": "dry", {change_set}}}',
                'ecr.DescribeRepositories {"repositoryNames": ["longshore"]}',
                'cloudformation.DescribeStacks {"StackName": "longshore-image"}',
                f'cloudformation.CreateChangeSet {{"StackName": "longshore-image", {change_set}, '
                f'"ChangeSetType": "CREATE", "TemplateBody": "<{repository} characters>", {capabilities}}}',
                f'cloudformation.DescribeChangeSet {{"StackName": "longshore-image", {change_set}}}',
                'cloudformation.DescribeStackEvents {"StackName": "longshore-image"}',
                f'cloudformation.ExecuteChangeSet {{"StackName": "longshore-image", {change_set}}}',
                'cloudformation.DescribeStacks {"StackName": "longshore-image"}',
                'cloudformation.DescribeStackEvents {"StackName": "longshore-image"}',
                'cloudformation.DescribeStacks {"StackName": "longshore-image"}',
                f"scripts/image --platform linux/amd64 {image}",
                "ecr.GetAuthorizationToken {}",
                f"docker login --username AWS --password-stdin {image.split('/')[0]}",
                f"docker push {image}",
                'cloudformation.DescribeStackEvents {"StackName": "dry"}',
                f'cloudformation.ExecuteChangeSet {{"StackName": "dry", {change_set}}}',
                'cloudformation.DescribeStacks {"StackName": "dry"}',
                'cloudformation.DescribeStackEvents {"StackName": "dry"}',
                'cloudformation.DescribeStacks {"StackName": "dry"}',
                'sagemaker-runtime.InvokeEndpoint {"EndpointName": "dry", "ContentType": "application/json", '
                '"Body": "[2]", "TargetModel": "scale.tar.gz"}',
            ],
        )
        arguments = ["dry", "Bucket=shop", "Tag=1", "InstanceType=ml.c7gn.large", "--dry-run"]
        output = self.succeed(*arguments, **nothing)
        self.assertIn("scripts/image --platform linux/arm64 000000000000.dkr", output)
        call = next(line for line in output.splitlines() if line.startswith("cloudformation.CreateChangeSet"))
        parameters = json.loads(call.split(maxsplit=1)[1])["Parameters"]
        values = {one["ParameterKey"]: one["ParameterValue"] for one in parameters}
        self.assertEqual(values["InstanceType"], "ml.c7gn.large")
        self.assertEqual(values["MinCacheHits"], "0.9")
        self.assertEqual(
            self.succeed("dry", "--delete", "--dry-run", **nothing).splitlines(),
            [
                'cloudformation.DescribeStacks {"StackName": "dry"}',
                'cloudformation.DescribeStackEvents {"StackName": "dry"}',
                'cloudformation.DeleteStack {"StackName": "dry"}',
                'cloudformation.DescribeStacks {"StackName": "dry"}',
                'cloudformation.DescribeStackEvents {"StackName": "dry"}',
            ],
        )

    def test_refuses_wrong_input_with_the_remedy(self) -> None:
        bucket = f"Bucket={BUCKET}"
        (self.folder / "scale.tar.gz").write_bytes(b"archive")
        upload = ["--upload", str(self.folder)]
        for message, arguments in [
            ("there is no bucket none; make it with `aws s3 mb", ["a", "Bucket=none", "Tag=1"]),
            ("Buket is not a parameter of endpoint.yaml, which has Mode", ["a", bucket, "Tag=1", "Buket=b"]),
            ('invalid parameter "Tag": expected NAME=VALUE', ["a", bucket, "Tag"]),
            ("expected one of MultiModel, Single, Serial, Direct", ["a", bucket, "Tag=1", "Mode=Both"]),
            ("the bucket of the models is missing; give Bucket=...", ["a", "Tag=1"]),
            ("give Mode=Single", ["a", bucket, "Tag=1", "AsyncPrefix=async"]),
            ("leave --smoke out", ["a", bucket, "Tag=1", "Mode=Single", "AsyncPrefix=b", "--smoke", "-", "[2]"]),
            ("give MaxInstances=... as well", ["a", bucket, "Tag=1", "MinInstances=9"]),
            ("--upload puts it there from a folder", ["a", bucket, "Tag=1", "Mode=Serial"]),
            ("there is no *.tar.gz in it", ["a", bucket, "Tag=1", "--upload", str(ROOT / "docs")]),
            ("install Docker", ["a", bucket, "Tag=1", "--docker", "/nowhere/docker"]),
            ("check that Docker runs", ["a", bucket, "Tag=1", "--docker", "false"]),
        ]:
            with self.subTest(message):
                self.fail_with(message, *arguments)
        arguments = ["a", bucket, "Tag=1"]
        self.fail_with(
            "there are no AWS credentials; sign in", *arguments, AWS_ACCESS_KEY_ID="", AWS_SECRET_ACCESS_KEY=""
        )
        self.fail_with("set AWS_REGION", *arguments, AWS_REGION="")
        self.fail_with("set AWS_REGION=us-east-1", *arguments, AWS_REGION="eu-central-1")
        self.deploy(*upload)
        (self.folder / "scale.tar.gz").write_bytes(b"another archive")
        self.fail_with("give the new version another name", *arguments, "--skip-image", *upload)

    def test_reports_why_cloudformation_refuses_a_change_set(self) -> None:
        arguments = ["segments", f"Bucket={BUCKET}", "Tag=1", "--skip-image", "Prefix=/"]
        reason = "Parameter 'Prefix' must match pattern [^/].*[^/]|[^/]"
        error = ValidationError(message=reason)
        with mock.patch.object(CloudFormationBackend, "create_change_set", side_effect=error):
            self.fail_with(f"CreateChangeSet: ValidationError: {reason}", *arguments)
        self.assertIsNone(self.stack())
        describe = CloudFormationBackend.describe_change_set

        def describe_as_failed(backend: CloudFormationBackend, change_set_name: str) -> Any:
            change_set: Any = describe(backend, change_set_name)
            change_set.status, change_set.status_reason = "FAILED", "A hook refuses"
            return change_set

        with mock.patch.object(CloudFormationBackend, "describe_change_set", describe_as_failed):
            self.fail_with("stack segments: CloudFormation refuses the change: A hook refuses\n", *arguments)
        self.assertIsNone(self.stack())

    def test_uploads_models_once_and_invokes_the_endpoint(self) -> None:
        (self.folder / "de").mkdir()
        (self.folder / "de/scale.tar.gz").write_bytes(b"archive")
        arguments = ["--upload", str(self.folder), "--smoke", "de/scale.tar.gz", "[2]"]
        output = self.deploy(*arguments)
        self.assertIn("model de/scale.tar.gz: uploaded\n", output)
        # The response is moto's.
        self.assertRegex(output, r"request de/scale\.tar\.gz: 200 in \d+ ms: body\n")
        content = self.s3.get_object(Bucket=BUCKET, Key="models/de/scale.tar.gz")["Body"].read()
        self.assertEqual(content, b"archive")
        self.assertNotIn("uploaded", self.deploy(*arguments))

    def test_pushes_an_image_that_the_instances_can_run(self) -> None:
        docker = self.folder / "docker"
        docker.write_text(
            '#!/bin/sh\necho "$@" >>"$0.log"\n'
            "case $1 in image) echo arm64 ;; login) cat >/dev/null ;; push) exit ${PUSH:-0} ;; esac\n"
        )
        docker.chmod(0o755)
        arguments = ["pushed", f"Bucket={BUCKET}", "Tag=a1", "Repository=pushed", "--docker", str(docker)]
        self.fail_with("is for arm64, and ml.m5.xlarge needs amd64; build it again with ", *arguments)
        # The change set was discarded, and the repository exists.
        self.assertIsNone(self.stack("pushed"))
        self.assertEqual(self.stack("pushed-image")["StackStatus"], "CREATE_COMPLETE")
        (repository,) = self.ecr.describe_repositories()["repositories"]
        self.assertEqual(repository["imageTagMutability"], "IMMUTABLE")

        # moto accepts no Graviton instance, so the stack fails after the push.
        output = self.fail_with("ml.m7g.large", *arguments, "InstanceType=ml.m7g.large")
        image = f"{repository['repositoryUri']}:a1"
        self.assertIn(f"image {image}: pushed\n", output)
        log = Path(f"{docker}.log").read_text().splitlines()
        registry = repository["repositoryUri"].split("/")[0]
        self.assertEqual(log[-2:], [f"login --username AWS --password-stdin {registry}", f"push {image}"])

        self.ecr.put_image(repositoryName="pushed", imageManifest="{}", imageManifestMediaType=MANIFEST, imageTag="a1")
        output = self.succeed(*arguments)
        self.assertIn("image pushed:a1: in the repository already\n", output)
        self.assertEqual(Path(f"{docker}.log").read_text().splitlines(), log)


if __name__ == "__main__":
    unittest.main()
