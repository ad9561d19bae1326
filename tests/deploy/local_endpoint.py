"""Deploys the SageMaker resources of our template to `longshore endpoint` and invokes them.

The local endpoint has SageMaker's API but no CloudFormation. So moto's library resolves the
template, and boto3 makes the calls that CloudFormation would make. tests/it/deploy.rs runs this
with .moto/bin/python, and passes the addresses of the endpoint and of S3 in the variables that
AWS's tools read:

    AWS_ENDPOINT_URL_SAGEMAKER, AWS_ENDPOINT_URL_SAGEMAKER_RUNTIME    `longshore endpoint`
    AWS_ENDPOINT_URL                                                  tests/s3/server.py, which is S3 and CloudFormation
    AWS_ENDPOINT_URL_S3                                               the same, for the local endpoint
    AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY, AWS_REGION              any values
"""

from __future__ import annotations

import io
import os
import subprocess
import tarfile
import tempfile
import time
import unittest
from collections.abc import Callable
from pathlib import Path
from typing import Any

import boto3
from moto.cloudformation.models import Stack
from moto.cloudformation.parsing import ResourceMap, clean_json

ROOT = Path(__file__).resolve().parents[2]
TEMPLATE = (ROOT / "container/deploy/endpoint.yaml").read_text()
REGION = os.environ["AWS_REGION"]
ROLE = "arn:aws:iam::123456789012:role/serve"
LOG = {"LONGSHORE_LOG_FORMAT": "json"}

sagemaker = boto3.client("sagemaker", region_name=REGION)
runtime = boto3.client("sagemaker-runtime", region_name=REGION)
s3 = boto3.client("s3", region_name=REGION)


class NamedResource:
    """A resource of the template, which other resources reference by its name."""

    def __init__(self, name: str):
        self.physical_resource_id = name

    def get_cfn_attribute(self, attribute: str) -> str:
        """Returns the name, the only attribute of a SageMaker resource that the template reads."""
        return self.physical_resource_id


class Resources(ResourceMap):
    """Resolves a template as moto does, without making the resources."""

    def __getitem__(self, key: str) -> Any:
        if key in self._resource_json_map:
            return NamedResource(f"{self['AWS::StackName']}-{key}")
        return super().__getitem__(key)


class Deployment:
    """An endpoint of the template that boto3 creates and updates."""

    def __init__(self, name: str):
        self.name = name
        self.version = 0

    def create(self, **parameters: str) -> str:
        """Creates the endpoint with these parameters; returns its status when it has settled."""
        return self.deploy(parameters, sagemaker.create_endpoint)

    def update(self, **parameters: str) -> str:
        """Updates the endpoint with these parameters; returns its status when it has settled."""
        return self.deploy(parameters, sagemaker.update_endpoint)

    def deploy(self, parameters: dict[str, str], call: Callable[..., Any]) -> str:
        """Makes the resources that the template asks for, and creates or updates the endpoint."""
        template = Stack.parse_template(TEMPLATE)
        # Models and configurations cannot be changed, so each version has its own names.
        self.version += 1
        resources = Resources(
            "stack", f"{self.name}-{self.version}", parameters, {}, REGION, "123456789012", template, None
        )
        resources.load()
        for name, resource in template["Resources"].items():
            if "Condition" in resource and not resources.lazy_condition_map[resource["Condition"]]:
                continue
            properties = clean_json(resource["Properties"], resources)
            match resource["Type"]:
                case "AWS::SageMaker::Model":
                    # CloudFormation accepts a boolean as text too.
                    properties["EnableNetworkIsolation"] = properties["EnableNetworkIsolation"] == "true"
                    sagemaker.create_model(ModelName=resources[name].physical_resource_id, **properties)
                case "AWS::SageMaker::EndpointConfig":
                    sagemaker.create_endpoint_config(
                        EndpointConfigName=resources[name].physical_resource_id, **properties
                    )
                case "AWS::SageMaker::Endpoint":
                    properties["EndpointName"] = self.name
                    if call == sagemaker.create_endpoint:
                        del properties["RetainAllVariantProperties"]
                    call(**properties)
        while (status := self.describe()["EndpointStatus"]).endswith(("ing", "ingBack")):
            time.sleep(0.1)
        return status

    def describe(self) -> dict[str, Any]:
        """The endpoint."""
        return sagemaker.describe_endpoint(EndpointName=self.name)

    def configuration(self) -> dict[str, Any]:
        """The configuration that the endpoint has now."""
        return sagemaker.describe_endpoint_config(EndpointConfigName=self.describe()["EndpointConfigName"])

    def model(self) -> dict[str, Any]:
        """The model that the endpoint has now."""
        (variant,) = self.configuration()["ProductionVariants"]
        return sagemaker.describe_model(ModelName=variant["ModelName"])

    def invoke(self, body: str, content_type: str = "application/json", **chosen: str) -> str:
        """The answer to one request."""
        answer = runtime.invoke_endpoint(EndpointName=self.name, Body=body, ContentType=content_type, **chosen)
        return answer["Body"].read().decode()


