"""Fixtures for pytest, which finds them by the package's entry point: no import is needed.

    import pytest

    @pytest.fixture
    def longshore_options():
        return {"multi_model": "s3://bucket/segments/"}

    def test_a_segment(longshore_endpoint):
        answer = longshore_endpoint.runtime.invoke_endpoint(
            EndpointName="longshore", TargetModel="de/berlin.tar.gz", ContentType="text/csv", Body="5.1,3.5")

Each test has an endpoint of its own, which starts in less than a second. For one endpoint of a whole run, write a
fixture of that scope over `longshore.testing.endpoint`:

    @pytest.fixture(scope="session")
    def segments():
        with endpoint(multi_model="s3://bucket/segments/") as local:
            yield local
"""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from longshore.testing import EndpointOptions, LocalEndpoint, endpoint


@pytest.fixture
def longshore_options() -> EndpointOptions:
    """The arguments of `longshore.testing.endpoint`; a test file or conftest.py defines its own."""
    return {}


@pytest.fixture
def longshore_endpoint(longshore_options: EndpointOptions) -> Iterator[LocalEndpoint]:
    """A running local endpoint with the models of `longshore_options`."""
    with endpoint(**longshore_options) as local:
        yield local


@pytest.fixture
def longshore_environment(longshore_endpoint: LocalEndpoint, monkeypatch: pytest.MonkeyPatch) -> LocalEndpoint:
    """The same endpoint, and variables with which code under test reaches it by `boto3.client("sagemaker-runtime")`."""
    for name, value in longshore_endpoint.variables.items():
        monkeypatch.setenv(name, value)
    return longshore_endpoint
