"""A local SageMaker endpoint for tests.

`endpoint` starts `longshore endpoint` on a free port, and stops it at the end of the block:

    from longshore.testing import endpoint

    with endpoint(multi_model="tests/models") as local:
        answer = local.runtime.invoke_endpoint(
            EndpointName=local.name, TargetModel="iris", ContentType="text/csv", Body="5.1,3.5,1.4,0.2")

The models are those of a folder, of a bucket (`s3://bucket/segments/`) or of another model store. Without models
the endpoint starts empty, and the test deploys its own with `local.sagemaker`, as on AWS.

pytest has the same as the fixture `longshore_endpoint`; see `longshore.pytest_plugin`. The clients need boto3:
`pip install 'longshore-....whl[testing]'` installs it as well.
"""

from __future__ import annotations

import importlib
import json
import logging
import os
import subprocess
import threading
import time
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, Literal, TypedDict
from urllib.parse import urlsplit

from longshore import executable

__all__ = ["EndpointError", "EndpointOptions", "LocalEndpoint", "endpoint"]

LOGGER = logging.getLogger("longshore")
"""Receives the endpoint's log. pytest prints its warnings below a failed test."""

_LEVELS = {"ERROR": logging.ERROR, "WARN": logging.WARNING, "INFO": logging.INFO}

# The endpoint checks no credentials, but boto3 signs each request with some.
_CREDENTIALS = {"AWS_ACCESS_KEY_ID": "longshore", "AWS_SECRET_ACCESS_KEY": "longshore"}

# Variables of the options of `longshore endpoint` begin with this.
_VARIABLES = "LONGSHORE_ENDPOINT_"

# The options that make an endpoint at the start.
_DECLARING = {"--multi-model", "--model", "--container", "--config"}

# The options on which this module depends, and the parameters for them.
_OWN = {"--port": None, "--log-format": None, "--log-level": None, "--region": "region"}

_REMEMBERED_LINES = 50


class EndpointError(Exception):
    """The endpoint did not start. The message has the last lines of its log."""


class EndpointOptions(TypedDict, total=False):
    """The arguments of `endpoint`, for the fixture `longshore_options`."""

    multi_model: str | os.PathLike[str] | None
    model: str | os.PathLike[str] | None
    name: str
    arguments: Sequence[str]
    environment: Mapping[str, str]
    region: str | None
    start_timeout: float
    stop_timeout: float


@contextmanager
def endpoint(
    multi_model: str | os.PathLike[str] | None = None,
    *,
    model: str | os.PathLike[str] | None = None,
    name: str = "longshore",
    arguments: Sequence[str] = (),
    environment: Mapping[str, str] | None = None,
    region: str | None = None,
    start_timeout: float = 60.0,
    stop_timeout: float = 30.0,
) -> Iterator[LocalEndpoint]:
    """Starts a local endpoint, and stops it when the block ends, also by an exception.

    If this process is killed, the kernel stops the endpoint.

    multi_model: a folder or a URL. All models in it are served by one multi-model endpoint called `name`; a request
        chooses one by `TargetModel`.
    model: the folder or archive of one model, as a path or a URL, served by an endpoint called `name`.
    arguments: more arguments of `longshore endpoint`, such as `["--fault", "error=503@10%"]`. `--port`,
        `--log-format`, `--log-level` and `--region` are refused, because this function sets or reads them.
    environment: more variables, such as the credentials of a bucket. The endpoint also inherits the variables of
        this process. Variables that begin with `LONGSHORE_ENDPOINT_` are not inherited, and are refused here:
        `arguments` has their options.
    region: the AWS region of the endpoint and of its clients; otherwise `AWS_REGION`, `AWS_DEFAULT_REGION` or
        us-east-1.
    start_timeout: seconds until the endpoint serves its models; after them `EndpointError` is raised.
    stop_timeout: seconds for requests that still run at the end; after them the endpoint is killed.
    """
    if multi_model is not None and model is not None:
        raise ValueError("multi_model and model are both given: an endpoint has either many models or one")
    _refuse_own(arguments, environment or {})
    variables = {name: value for name, value in os.environ.items() if not name.startswith(_VARIABLES)}
    variables.update(environment or {})
    region = region or variables.get("AWS_REGION") or variables.get("AWS_DEFAULT_REGION") or "us-east-1"
    command = [str(executable()), "endpoint", "--port=0", "--log-format=json", f"--region={region}"]
    for option, value in (("multi-model", multi_model), ("model", model)):
        if value is not None:
            command += [f"--{option}={os.fspath(value)}", f"--endpoint-name={name}"]
    command += arguments
    process = _Process(command, variables)
    try:
        has_models = any(word.partition("=")[0] in _DECLARING for word in command)
        url = process.wait_until_ready(has_models, start_timeout)
        yield LocalEndpoint(url=url, name=name, region=region, process_id=process.id)
    finally:
        process.stop(stop_timeout)


