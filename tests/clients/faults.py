"""boto3's reaction to the errors that `longshore endpoint --fault` injects.

The rules are in tests/it/endpoint/clients.rs: one for each endpoint here.
"""

import unittest
from concurrent.futures import ThreadPoolExecutor

import boto3
from botocore.config import Config
from botocore.exceptions import ClientError
from local_endpoint import Bucket, configure, container, invoke, refusal, sagemaker, scale, variant, wait

QUESTION = {"instances": [4]}


class Faults(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        model = container(Bucket().put_model("model.tar.gz", scale(2)))
        sagemaker.create_model(ModelName="shared", PrimaryContainer=model)
        configure("shared", [variant("shared")])
        endpoints = ("now-and-then", "not-ready", "full", "refused", "internal", "unavailable", "dependency")
        for endpoint in endpoints:
            sagemaker.create_endpoint(EndpointName=endpoint, EndpointConfigName="shared")
        for endpoint in endpoints:
            wait(endpoint)

    def test_retries_a_temporary_error(self):
        attempts = []
        for _ in range(4):
            response = invoke("now-and-then", QUESTION)
            self.assertEqual(response["Body"], {"predictions": [8.0]})
            attempts.append(1 + response["ResponseMetadata"]["RetryAttempts"])
        self.assertEqual(attempts, [1, 2, 2, 2])

    def test_every_error_has_its_type(self):
        for endpoint, kind, status in (
            ("not-ready", "ModelNotReadyException", 429),
            ("full", "ModelError", 424),
            ("internal", "InternalFailure", 500),
            ("dependency", "InternalDependencyException", 530),
        ):
            failure = refusal(invoke, endpoint, QUESTION)
            self.assertEqual((failure["type"], failure["code"], failure["status"]), (kind, kind, status))
        failure = refusal(invoke, "full", QUESTION)
        self.assertEqual(failure["OriginalStatusCode"], 507)
        self.assertIn("--fault", failure["OriginalMessage"])

    def test_each_retry_mode_retries_the_same_errors_as_on_aws(self):
        # Attempts in the modes: default (standard since boto3 1.44); standard and adaptive;
        # legacy.
        attempts = {
            "not-ready": (1, 1, 5),
            "full": (1, 1, 1),
            "refused": (1, 1, 1),
            "internal": (3, 3, 5),
            "unavailable": (3, 3, 5),
            "dependency": (1, 1, 1),
        }
        modes = {None: 0, "standard": 1, "adaptive": 1, "legacy": 2}

        def ask(mode, endpoint):
            client = boto3.client("sagemaker-runtime", config=Config(retries={"mode": mode} if mode else None))
            try:
                client.invoke_endpoint(EndpointName=endpoint, Body=b"{}")
            except ClientError as error:
                return 1 + error.response["ResponseMetadata"]["RetryAttempts"]

        # In legacy mode the pauses add up to 15 seconds, so all requests run at once.
        asked = [(mode, endpoint) for mode in modes for endpoint in attempts]
        with ThreadPoolExecutor(len(asked)) as pool:
            counts = dict(zip(asked, pool.map(ask, *zip(*asked))))
        expected = {(mode, endpoint): attempts[endpoint][column] for mode, column in modes.items() for endpoint in attempts}
        self.assertEqual(counts, expected)


if __name__ == "__main__":
    unittest.main()
