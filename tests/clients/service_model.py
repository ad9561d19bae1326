"""botocore's definition of SageMaker's requests: each member at its limits, types, patterns and
choices.

The control plane accepts what the definition allows, and refuses the rest. The requests are sent
without boto3, which would refuse some of them itself.
"""

from __future__ import annotations

import copy
import itertools
import json
import os
import re
import unittest
import urllib.error
import urllib.request
from collections.abc import Iterator
from typing import Any

import botocore.loaders
from local_endpoint import ROLE

MODEL = botocore.loaders.create_loader().load_service_model("sagemaker", "service-2")
SHAPES = MODEL["shapes"]

# The lists of instance types and images grow every month, so these members accept any text.
ANY_TEXT = ("InstanceType", "InferenceAmiVersion")

TAGS = [{"Key": "k", "Value": "v"}]
VPC = {"SecurityGroupIds": ["sg-1"], "Subnets": ["subnet-1"]}
ARN = "arn:aws:sagemaker:eu-central-1:000000000000:"
CONTAINER = {
    "ContainerHostname": "h",
    "Image": "image:1",
    "ImageConfig": {
        "RepositoryAccessMode": "Vpc",
        "RepositoryAuthConfig": {"RepositoryCredentialsProviderArn": "arn"},
    },
    "Mode": "SingleModel",
    "ModelDataUrl": "s3://b/m.tar.gz",
    "Environment": {"A": "b"},
    "MultiModelConfig": {"ModelCacheSetting": "Enabled"},
    "ContainerMetricsConfig": {
        "MetricsEndpoints": [{"MetricsEndpointPath": "/metrics", "MetricPublishFrequencyInSeconds": 60}]
    },
}
VARIANT = {
    "VariantName": "v",
    "ModelName": "there",
    "InitialInstanceCount": 1,
    "InstanceType": "ml.m5.large",
    "InstancePools": [{"InstanceType": "ml.m5.large", "Priority": 1}],
    "VariantInstanceProvisionTimeoutInSeconds": 300,
    "InitialVariantWeight": 1.0,
    "AcceleratorType": "ml.eia1.medium",
    "CoreDumpConfig": {"DestinationS3Uri": "s3://b/k", "KmsKeyId": "k"},
    "VolumeSizeInGB": 10,
    "ModelDataDownloadTimeoutInSeconds": 60,
    "ContainerStartupHealthCheckTimeoutInSeconds": 60,
    "EnableSSMAccess": False,
    "ManagedInstanceScaling": {
        "Status": "DISABLED",
        "MinInstanceCount": 1,
        "MaxInstanceCount": 2,
        "ScaleInPolicy": {"Strategy": "IDLE_RELEASE", "MaximumStepSize": 1, "CooldownInMinutes": 5},
    },
    "RoutingConfig": {"RoutingStrategy": "RANDOM"},
    "InferenceAmiVersion": "al2-ami-sagemaker-inference-gpu-2",
    "CapacityReservationConfig": {
        "CapacityReservationPreference": "capacity-reservations-only",
        "MlReservationArn": f"{ARN}training-plan/a",
    },
    "AcceleratorPartitionLayouts": [{"AcceleratorPartitionTypes": ["mig-3g.40gb"]}],
}
BY_PREFIX = {
    "RoutingStrategy": "PREFIX_AWARE",
    "PrefixAwareRoutingConfig": {"PrefixLength": 1024, "ConcurrencyThreshold": 1},
}
CONFIG = {
    "EndpointConfigName": "new",
    "ProductionVariants": [VARIANT],
    "DataCaptureConfig": {
        "EnableCapture": False,
        "InitialSamplingPercentage": 10,
        "DestinationS3Uri": "s3://b/k",
        "KmsKeyId": "k",
        "CaptureOptions": [{"CaptureMode": "Input"}],
        "CaptureContentTypeHeader": {"CsvContentTypes": ["text/csv"], "JsonContentTypes": ["application/json"]},
    },
    "Tags": TAGS,
    "KmsKeyId": "k",
    "AsyncInferenceConfig": {
        "ClientConfig": {"MaxConcurrentInvocationsPerInstance": 1},
        "OutputConfig": {"KmsKeyId": "k", "S3OutputPath": "s3://b/o", "S3FailurePath": "s3://b/f"},
    },
    "ExecutionRoleArn": ROLE,
    "VpcConfig": VPC,
    "EnableNetworkIsolation": False,
    "MetricsConfig": {
        "EnableEnhancedMetrics": True,
        "EnableDetailedObservability": True,
        "MetricPublishFrequencyInSeconds": 60,
    },
    "CrossRegionTrafficConfig": {"MaxInvocationsPerSecondPerInstance": 1, "MaxCrossRegionPercentPerEndpoint": 1},
}
CAPACITY = {"Type": "INSTANCE_COUNT", "Value": 1}
DEPLOYMENT = {
    "BlueGreenUpdatePolicy": {
        "TrafficRoutingConfiguration": {
            "Type": "CANARY",
            "WaitIntervalInSeconds": 0,
            "CanarySize": CAPACITY,
            "LinearStepSize": CAPACITY,
        },
        "TerminationWaitInSeconds": 0,
        "MaximumExecutionTimeoutInSeconds": 600,
    },
    "RollingUpdatePolicy": {
        "MaximumBatchSize": CAPACITY,
        "WaitIntervalInSeconds": 0,
        "MaximumExecutionTimeoutInSeconds": 600,
        "RollbackMaximumBatchSize": CAPACITY,
    },
    "AutoRollbackConfiguration": {"Alarms": [{"AlarmName": "a"}]},
}
LISTED = {"SortBy": "Name", "SortOrder": "Ascending", "MaxResults": 10, "NameContains": "a"}
SINCE = {"CreationTimeBefore": 1.0, "CreationTimeAfter": 1.0}