def _refuse_own(arguments: Sequence[str], environment: Mapping[str, str]) -> None:
    """Refuses what would keep this module from finding the endpoint, or from seeing that it serves."""
    for argument in arguments:
        option = argument.partition("=")[0]
        if option in _OWN:
            advice = f"use the parameter {_OWN[option]}" if _OWN[option] else "leave it out"
            raise ValueError(f"{option} is in arguments, but longshore.testing sets it: {advice}")
    for name in environment:
        if name.startswith(_VARIABLES):
            raise ValueError(f"{name} is in environment: give its option in arguments")


class LocalEndpoint:
    """A running endpoint. `endpoint` makes it."""

    def __init__(self, *, url: str, name: str, region: str, process_id: int) -> None:
        self.url = url
        """The address of the control plane and of the runtime, such as `http://127.0.0.1:41234`."""
        self.name = name
        """The `EndpointName` of the endpoint that `multi_model` or `model` has made."""
        self.region = region
        """The AWS region in ARNs and in the clients' signatures."""
        self.process_id = process_id
        """The process id of `longshore endpoint`."""
        self._clients: dict[str, Any] = {}

    @property
    def runtime(self) -> Any:
        """The boto3 client `sagemaker-runtime`, which invokes models."""
        return self._client("sagemaker-runtime")

    @property
    def sagemaker(self) -> Any:
        """The boto3 client `sagemaker`, which creates and deletes models and endpoints."""
        return self._client("sagemaker")

    def client(self, service: Literal["sagemaker", "sagemaker-runtime"], **arguments: Any) -> Any:
        """Makes a boto3 client for the endpoint. The arguments are those of `boto3.client`, such as `config`."""
        if service not in ("sagemaker", "sagemaker-runtime"):
            raise ValueError(f"the endpoint does not offer {service}: expected sagemaker or sagemaker-runtime")
        try:
            boto3 = importlib.import_module("boto3")
            config = importlib.import_module("botocore.config").Config
        except ImportError as error:
            raise ImportError("boto3 is not installed: run pip install boto3") from error
        # A proxy of the environment cannot reach the loopback interface of this machine.
        direct = config(proxies={})
        given = arguments.pop("config", None)
        session = boto3.session.Session()
        return session.client(
            service,
            **{
                "endpoint_url": self.url,
                "region_name": self.region,
                "aws_access_key_id": _CREDENTIALS["AWS_ACCESS_KEY_ID"],
                "aws_secret_access_key": _CREDENTIALS["AWS_SECRET_ACCESS_KEY"],
                "config": direct.merge(given) if given else direct,
                **arguments,
            },
        )

    @property
    def variables(self) -> dict[str, str]:
        """The variables with which code that was written for AWS uses this endpoint.

        Credentials and a region are among them only where this process has none.
        """
        variables = {"AWS_ENDPOINT_URL_SAGEMAKER": self.url, "AWS_ENDPOINT_URL_SAGEMAKER_RUNTIME": self.url}
        has_credentials = {"AWS_ACCESS_KEY_ID", "AWS_PROFILE"} & os.environ.keys()
        if not has_credentials:
            variables.update(_CREDENTIALS)
        if "AWS_DEFAULT_REGION" not in os.environ:
            variables["AWS_DEFAULT_REGION"] = self.region
        if {"HTTP_PROXY", "http_proxy", "ALL_PROXY", "all_proxy"} & os.environ.keys():
            host = str(urlsplit(self.url).hostname)
            excluded = os.environ.get("no_proxy") or os.environ.get("NO_PROXY")
            hosts = f"{excluded},{host}" if excluded else host
            variables.update({"NO_PROXY": hosts, "no_proxy": hosts})
        return variables

    def _client(self, service: Literal["sagemaker", "sagemaker-runtime"]) -> Any:
        if service not in self._clients:
            self._clients[service] = self.client(service)
        return self._clients[service]


