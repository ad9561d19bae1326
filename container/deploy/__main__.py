"""Deploys an endpoint of Longshore by the calls that its CloudFormation templates amount to.

The templates beside this file are the one description of what is deployed. CloudFormation can be given them as they are;
this program makes the same of them call by call: it needs no rights to stacks, prints all that it would do, and runs
against stand-ins that have SageMaker's API but no CloudFormation. What one has deployed the other does not know, so choose
one for each endpoint.
"""

import argparse
import sys
from pathlib import Path

from botocore.exceptions import BotoCoreError, ClientError

import image
import models
from calls import UNKNOWN_ACCOUNT, Aws
from resources import KINDS, Versioned
from template import Stack
from trouble import Trouble, explained

HERE = Path(__file__).resolve().parent
ENDPOINT = HERE / "endpoint.yaml"
REPOSITORY = HERE / "repository.yaml"


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="scripts/deploy",
        description="Deploys an endpoint of Longshore on SageMaker: builds and pushes the image, uploads models, makes or "
        "updates the endpoint and all that belongs to it, and asks it. Running it again changes what has changed.",
        epilog=about_parameters(),
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("name", help="what the endpoint is called")
    parser.add_argument("parameters", nargs="*", metavar="PARAMETER=VALUE", help="see below")
    parser.add_argument("--upload", type=Path, metavar="FOLDER", help="first put its *.tar.gz below Bucket and Prefix")
    parser.add_argument(
        "--smoke", nargs=2, action="append", default=[], metavar=("TARGET", "BODY"),
        help="then send a request to that model (MultiModel) or container (Direct; '-' in Single and Serial), and print the answer; "
        "repeatable",
    )  # fmt: skip
    parser.add_argument("--content-type", default="application/json", help="of these requests [%(default)s]")
    parser.add_argument("--skip-image", action="store_true", help="the image with that Tag is in the repository already")
    parser.add_argument("--docker", default="docker", metavar="COMMAND", help="what has the image, and pushes it [%(default)s]")
    parser.add_argument(
        "--sagemaker-only", action="store_true",
        help="no image, alarms, scaling or role, for stand-ins that have SageMaker's API alone; wants a Role",
    )  # fmt: skip
    parser.add_argument("--dry-run", action="store_true", help="print every call with its arguments, and make none")
    parser.add_argument("--delete", action="store_true", help="delete the endpoint; the image and the models stay")
    return parser.parse_intermixed_args()


def about_parameters() -> str:
    import yaml

    from template import Loader

    lines = ["parameters:"]
    for name, about in yaml.load(ENDPOINT.read_text(), Loader)["Parameters"].items():
        default = f" [{about['Default']}]" if about.get("Default", "") != "" else ""
        choices = f" ({', '.join(about['AllowedValues'])})" if "AllowedValues" in about else ""
        lines.append(f"  {name:<24}{about['Description']}{choices}{default}")
    return "\n".join(lines)


def given(words: list[str]) -> dict[str, str]:
    values = {}
    for word in words:
        name, equals, value = word.partition("=")
        if not equals:
            raise Trouble(f"{word}: a parameter is given as NAME=VALUE")
        values[name] = value
    return values


def surroundings(aws: Aws, role: str) -> dict[str, str]:
    partition = aws.session.get_partition_for_region(aws.region)
    if role.count(":") >= 5:
        account = role.split(":")[4]
    elif aws.dry_run:
        account = UNKNOWN_ACCOUNT
    else:
        account = aws.call("sts", "GetCallerIdentity")["Account"]
    return {
        "AWS::AccountId": account,
        "AWS::Partition": partition,
        "AWS::Region": aws.region,
        "AWS::URLSuffix": "amazonaws.com.cn" if partition == "aws-cn" else "amazonaws.com",
    }


def only(wanted: argparse.Namespace) -> str:
    """What the types of resources begin with that are to be touched."""
    return "AWS::SageMaker::" if wanted.sagemaker_only else "AWS::"


def physical(stack: Stack, resource: str) -> str:
    return f"{stack.name}-{resource}"


