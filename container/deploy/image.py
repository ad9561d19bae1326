"""The container image: built with Docker and pushed to ECR, unless the repository has it."""

import base64
import re
import shlex
import subprocess
from pathlib import Path

from aws import Aws
from errors import DeployError
from stack import Stack

ROOT = Path(__file__).resolve().parents[2]
REPOSITORY = Path(__file__).resolve().parent / "repository.yaml"
# Graviton is the letter after the generation, as in ml.c7g.large.
GRAVITON = re.compile(r"ml\.[a-z]+\d+g")
# The files that an image is built from. A change elsewhere leaves the image as it is.
BUILT_FROM = ["Cargo.toml", "Cargo.lock", "LICENSE", ".dockerignore", "container", "scripts", "src"]
# A dry run does not ask for the account.
UNKNOWN_ACCOUNT = "000000000000"
ELSEWHERE = "push the image from elsewhere and give --skip-image and its Tag=..."


def tag_of_the_checkout() -> str:
    """The commit as the image's tag. The repository refuses a second image by the same tag."""

    def git(*words: str) -> str:
        try:
            done = subprocess.run(["git", "-C", ROOT, *words], capture_output=True, text=True, check=True)
        except (OSError, subprocess.CalledProcessError):
            raise DeployError("the tag is the commit, and this is not a git checkout; give Tag=...") from None
        return done.stdout.strip()

    changed = git("status", "--porcelain", "--", *BUILT_FROM)
    if changed:
        first = changed.splitlines()[0].split(maxsplit=1)[1]
        raise DeployError(f"the tag is the commit, and {first} is not committed; commit it, or give Tag=...")
    return git("rev-parse", "--short=12", "HEAD")


def is_pushed(aws: Aws, repository: str, tag: str) -> bool:
    """Whether the repository has the image."""
    found = aws.find("ecr", "DescribeImages", repositoryName=repository, imageIds=[{"imageTag": tag}])
    if found:
        aws.report(f"image {repository}:{tag}: in the repository already")
    return found is not None


def check_docker(aws: Aws, docker: str) -> None:
    """Fails before anything is made that needs Docker."""
    if not aws.dry_run and query(docker, "version") is None:
        raise DeployError(f"`{docker} version` fails: check that Docker runs and that you may use it; or {ELSEWHERE}")


def repository_uri(aws: Aws, repository: str, ask: bool) -> str:
    """The address of the repository, which is made by a stack of its own when there is none."""
    if not aws.find("ecr", "DescribeRepositories", repositoryNames=[repository]):
        stack = Stack(aws, re.sub("[^A-Za-z0-9-]", "-", repository) + "-image", ask)
        change_set = stack.propose(REPOSITORY, {"Repository": repository})
        if change_set:
            stack.execute(change_set)
    if aws.dry_run:
        return f"{UNKNOWN_ACCOUNT}.dkr.ecr.{aws.region}.amazonaws.com/{repository}"
    found = aws.call("ecr", "DescribeRepositories", repositoryNames=[repository])
    return found["repositories"][0]["repositoryUri"]


def publish(aws: Aws, docker: str, uri: str, tag: str, instance_type: str) -> None:
    """Builds the image `uri:tag` unless Docker has it, and pushes it."""
    image = f"{uri}:{tag}"
    inspect = ["image", "inspect", "--format", "{{.Architecture}}", image]
    # The processor of the instances, whatever this machine has.
    wanted = "arm64" if GRAVITON.match(instance_type) else "amd64"
    build = [str(ROOT / "scripts/image"), "--platform", f"linux/{wanted}", image]
    if aws.dry_run or query(docker, *inspect) is None:
        run(aws, build)
    found = "" if aws.dry_run else (query(docker, *inspect) or "").strip()
    # SageMaker would only report an "exec format error" in the log, minutes later.
    if found not in ("", wanted):
        raise DeployError(
            f"Docker's {image} is for {found}, and {instance_type} needs {wanted}; build it again with "
            f"`{shlex.join(build)}`, or give another InstanceType=..."
        )
    answer = aws.call("ecr", "GetAuthorizationToken")
    token = answer.get("authorizationData", [{}])[0].get("authorizationToken", "")
    password = base64.b64decode(token).decode().removeprefix("AWS:")
    run(aws, [docker, "login", "--username", "AWS", "--password-stdin", uri.split("/")[0]], password)
    run(aws, [docker, "push", image])
    aws.report(f"image {image}: pushed")


def query(docker: str, *words: str) -> str | None:
    """The output of a Docker command; None when the command fails."""
    try:
        done = subprocess.run([docker, *words], capture_output=True, text=True)
    except OSError as error:
        raise DeployError(
            f"{docker} cannot be run ({error.strerror}); install Docker, or name a command that takes the same "
            f"arguments with --docker, or {ELSEWHERE}"
        ) from None
    return None if done.returncode else done.stdout


def run(aws: Aws, command: list[str], text: str = "") -> None:
    """Runs a command with `text` as its input; a dry run prints it."""
    if aws.dry_run:
        print(shlex.join(command))
        return
    try:
        done = subprocess.run(command, input=text, text=True)
    except OSError as error:
        raise DeployError(f"{command[0]} cannot be run: {error.strerror}") from None
    if done.returncode:
        raise DeployError(f"`{shlex.join(command[:2])}` failed with exit code {done.returncode}; its output is above")
