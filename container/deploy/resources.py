"""What a template can ask for, and the calls that make it so.

What always holds: making one that is there already, as it is asked for, changes nothing; removing one that is not there is
no error. Models and configurations cannot be changed, so their names end with a hash of what they are, and others take
their place.
"""

import hashlib
import json
import re
import time
from typing import Any

from botocore.exceptions import ClientError

from calls import UNKNOWN_ACCOUNT, Aws
from trouble import Trouble

Properties = dict[str, Any]
Attributes = dict[str, str]

# An endpoint with large models takes long to come up.
PATIENCE_SECONDS = 3600
# A role that was made just now is not known everywhere yet.
ROLE_PATIENCE_SECONDS = 60

SCALING = "application-autoscaling"
# What tells one thing that is scaled from others.
VARIANT = ["ServiceNamespace", "ScalableDimension", "ResourceId"]
# Of an endpoint: it cannot be updated.
BEYOND_REPAIR = {"Failed", "OutOfService", "UpdateRollbackFailed"}


class Repository:
    """An ECR repository. It is never removed."""

    def make(self, aws: Aws, name: str, properties: Properties) -> Attributes:
        name = properties["RepositoryName"]
        found = aws.find("ecr", "DescribeRepositories", {"RepositoryNotFoundException"}, repositoryNames=[name])
        if found:
            return {"Ref": name, "RepositoryUri": found["repositories"][0]["repositoryUri"]}
        made = aws.call("ecr", "CreateRepository", **properties)
        aws.say("repository", name, "created")
        unknown = {"repositoryUri": f"{UNKNOWN_ACCOUNT}.dkr.ecr.{aws.region}.amazonaws.com/{name}"}
        return {"Ref": name, "RepositoryUri": made.get("repository", unknown)["repositoryUri"]}

    def remove(self, aws: Aws, name: str, properties: Properties) -> None:
        pass


class Role:
    def make(self, aws: Aws, name: str, properties: Properties) -> Attributes:
        properties = dict(properties)
        policies = properties.pop("Policies")
        trust = properties["AssumeRolePolicyDocument"]
        found = aws.find("iam", "GetRole", {"NoSuchEntity"}, RoleName=name)
        if found:
            aws.call("iam", "UpdateAssumeRolePolicy", RoleName=name, PolicyDocument=trust)
        else:
            found = aws.call("iam", "CreateRole", RoleName=name, **properties)
            aws.say("role", name, "created")
        for policy in policies:
            aws.call("iam", "PutRolePolicy", RoleName=name, **policy)
        unknown = {"Arn": f"arn:aws:iam::{UNKNOWN_ACCOUNT}:role/{name}"}
        return {"Ref": name, "Arn": found.get("Role", unknown)["Arn"]}

    def remove(self, aws: Aws, name: str, properties: Properties) -> None:
        if not aws.find("iam", "GetRole", {"NoSuchEntity"}, RoleName=name) and not aws.dry_run:
            return
        for policy in properties["Policies"]:
            aws.find("iam", "DeleteRolePolicy", {"NoSuchEntity"}, RoleName=name, PolicyName=policy["PolicyName"])
        aws.call("iam", "DeleteRole", RoleName=name)
        aws.say("role", name, "deleted")


class Versioned:
    """A model or an endpoint configuration. Former ones are removed when the endpoint does not use them any more."""

    def __init__(self, kind: str, what: str):
        self.kind = kind
        self.what = what
        self.key = f"{kind}Name"

    def make(self, aws: Aws, name: str, properties: Properties) -> Attributes:
        content = json.dumps(properties, sort_keys=True).encode()
        name = f"{name}-{hashlib.sha256(content).hexdigest()[:8]}"
        if not aws.find("sagemaker", f"Describe{self.kind}", set(), **{self.key: name}):
            self.create(aws, {self.key: name} | properties)
            aws.say(self.what, name, "created")
        return {"Ref": name, self.key: name}

    def create(self, aws: Aws, arguments: Properties) -> None:
        deadline = time.monotonic() + ROLE_PATIENCE_SECONDS
        while True:
            try:
                aws.call("sagemaker", f"Create{self.kind}", **arguments)
                return
            except ClientError as error:
                if "assume role" not in str(error).lower() or time.monotonic() > deadline:
                    raise
            time.sleep(5)

    def remove(self, aws: Aws, name: str, properties: Properties, keep: str = "") -> None:
        former = re.compile(re.escape(name) + "-[0-9a-f]{8}")
        for item in aws.items("sagemaker", f"List{self.kind}s", f"{self.kind}s", NameContains=name):
            if former.fullmatch(item[self.key]) and item[self.key] != keep:
                aws.call("sagemaker", f"Delete{self.kind}", **{self.key: item[self.key]})
                aws.say(self.what, item[self.key], "deleted")