def make(aws: Aws, stack: Stack, kinds: str = "AWS::") -> None:
    """All that is wanted, then away with what is not wanted any more."""
    resources = [resource for resource in stack.resources() if resource[1].startswith(kinds)]
    for resource, kind, wanted in resources:
        if wanted:
            made = KINDS[kind].make(aws, physical(stack, resource), stack.properties(resource))
            stack.attributes[resource] = made
    for resource, kind, wanted in reversed(resources):
        if not wanted:
            remove(aws, stack, resource, kind)
        elif isinstance(KINDS[kind], Versioned):
            KINDS[kind].remove(aws, physical(stack, resource), {}, keep=stack.attributes[resource]["Ref"])


def remove(aws: Aws, stack: Stack, resource: str, kind: str) -> None:
    KINDS[kind].remove(aws, physical(stack, resource), stack.properties(resource))


def delete(aws: Aws, name: str, kinds: str) -> None:
    # What the parameters were does not matter.
    stack = Stack(ENDPOINT, name, {"Bucket": "any", "Tag": "any"}, surroundings(aws, "arn:aws:iam::any:role/any"))
    resources = list(stack.resources())
    for resource, _, _ in resources:
        own = physical(stack, resource)
        stack.attributes[resource] = {"Ref": own, "Arn": own, "ModelName": own, "EndpointConfigName": own} | {
            "EndpointName": name
        }
    for resource, kind, _ in reversed(resources):
        if kind.startswith(kinds):
            remove(aws, stack, resource, kind)


def deploy(aws: Aws, wanted: argparse.Namespace) -> None:
    values = given(wanted.parameters)
    if wanted.sagemaker_only:
        values = {"Tag": "any", "Alarms": "false"} | values
        if "Role" not in values:
            raise Trouble("--sagemaker-only makes no role; give Role=arn:...")
    if "Tag" not in values:
        values["Tag"] = image.tag_of_the_checkout()
    around = surroundings(aws, values.get("Role", ""))
    stack = Stack(ENDPOINT, wanted.name, values, around)
    chosen = stack.parameters
    mode = str(chosen["Mode"])
    bucket, prefix = str(chosen["Bucket"]), str(chosen["Prefix"])
    if int(chosen["MinInstances"]) > int(chosen["MaxInstances"]):
        raise Trouble("MinInstances is greater than MaxInstances; give MaxInstances=... as well")

    if chosen["AsyncPrefix"] and mode != "Single":
        raise Trouble("an asynchronous request names neither a model nor a container; give Mode=Single with AsyncPrefix=...")
    if chosen["AsyncPrefix"] and wanted.smoke:
        raise Trouble("--smoke waits for the answer, which an asynchronous endpoint writes to S3; leave it out")

    archives = {"MultiModel": [], "Single": [str(chosen["First"])]}.get(
        mode, [str(chosen["First"]), str(chosen["Second"])]
    )
    models.must_have_bucket(aws, bucket)
    if wanted.upload:
        models.upload(aws, wanted.upload, bucket, prefix)
    models.must_have(aws, bucket, prefix, archives)
    if not wanted.skip_image and not wanted.sagemaker_only:
        repository, tag = str(chosen["Repository"]), str(chosen["Tag"])
        if not image.is_there(aws, repository, tag):
            image.must_have(aws, wanted.docker)
            place = Stack(REPOSITORY, wanted.name, {"Repository": repository}, around)
            make(aws, place)
            image.publish(aws, wanted.docker, place.outputs()["Repository"], tag, str(chosen["InstanceType"]))
    make(aws, stack, only(wanted))
    for target, body in wanted.smoke:
        models.smoke(aws, wanted.name, mode, target, body, wanted.content_type)


def main() -> None:
    wanted = arguments()
    try:
        aws = Aws(wanted.dry_run)
        if wanted.delete:
            delete(aws, wanted.name, only(wanted))
        else:
            deploy(aws, wanted)
    except Trouble as trouble:
        sys.exit(f"scripts/deploy: {trouble}")
    except ClientError as error:
        sys.exit(f"scripts/deploy: {explained(error, error.operation_name)}")
    except BotoCoreError as error:
        sys.exit(f"scripts/deploy: {explained(error, 'AWS')}")


main()
