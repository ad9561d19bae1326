"""The wheel as another project uses it: the fixture starts an endpoint, and boto3 invokes a model."""

import json
from pathlib import Path

import pytest


@pytest.fixture
def longshore_options():
    return {"multi_model": Path(__file__).parent.parent / "models"}


def test_an_iris_is_classified(longshore_endpoint):
    answer = longshore_endpoint.runtime.invoke_endpoint(
        EndpointName="longshore", TargetModel="iris_zipmap", ContentType="text/csv", Body="5.1,3.5,1.4,0.2"
    )
    [prediction] = json.loads(answer["Body"].read())["predictions"]
    assert prediction["output_label"] == 0
