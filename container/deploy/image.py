"""Gets the image into the repository, unless it is there."""

import base64
import re
import shlex
import subprocess
from pathlib import Path

from calls import Aws
from trouble import Trouble

ROOT = Path(__file__).resolve().parents[2]
# The letter behind the generation, as in ml.c7g.large.
GRAVITON = re.compile(r"ml\.[a-z]+\d+g")
# What an image is built of; models beside it, or what a README says, are not its business.
BUILT_OF = ["Cargo.toml", "Cargo.lock", "LICENSE", ".dockerignore", "container", "scripts", "src"]
ELSEWHERE = "push the image from elsewhere and give --skip-image and its Tag=..."


def tag_of_the_checkout() -> str:
    """The commit, which names an image for good: the repository takes each tag once."""

    def git(*words: str) -> str:
        try:
            done = subprocess.run(["git", "-C", ROOT, *words], capture_output=True, text=True, check=True)
        except (OSError, subprocess.CalledProcessError):
            raise Trouble("this is no git checkout, whose commit could be the image's tag; give Tag=...") from None
        return done.stdout.strip()

    changed = git("status", "--porcelain", "--", *BUILT_OF)
    if changed:
        first = changed.splitlines()[0].split(maxsplit=1)[1]
        raise Trouble(f"no commit names what was changed in {first}; commit it, or give the image's Tag=...")
    return git("rev-parse", "--short=12", "HEAD")


def is_there(aws: Aws, repository: str, tag: str) -> bool:
    absent = {"ImageNotFoundException", "RepositoryNotFoundException"}
    found = aws.find("ecr", "DescribeImages", absent, repositoryName=repository, imageIds=[{"imageTag": tag}])
    if found:
        aws.say("image", f"{repository}:{tag}", "in the repository already")
    return found is not None


def must_have(aws: Aws, docker: str) -> None:
    """That Docker is there and answers, before anything is made that needs it."""
    if not aws.dry_run and asked(docker, "version") is None:
        raise Trouble(f"`{docker} version` fails: see whether Docker runs, and whether you may use it; or {ELSEWHERE}")


def publish(aws: Aws, docker: str, uri: str, tag: str, instance_type: str) -> None:
    """Builds `uri:tag` unless Docker has it, and pushes it."""
    image = f"{uri}:{tag}"
    inspect = ["image", "inspect", "--format", "{{.Architecture}}", image]
    # Of the instances, whatever this machine is.
    wanted = "arm64" if GRAVITON.match(instance_type) else "amd64"
    build = [str(ROOT / "scripts/image"), "--platform", f"linux/{wanted}", image]
    if aws.dry_run or asked(docker, *inspect) is None:
        run(aws, build)
    found = "" if aws.dry_run else (asked(docker, *inspect) or "").strip()
    # SageMaker would tell some minutes later, in the log, by an "exec format error".
    if found not in ("", wanted):
        raise Trouble(
            f"Docker's {image} is for {found}, and {instance_type} needs {wanted}; build it anew by "
            f"`{shlex.join(build)}`, or give another InstanceType=..."
        )
    token = aws.call("ecr", "GetAuthorizationToken").get("authorizationData", [{}])[0].get("authorizationToken", "")
    password = base64.b64decode(token).decode().removeprefix("AWS:")
    registry = uri.split("/")[0]
    run(aws, [docker, "login", "--username", "AWS", "--password-stdin", registry], password)
    run(aws, [docker, "push", image])
    aws.say("image", image, "pushed")


def asked(docker: str, *words: str) -> str | None:
    """What Docker answers; nothing when it refuses."""
    try:
        done = subprocess.run([docker, *words], capture_output=True, text=True)
    except OSError as error:
        raise Trouble(
            f"{docker} cannot be run ({error.strerror}); install Docker, or name a command that takes the same arguments "
            f"by --docker, or {ELSEWHERE}"
        ) from None
    return None if done.returncode else done.stdout


def run(aws: Aws, command: list[str], given: str = "") -> None:
    if aws.dry_run:
        print(shlex.join(command))
        return
    try:
        done = subprocess.run(command, input=given, text=True)
    except OSError as error:
        raise Trouble(f"{command[0]} cannot be run: {error.strerror}") from None
    if done.returncode:
        raise Trouble(f"`{shlex.join(command[:2])}` ended with exit code {done.returncode}; what it says is above")