REQUESTS: list[tuple[str, dict[str, Any]]] = [
    (
        "CreateModel",
        {
            "ModelName": "new",
            "PrimaryContainer": CONTAINER,
            "ExecutionRoleArn": ROLE,
            "Tags": TAGS,
            "VpcConfig": VPC,
            "EnableNetworkIsolation": False,
        },
    ),
    (
        "CreateModel",
        {"ModelName": "new", "Containers": [CONTAINER], "InferenceExecutionConfig": {"Mode": "Serial"}},
    ),
    ("CreateEndpointConfig", CONFIG),
    ("CreateEndpointConfig", CONFIG | {"ProductionVariants": [VARIANT | {"RoutingConfig": BY_PREFIX}]}),
    (
        "CreateEndpoint",
        {"EndpointName": "new", "EndpointConfigName": "missing", "DeploymentConfig": DEPLOYMENT, "Tags": TAGS},
    ),
    (
        "UpdateEndpoint",
        {
            "EndpointName": "missing",
            "EndpointConfigName": "missing",
            "RetainAllVariantProperties": True,
            "ExcludeRetainedVariantProperties": [{"VariantPropertyType": "DesiredWeight"}],
            "DeploymentConfig": DEPLOYMENT,
            "RetainDeploymentConfig": False,
        },
    ),
    (
        "UpdateEndpointWeightsAndCapacities",
        {
            "EndpointName": "missing",
            "DesiredWeightsAndCapacities": [{"VariantName": "v", "DesiredWeight": 1.0, "DesiredInstanceCount": 1}],
        },
    ),
    *((f"{verb}Model", {"ModelName": "missing"}) for verb in ("Describe", "Delete")),
    *((f"{verb}EndpointConfig", {"EndpointConfigName": "missing"}) for verb in ("Describe", "Delete")),
    *((f"{verb}Endpoint", {"EndpointName": "missing"}) for verb in ("Describe", "Delete")),
    ("ListModels", LISTED | SINCE),
    ("ListEndpointConfigs", LISTED | SINCE),
    (
        "ListEndpoints",
        LISTED | SINCE | {"StatusEquals": "InService", "LastModifiedTimeBefore": 1.0, "LastModifiedTimeAfter": 1.0},
    ),
    ("AddTags", {"ResourceArn": f"{ARN}model/missing", "Tags": TAGS}),
    ("DeleteTags", {"ResourceArn": f"{ARN}model/missing", "TagKeys": ["k"]}),
    ("ListTags", {"ResourceArn": f"{ARN}model/missing", "MaxResults": 50}),
]

# A change of a request: the path of a member, its new value, and whether the definition allows it.
# `LEFT_OUT` removes the member.
Change = tuple[list[Any], Any, bool]
LEFT_OUT = object()


def fits(shape: dict[str, Any], text: str) -> bool:
    if "enum" in shape and text not in shape["enum"]:
        return False
    if not shape.get("min", 0) <= len(text) <= shape.get("max", 1 << 30):
        return False
    pattern = shape.get("pattern", "[\\s\\S]*")
    # Java's character classes, as far as the texts below need them.
    for theirs, ours in ((r"\p{L}", "a-zA-Z\u00e4"), (r"\p{Z}", " "), (r"\p{N}", "0-9")):
        pattern = pattern.replace(theirs, ours)
    return re.fullmatch(pattern.removeprefix("^").removesuffix("$"), text) is not None