def archive(model: Path) -> bytes:
    """A model.tar.gz as SageMaker accepts it."""
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w:gz", compresslevel=1) as tar:
        tar.add(model, "model.onnx")
    return packed.getvalue()


class LocalEndpoint(unittest.TestCase):
    """Each test has its own bucket, with models that multiply by 1234.5."""

    def setUp(self) -> None:
        self.bucket = f"deploy-{self._testMethodName[5:].replace('_', '-')[:50].strip('-')}"
        s3.create_bucket(Bucket=self.bucket)
        self.scale = archive(ROOT / "tests/models/scale/model.onnx")
        for name in ("first", "second"):
            self.put(name, self.scale)
        self.parameters = {"Bucket": self.bucket, "Tag": "1", "Role": ROLE, "Alarms": "false"}

    def put(self, name: str, content: bytes) -> None:
        """Writes an archive."""
        s3.put_object(Bucket=self.bucket, Key=f"models/{name}.tar.gz", Body=content)

    def test_the_tool_uploads_models_and_invokes_them(self) -> None:
        # The stack is in moto, and the endpoint is the local one of the same name.
        self.assertEqual(Deployment("whole").create(**self.parameters), "InService")
        with tempfile.TemporaryDirectory() as folder:
            (Path(folder) / "de").mkdir()
            (Path(folder) / "de/scale.tar.gz").write_bytes(self.scale)
            (Path(folder) / "iris.tar.gz").write_bytes(archive(ROOT / "tests/models/iris_zipmap/model.onnx"))
            arguments = ["whole", f"Bucket={self.bucket}", "Tag=1", "--skip-image", "--upload", folder]
            # moto's CloudFormation has neither alarms nor scaling.
            arguments += ["Alarms=false", "MaxInstances=1"]
            smoke = ["--smoke", "de/scale.tar.gz", "[2]", "--smoke", "iris.tar.gz", "[[5.1, 3.5, 1.4, 0.2]]"]
            done = self.run_tool(*arguments, *smoke)
            self.assertEqual(done.returncode, 0, done.stderr)
            self.assertIn("model de/scale.tar.gz: uploaded\n", done.stdout)
            self.assertRegex(done.stdout, r'request de/scale.tar.gz: 200 in \d+ ms: {"predictions":\[2469.0\]}\n')
            self.assertRegex(done.stdout, r"request iris.tar.gz: 200 in \d+ ms: ")
            done = self.run_tool(*arguments, "--smoke", "de/scale.tar.gz", "nonsense")
            self.assertEqual(done.returncode, 1)
            self.assertIn("request de/scale.tar.gz: the container answered 400: ", done.stderr)
            self.assertIn("(its log group is /aws/sagemaker/Endpoints/whole)\n", done.stderr)
        self.assertEqual(self.run_tool("whole", "--delete").returncode, 0)

    def run_tool(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        """Runs scripts/deploy with the variables of this program."""
        return subprocess.run(
            [ROOT / "scripts/deploy", *arguments], stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=60
        )

    def test_an_update_changes_the_instance_type_and_the_mode(self) -> None:
        changing = Deployment("changing")
        self.assertEqual(changing.create(**self.parameters), "InService")
        self.assertEqual(changing.model()["PrimaryContainer"]["Mode"], "MultiModel")
        self.assertIs(changing.model()["EnableNetworkIsolation"], True)
        self.assertEqual(changing.invoke("[2]", TargetModel="first.tar.gz"), '{"predictions":[2469.0]}')
        self.assertEqual(changing.update(**self.parameters, InstanceType="ml.c7i.large"), "InService")
        self.assertEqual(changing.configuration()["ProductionVariants"][0]["InstanceType"], "ml.c7i.large")
        self.assertEqual(changing.update(**self.parameters, Mode="Serial"), "InService")
        self.assertEqual(changing.invoke("2", "text/csv"), '{"predictions":[3047980.5]}')
        self.assertEqual(changing.update(**self.parameters, Mode="Direct"), "InService")
        for container, body, answer in [("first", "[2]", 2469.0), ("second", "[4]", 4938.0)]:
            self.assertEqual(changing.invoke(body, TargetContainerHostname=container), f'{{"predictions":[{answer}]}}')

    def test_a_single_model_accepts_asynchronous_requests_of_an_hour_and_a_gigabyte(self) -> None:
        single = Deployment("single")
        self.assertEqual(single.create(**self.parameters, Mode="Single"), "InService")
        self.assertEqual(single.invoke("[2]"), '{"predictions":[2469.0]}')
        self.assertEqual(single.model()["PrimaryContainer"]["Environment"], LOG)
        self.assertNotIn("AsyncInferenceConfig", single.configuration())
        single = Deployment("asynchronous")
        self.assertEqual(single.create(**self.parameters, Mode="Single", AsyncPrefix="async"), "InService")
        limits = {"LONGSHORE_REQUEST_TIMEOUT": "3600s", "LONGSHORE_MAX_BODY": "1GiB"}
        self.assertEqual(single.model()["PrimaryContainer"]["Environment"], LOG | limits)
        output = single.configuration()["AsyncInferenceConfig"]["OutputConfig"]
        self.assertEqual(output["S3OutputPath"], f"s3://{self.bucket}/async/")

    def test_an_update_that_fails_leaves_the_former_containers_serving(self) -> None:
        self.put("third", (ROOT / "tests/models/bad/garbage/model.onnx").read_bytes())
        steady = Deployment("steady")
        self.assertEqual(steady.create(**self.parameters, Mode="Direct"), "InService")
        before = steady.describe()["EndpointConfigName"]
        self.assertEqual(steady.update(**self.parameters, Mode="Direct", Second="third.tar.gz"), "InService")
        described = steady.describe()
        self.assertEqual(described["EndpointConfigName"], before)
        self.assertTrue(described["FailureReason"])
        self.assertEqual(steady.invoke("[2]", TargetContainerHostname="second"), '{"predictions":[2469.0]}')

    def test_an_endpoint_that_failed_is_deleted_and_created_again(self) -> None:
        self.put("third", b"not an archive")
        again = Deployment("again")
        self.assertEqual(again.create(**self.parameters, Mode="Direct", Second="third.tar.gz"), "Failed")
        self.assertTrue(again.describe()["FailureReason"])
        sagemaker.delete_endpoint(EndpointName="again")
        sagemaker.get_waiter("endpoint_deleted").wait(EndpointName="again")
        self.assertEqual(again.create(**self.parameters, Mode="Direct"), "InService")
        self.assertEqual(again.invoke("[2]", TargetContainerHostname="second"), '{"predictions":[2469.0]}')


if __name__ == "__main__":
    unittest.main()
