"""`longshore.testing`: endpoints start with the models of the test, and stop in every case."""

import json
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import boto3
import botocore.exceptions
import pytest

import longshore
from longshore.testing import EndpointError, endpoint

MODELS = Path(__file__).parent.parent / "models"
FLOWER = {"ContentType": "text/csv", "Body": "5.1,3.5,1.4,0.2"}


def is_running(process_id):
    """Whether the process exists and is not a zombie."""
    try:
        state = Path(f"/proc/{process_id}/stat").read_text().rpartition(")")[2].split()[0]
    except (FileNotFoundError, ProcessLookupError):
        return False
    return state != "Z"


def children(process_id):
    threads = Path(f"/proc/{process_id}/task").iterdir()
    return [int(child) for thread in threads for child in (thread / "children").read_text().split()]


def wait_until(condition):
    deadline = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.02)


def test_the_command_is_the_one_of_this_environment():
    expected = subprocess.run(["longshore", "--version"], check=True, capture_output=True, text=True).stdout
    module = [sys.executable, "-m", "longshore", "--version"]
    assert subprocess.run(module, check=True, capture_output=True, text=True).stdout == expected
    assert str(longshore.executable()).startswith(sys.prefix)


def test_one_model_has_an_endpoint_of_the_given_name():
    with endpoint(model=MODELS / "iris_zipmap", name="iris") as local:
        answer = local.runtime.invoke_endpoint(EndpointName=local.name, **FLOWER)
        assert json.loads(answer["Body"].read())["predictions"][0]["output_label"] == 0
        described = local.sagemaker.describe_endpoint(EndpointName="iris")
        assert described["EndpointStatus"] == "InService"
        assert f":{local.region}:" in described["EndpointArn"]


def test_a_test_deploys_its_own_models():
    with endpoint(region="eu-west-1") as local:
        assert local.sagemaker.list_endpoints()["Endpoints"] == []
        container = {"ModelDataUrl": str(MODELS), "Mode": "MultiModel"}
        model = local.sagemaker.create_model(ModelName="all", PrimaryContainer=container)
        assert model["ModelArn"].startswith("arn:aws:sagemaker:eu-west-1:")


def test_arguments_reach_the_endpoint():
    with endpoint(MODELS, arguments=["--fault", "error=400"]) as local:
        with pytest.raises(botocore.exceptions.ClientError, match="ValidationError"):
            local.runtime.invoke_endpoint(EndpointName="longshore", TargetModel="iris_zipmap", **FLOWER)


def test_code_for_aws_runs_unchanged(longshore_environment):
    assert boto3.client("sagemaker").meta.endpoint_url == longshore_environment.url
    assert boto3.client("sagemaker").list_models()["Models"] == []


def test_variables_of_the_endpoint_do_not_leak_into_tests(monkeypatch):
    monkeypatch.setenv("LONGSHORE_ENDPOINT_PORT", "1")
    monkeypatch.setenv("LONGSHORE_ENDPOINT_MODEL", "/nowhere")
    with endpoint() as local:
        assert local.sagemaker.list_endpoints()["Endpoints"] == []


@pytest.mark.parametrize("arguments", [["--log-level", "warn"], ["--log-format=text"], ["--port=0"], ["--region", "eu-west-1"]])
def test_options_that_the_module_sets_are_refused(arguments):
    with pytest.raises(ValueError, match=f"{arguments[0].partition('=')[0]} is in arguments"):
        with endpoint(arguments=arguments):
            pass


def test_variables_of_options_are_refused():
    with pytest.raises(ValueError, match="LONGSHORE_ENDPOINT_MODEL is in environment: give its option in arguments"):
        with endpoint(environment={"LONGSHORE_ENDPOINT_MODEL": str(MODELS / "iris_zipmap")}):
            pass


def test_models_among_the_arguments_are_served_when_the_block_begins():
    with endpoint(arguments=[f"--model={MODELS / 'iris_zipmap'}", "--endpoint-name=flowers"]) as local:
        described = local.sagemaker.describe_endpoint(EndpointName="flowers")
        assert described["EndpointStatus"] == "InService"


def test_messages_say_what_to_install(monkeypatch):
    with endpoint() as local:
        with monkeypatch.context() as patched:
            patched.setitem(sys.modules, "boto3", None)
            with pytest.raises(ImportError, match="run pip install boto3"):
                local.client("sagemaker")
    monkeypatch.setattr(longshore, "_candidates", lambda: iter(()))
    with pytest.raises(FileNotFoundError, match="longshore-....whl"):
        longshore.executable()


def test_a_proxy_does_not_come_between(monkeypatch):
    monkeypatch.setenv("HTTP_PROXY", "http://127.0.0.1:1")
    with endpoint() as local:
        assert local.sagemaker.list_models()["Models"] == []
        assert "127.0.0.1" in local.variables["NO_PROXY"]


def test_the_endpoint_and_its_containers_stop_after_an_exception():
    with pytest.raises(ZeroDivisionError):
        with endpoint(model=MODELS / "iris_zipmap") as local:
            processes = [local.process_id, *children(local.process_id)]
            assert len(processes) == 2
            assert all(is_running(process) for process in processes)
            _ = 1 / 0
    assert not any(is_running(process) for process in processes)


def test_a_client_for_another_service_is_refused():
    with endpoint() as local:
        with pytest.raises(ValueError, match="does not offer s3"):
            local.client("s3")


def test_the_error_of_a_wrong_start_has_the_log():
    with pytest.raises(EndpointError, match="no such directory: /nowhere"):
        with endpoint("/nowhere"):
            pass
    with pytest.raises(EndpointError, match="unexpected argument '--nonsense'"):
        with endpoint(arguments=["--nonsense"]):
            pass
    with pytest.raises(ValueError, match="either many models or one"):
        with endpoint(MODELS, model=MODELS / "iris_zipmap"):
            pass


def test_a_model_that_cannot_be_served_is_an_error(tmp_path):
    (tmp_path / "model.onnx").write_bytes(b"no model")
    with pytest.raises(EndpointError, match="could not be created"):
        with endpoint(model=tmp_path):
            pass


def test_the_endpoint_outlives_the_thread_that_started_it():
    entered = []

    def enter():
        context = endpoint()
        entered.append((context, context.__enter__()))

    thread = threading.Thread(target=enter)
    thread.start()
    thread.join()
    [(context, local)] = entered
    assert local.sagemaker.list_models()["Models"] == []
    context.__exit__(None, None, None)
    assert not is_running(local.process_id)


@pytest.mark.parametrize("signal_number", [signal.SIGTERM, signal.SIGKILL])
def test_the_endpoint_stops_with_a_killed_test(signal_number):
    code = (
        "import sys, time\nfrom longshore.testing import endpoint\n"
        "with endpoint(model=sys.argv[1]) as local:\n    print(local.process_id, flush=True)\n    time.sleep(600)"
    )
    command = [sys.executable, "-c", code, str(MODELS / "iris_zipmap")]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as test:
        try:
            process_id = int(test.stdout.readline())
            processes = [process_id, *children(process_id)]
        finally:
            test.send_signal(signal_number)
    assert len(processes) == 2
    wait_until(lambda: not any(is_running(process) for process in processes))