class _Process:
    """`longshore endpoint`, started and followed by a thread of its own.

    The kernel stops the endpoint when the thread that started it ends, so this thread lives as long as the
    endpoint. Any other thread may end before.
    """

    def __init__(self, command: Sequence[str], environment: Mapping[str, str]) -> None:
        self._command = command
        self._environment = environment
        self._changed = threading.Condition()
        self._process: subprocess.Popen[str] | None = None
        self._error: OSError | None = None
        self._address: str | None = None
        self._serves = False
        self._has_ended = False
        self._lines: deque[str] = deque(maxlen=_REMEMBERED_LINES)
        self._thread = threading.Thread(target=self._follow, name="longshore endpoint", daemon=True)
        self._thread.start()

    @property
    def id(self) -> int:
        assert self._process is not None, "wait_until_ready has returned"
        return self._process.pid

    def wait_until_ready(self, has_models: bool, timeout: float) -> str:
        """Waits until the endpoint listens and, with models, is in service. Returns its URL."""

        def is_decided() -> bool:
            is_ready = self._address is not None and (self._serves or not has_models)
            return is_ready or self._has_ended

        with self._changed:
            in_time = self._changed.wait_for(is_decided, timeout)
            if self._error is not None:
                raise EndpointError(f"failed to start {self._command[0]}: {self._error}") from self._error
            if not in_time or self._has_ended or self._address is None:
                problem = "ended" if self._has_ended else f"does not serve after {timeout:g} s (start_timeout)"
                log = "\n".join(self._lines)
                raise EndpointError(f"longshore endpoint {problem}: {' '.join(self._command)}\n{log}")
            return f"http://{self._address}"

    def stop(self, timeout: float) -> None:
        """Stops the endpoint and its containers: in order within `timeout`, and by a kill after it."""
        deadline = time.monotonic() + timeout
        with self._changed:
            self._changed.wait_for(lambda: self._process is not None or self._has_ended)
        process = self._process
        if process is None:
            return
        process.terminate()
        try:
            process.wait(max(0.0, deadline - time.monotonic()))
        except subprocess.TimeoutExpired:
            LOGGER.error("longshore endpoint did not stop in %g s, and is killed", timeout)
            process.kill()
            process.wait()
        self._thread.join()

    def _follow(self) -> None:
        """Starts the endpoint, reads its log to the end, and waits for the process."""
        try:
            process = subprocess.Popen(
                _ending_with_this_process(self._command),
                env=self._environment,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.PIPE,
                encoding="utf-8",
                errors="replace",
                # Ctrl-C in the terminal ends the test, and the end of the test ends the endpoint.
                start_new_session=True,
            )
        except OSError as error:
            with self._changed:
                self._error, self._has_ended = error, True
                self._changed.notify_all()
            return
        with self._changed:
            self._process = process
            self._changed.notify_all()
        assert process.stderr is not None, "it is a pipe"
        with process.stderr as log:
            for line in log:
                self._read(line.rstrip("\n"))
        process.wait()
        with self._changed:
            self._has_ended = True
            self._changed.notify_all()

    def _read(self, line: str) -> None:
        """Reads a line of the log, and passes it to Python's log."""
        entry = _parsed(line)
        message = str(entry.pop("message", line))
        # The containers' lines have their names.
        is_own = "container" not in entry
        with self._changed:
            if is_own and message == "listening":
                self._address = str(entry["address"])
            if is_own and message == "endpoint in service" and "url" in entry:
                self._serves = True
            level = str(entry.pop("level", "INFO"))
            entry.pop("timestamp", None)
            text = " ".join([message, *(f"{key}={value}" for key, value in entry.items())])
            self._lines.append(f"{level} {text}" if level != "INFO" else text)
            self._changed.notify_all()
        LOGGER.log(_LEVELS.get(level, logging.DEBUG), "%s", text)


def _parsed(line: str) -> dict[str, Any]:
    """The members of a line; none if it is plain text, such as the error of a wrong option."""
    try:
        entry = json.loads(line)
    except ValueError:
        return {}
    return entry if isinstance(entry, dict) else {}


def _ending_with_this_process(command: Sequence[str]) -> list[str]:
    """The command that starts `command` and has the kernel send it SIGTERM when this process ends.

    The program asks the kernel for it, because Python code between fork and exec is unsafe in a process with
    threads.
    """
    return [command[0], "tether", "--parent", str(os.getpid()), "--parting", "term", "--", *command]
