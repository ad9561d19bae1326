"""Deploys an endpoint of Longshore as a CloudFormation stack.

The templates beside this file describe everything that is deployed; CloudFormation makes, changes
and deletes it. This program does the rest: it uploads the models, builds and pushes the image, and
follows CloudFormation's progress.
"""

import argparse
import sys
from pathlib import Path

from botocore.exceptions import BotoCoreError, ClientError

import image
import models
from aws import Aws
from errors import DeployError, explain
from stack import Stack
from template import describe_parameters, parameter_values

ENDPOINT = Path(__file__).resolve().parent / "endpoint.yaml"


def arguments() -> argparse.Namespace:
    """Parses the command line."""
    parser = argparse.ArgumentParser(
        prog="scripts/deploy",
        description="Deploys an endpoint of Longshore on SageMaker: uploads models, builds and pushes the image, creates "
        "or updates a CloudFormation stack, and invokes the endpoint. A second run updates what has changed.",
        epilog=describe_parameters(ENDPOINT),
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("name", help="name of the endpoint and of its stack")
    parser.add_argument(
        "parameters", nargs="*", metavar="PARAMETER=VALUE", help="parameters of the template, see below"
    )
    parser.add_argument(
        "--upload", type=Path, metavar="FOLDER", help="upload the *.tar.gz of a folder below Bucket and Prefix first"
    )
    parser.add_argument(
        "--smoke",
        nargs=2,
        action="append",
        default=[],
        metavar=("TARGET", "BODY"),
        help="invoke this model (MultiModel) or container (Direct; '-' in Single and Serial) afterwards and print the "
        "answer; repeatable",
    )
    parser.add_argument(
        "--content-type", default="application/json", help="content type of these requests [%(default)s]"
    )
    parser.add_argument("--skip-image", action="store_true", help="do not look for the image: the repository has it")
    parser.add_argument(
        "--docker", default="docker", metavar="COMMAND", help="command that has and pushes the image [%(default)s]"
    )
    parser.add_argument("--yes", action="store_true", help="execute change sets without a question at the terminal")
    parser.add_argument("--dry-run", action="store_true", help="print every call with its parameters and make none")
    parser.add_argument("--delete", action="store_true", help="delete the stack; the image and the models stay")
    return parser.parse_intermixed_args()


def deploy(aws: Aws, options: argparse.Namespace, ask: bool) -> None:
    """Brings models, image and stack to the state that the parameters ask for, in this order."""
    values = parameter_values(ENDPOINT, options.parameters)
    if "Bucket" not in values:
        raise DeployError("the bucket of the models is missing; give Bucket=...")
    if "Tag" not in values:
        values["Tag"] = image.tag_of_the_checkout()
    check(values, bool(options.smoke))
    mode, bucket, prefix = values["Mode"], values["Bucket"], values["Prefix"]
    archives = {"MultiModel": [], "Single": [values["First"]]}.get(mode, [values["First"], values["Second"]])
    models.check_bucket(aws, bucket)
    if options.upload:
        models.upload(aws, options.upload, bucket, prefix)
    models.check_archives(aws, bucket, prefix, archives)

    needs_image = not options.skip_image and not image.is_pushed(aws, values["Repository"], values["Tag"])
    if needs_image:
        image.check_docker(aws, options.docker)
    stack = Stack(aws, options.name, ask)
    sequence = steps(stack.parameters(), values)
    if len(sequence) > 1:
        aws.report("InstanceType changes while the endpoint scales: the scaling ends by a change set of its own")
    for step in sequence:
        change_set = stack.propose(ENDPOINT, step)
        if not change_set:
            continue
        try:
            if needs_image:
                uri = image.repository_uri(aws, values["Repository"], ask)
                image.publish(aws, options.docker, uri, values["Tag"], values["InstanceType"])
                needs_image = False
        except BaseException:
            stack.discard(change_set)
            raise
        stack.execute(change_set)
    for target, body in options.smoke:
        models.smoke(aws, options.name, mode, target, body, options.content_type)


def check(values: dict[str, str], smoke: bool) -> None:
    """Refuses values that CloudFormation accepts, or would refuse only after the upload."""
    if values["AsyncPrefix"] and values["Mode"] != "Single":
        raise DeployError("an asynchronous request names neither a model nor a container; give Mode=Single")
    if values["AsyncPrefix"] and smoke:
        raise DeployError(
            "--smoke waits for an answer, and an asynchronous endpoint writes it to S3; leave --smoke out"
        )
    least, most = values["MinInstances"], values["MaxInstances"]
    if least.isdecimal() and most.isdecimal() and int(least) > int(most):
        raise DeployError("MinInstances is greater than MaxInstances; give MaxInstances=... as well")


def steps(current: dict[str, str], wanted: dict[str, str]) -> list[dict[str, str]]:
    """The parameters of the change sets that lead from the current deployment to the wanted one.

    SageMaker refuses another instance type while the endpoint scales, so a first change set ends
    the scaling.
    """
    scales = current.get("MinInstances") != current.get("MaxInstances")
    if scales and current["InstanceType"] != wanted["InstanceType"]:
        known = {name: value for name, value in current.items() if name in wanted}
        return [wanted | known | {"MaxInstances": current["MinInstances"]}, wanted]
    return [wanted]


def main() -> None:
    """Runs the tool; an error ends it with one message and exit code 1."""
    options = arguments()
    try:
        aws = Aws(options.dry_run)
        ask = sys.stdin.isatty() and not options.yes and not options.dry_run
        if options.delete:
            Stack(aws, options.name, ask).delete()
        else:
            deploy(aws, options, ask)
    except DeployError as error:
        sys.exit(f"scripts/deploy: {error}")
    except ClientError as error:
        sys.exit(f"scripts/deploy: {explain(error, error.operation_name)}")
    except BotoCoreError as error:
        sys.exit(f"scripts/deploy: {explain(error, 'AWS')}")
    except KeyboardInterrupt:
        sys.exit("scripts/deploy: interrupted; CloudFormation goes on with what it has begun")


main()