def changes(name: str, value: Any, path: list[Any]) -> Iterator[Change]:
    """All changes of a member of this shape, and of its own members."""
    shape = SHAPES[name]
    kind = shape["type"]
    if kind == "structure":
        if path:
            yield path, "text", False
        for member, of in shape["members"].items():
            if member in value:
                yield from changes(of["shape"], value[member], [*path, member])
                if member in shape.get("required", []):
                    yield [*path, member], LEFT_OUT, False
    elif kind == "list":
        yield path, "text", False
        yield from changes(shape["member"]["shape"], value[0], [*path, 0])
        if shape.get("min"):
            yield path, [], False
        if shape.get("max", 999) <= 200:
            yield path, [numbered(value[0], number) for number in range(shape["max"] + 1)], False
    elif kind == "map":
        yield path, "text", False
        yield path, {f"V{number}": "" for number in range(shape["max"] + 1)}, False
        for text in texts(SHAPES[shape["key"]["shape"]]):
            yield path, {text: ""}, fits(SHAPES[shape["key"]["shape"]], text)
    elif kind == "string":
        yield path, 5, False
        if path[-1] not in ANY_TEXT:
            for text in (*shape.get("enum", ()), *texts(shape)):
                yield path, text, fits(shape, text)
    elif kind in ("integer", "long", "float", "double"):
        yield path, "text", False
        for bound, outside in (("min", -1), ("max", 1)):
            if bound in shape:
                yield path, shape[bound], True
                yield path, shape[bound] + outside, False
    elif kind == "boolean":
        yield path, "text", False
    else:
        assert kind == "timestamp", kind
        yield path, [], False


def texts(shape: dict[str, Any]) -> Iterator[str]:
    yield from ("", "a", "-a", "a_b", "a b", "\u00e4", "a\n", "a*")
    if shape.get("max", 5000) < 5000:
        yield from ("a" * shape["max"], "a" * (shape["max"] + 1))


def numbered(item: Any, number: int) -> Any:
    """One of several items that must differ in their names."""
    if isinstance(item, dict):
        return item | {name: f"{item[name]}{number}" for name in ("Key", "VariantName") if name in item}
    return f"{item}{number}"


def changed(request: dict[str, Any], path: list[Any], value: Any) -> dict[str, Any]:
    request = copy.deepcopy(request)
    *above, last = path
    into = request
    for step in above:
        into = into[step]
    if value is LEFT_OUT:
        del into[last]
    else:
        into[last] = value
    return request


def ask(action: str, body: dict[str, Any]) -> tuple[int, dict[str, Any]]:
    headers = {"Content-Type": "application/x-amz-json-1.1", "X-Amz-Target": f"SageMaker.{action}"}
    url = os.environ["AWS_ENDPOINT_URL_SAGEMAKER"]
    request = urllib.request.Request(url, json.dumps(body).encode(), headers)
    try:
        with urllib.request.urlopen(request) as answer:
            return answer.status, json.loads(answer.read() or b"{}")
    except urllib.error.HTTPError as refused:
        return refused.code, json.loads(refused.read())


class ServiceModel(unittest.TestCase):
    def test_accepts_exactly_the_requests_that_the_definition_allows(self):
        ask("CreateModel", {"ModelName": "there", "PrimaryContainer": {"Image": "image:1"}})
        names = (f"new{number}" for number in itertools.count())
        asked, disagreements = 0, []
        for action, request in REQUESTS:
            shape = MODEL["operations"][action]["input"]["shape"]
            self.assertTrue(self.accepts(action, request, next(names)), f"{action}, unchanged")
            for path, value, allowed in changes(shape, request, []):
                if path[2:] == ["RoutingConfig", "RoutingStrategy"] and BY_PREFIX in request["ProductionVariants"][0].values():
                    # Only the text of the definition says that a prefix is for one strategy.
                    allowed = value == "PREFIX_AWARE"
                asked += 1
                given = changed(request, path, value)
                if self.accepts(action, given, next(names), path) != allowed:
                    outcome = "refused" if allowed else "accepted"
                    disagreements.append(f"{outcome}: {action} {path}: {value if value is not LEFT_OUT else 'left out'!r:.60}")
        self.assertEqual(disagreements, [])
        self.assertGreater(asked, 1500)

    def accepts(self, action: str, request: dict[str, Any], name: str, path: list[Any] | None = None) -> bool:
        """Whether the request has a valid shape; the resources that it names may be missing.
        Created resources get a unique name.
        """
        for member in ("ModelName", "EndpointConfigName", "EndpointName"):
            if request.get(member) == "new" and path != [member]:
                request = request | {member: name}
        status, answer = ask(action, request)
        message = answer.get("message", "")
        self.assertIn(status, (200, 400), message)
        return status == 200 or "Could not find" in message or "already existing" in message


if __name__ == "__main__":
    unittest.main()