class Endpoint:
    """The endpoint, which is named as the stack, so that callers need not know what was deployed last."""

    def make(self, aws: Aws, name: str, properties: Properties) -> Attributes:
        properties = dict(properties)
        name = properties["EndpointName"]
        config = properties["EndpointConfigName"]
        retain = properties.pop("RetainAllVariantProperties")
        attributes = {"Ref": name, "EndpointName": name}
        found = self.settled(aws, name)
        if found:
            self.must_be_ours(name, found)
        if found and found["EndpointStatus"] in BEYOND_REPAIR:
            aws.say("endpoint", name, f"had failed ({found.get('FailureReason', 'without a reason')}); made anew")
            self.delete(aws, name)
            found = None
        if not found:
            aws.call("sagemaker", "CreateEndpoint", **properties)
            aws.say("endpoint", name, "creating, which takes minutes")
        elif found["EndpointConfigName"] == config:
            aws.say("endpoint", name, "in service already as it is asked for")
            return attributes
        else:
            self.release(aws, name, found["EndpointConfigName"], config)
            aws.call("sagemaker", "UpdateEndpoint", RetainAllVariantProperties=retain, **properties)
            aws.say("endpoint", name, "updating, while it serves as before")
        if aws.dry_run:
            aws.show("sagemaker", "wait endpoint-in-service", {"EndpointName": name})
            return attributes
        self.must_serve(name, config, self.settled(aws, name))
        aws.say("endpoint", name, "in service")
        return attributes

    def remove(self, aws: Aws, name: str, properties: Properties) -> None:
        name = properties["EndpointName"]
        found = self.settled(aws, name)
        if found:
            self.must_be_ours(name, found)
        if found or aws.dry_run:
            self.delete(aws, name)
            aws.say("endpoint", name, "deleted")

    def delete(self, aws: Aws, name: str) -> None:
        aws.call("sagemaker", "DeleteEndpoint", EndpointName=name)
        self.settled(aws, name)

    def settled(self, aws: Aws, name: str) -> dict[str, Any] | None:
        """The endpoint once nothing is under way with it."""
        deadline = time.monotonic() + PATIENCE_SECONDS
        pause = 0.2
        while True:
            found = aws.find("sagemaker", "DescribeEndpoint", set(), EndpointName=name)
            if not found or not found["EndpointStatus"].endswith(("ing", "ingBack")):
                return found
            if time.monotonic() > deadline:
                raise Trouble(
                    f"endpoint {name} has been {found['EndpointStatus']} for an hour; its log group is {log_group(name)}"
                )
            time.sleep(pause)
            pause = min(pause * 1.5, 15)

    def must_be_ours(self, name: str, found: dict[str, Any]) -> None:
        config = found["EndpointConfigName"]
        if not re.fullmatch(re.escape(name) + "-[A-Za-z]+-[0-9a-f]{8}", config):
            raise Trouble(
                f"there is an endpoint {name} that was made by something else (its configuration is {config}); choose "
                "another name, or change it with what it was made by"
            )

    def must_serve(self, name: str, config: str, found: dict[str, Any] | None) -> None:
        if found and found["EndpointStatus"] == "InService" and found["EndpointConfigName"] == config:
            return
        reason = (found or {}).get("FailureReason", "it is gone")
        state = "serves what it served before" if found and found["EndpointStatus"] == "InService" else "does not serve"
        raise Trouble(
            f"endpoint {name} {state}: {reason.rstrip('. ')}. The containers' last words are in the log group "
            f"{log_group(name)}. Run this again when that is put right; --delete removes what is there"
        )

    def release(self, aws: Aws, name: str, old: str, new: str) -> None:
        """SageMaker changes the instance type only of what is not being scaled. Scaling is set up again afterwards."""

        def machine(config: str) -> str | None:
            found = aws.find("sagemaker", "DescribeEndpointConfig", set(), EndpointConfigName=config)
            return found["ProductionVariants"][0]["InstanceType"] if found else None

        if machine(old) != machine(new):
            variant = ["sagemaker", "sagemaker:variant:DesiredInstanceCount", f"endpoint/{name}/variant/all"]
            TARGET.remove(aws, name, dict(zip(VARIANT, variant, strict=True)))


class Scaling:
    """A scalable target or a policy: which one it is, and how it is, are told by the same call."""

    def __init__(self, kind: str, verbs: tuple[str, str], name: str):
        self.kind = kind
        self.make_call, self.remove_call = (f"{verb}{kind}" for verb in verbs)
        self.items = f"{kind.removesuffix('y')}ies" if kind.endswith("y") else f"{kind}s"
        self.identity = [*VARIANT, name] if name else VARIANT

    def make(self, aws: Aws, name: str, properties: Properties) -> Attributes:
        aws.call(SCALING, self.make_call, **properties)
        return {"Ref": name}

    def remove(self, aws: Aws, name: str, properties: Properties) -> None:
        identity = {key: properties[key] for key in self.identity}
        found = aws.items(SCALING, f"Describe{self.items}", self.items, ServiceNamespace=identity["ServiceNamespace"])
        if any(identity.items() <= item.items() for item in found) or aws.dry_run:
            aws.call(SCALING, self.remove_call, **identity)

TARGET = Scaling("ScalableTarget", ("Register", "Deregister"), "")


class Alarm:
    def make(self, aws: Aws, name: str, properties: Properties) -> Attributes:
        aws.call("cloudwatch", "PutMetricAlarm", AlarmName=name, **properties)
        return {"Ref": name}

    def remove(self, aws: Aws, name: str, properties: Properties) -> None:
        aws.find("cloudwatch", "DeleteAlarms", {"ResourceNotFound"}, AlarmNames=[name])


def log_group(endpoint: str) -> str:
    return f"/aws/sagemaker/Endpoints/{endpoint}"


KINDS = {
    "AWS::ECR::Repository": Repository(),
    "AWS::IAM::Role": Role(),
    "AWS::SageMaker::Model": Versioned("Model", "model"),
    "AWS::SageMaker::EndpointConfig": Versioned("EndpointConfig", "configuration"),
    "AWS::SageMaker::Endpoint": Endpoint(),
    "AWS::ApplicationAutoScaling::ScalableTarget": TARGET,
    "AWS::ApplicationAutoScaling::ScalingPolicy": Scaling("ScalingPolicy", ("Put", "Delete"), "PolicyName"),
    "AWS::CloudWatch::Alarm": Alarm(),
}
