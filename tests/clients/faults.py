"""boto3: what it makes of the errors that `longshore endpoint --fault` makes for those who test their callers.

The rules are in tests/it/endpoint/clients.rs: one for each endpoint here.
"""

import unittest

from desk import Bucket, configure, container, invoke, refusal, sagemaker, scale, variant, wait

QUESTION = {"instances": [4]}


class Faults(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        model = container(Bucket().put_model("model.tar.gz", scale(2)))
        sagemaker.create_model(ModelName="shared", PrimaryContainer=model)
        configure("shared", [variant("shared")])
        endpoints = ("now-and-then", "not-ready", "full", "internal", "dependency")
        for endpoint in endpoints:
            sagemaker.create_endpoint(EndpointName=endpoint, EndpointConfigName="shared")
        for endpoint in endpoints:
            wait(endpoint)

    def test_an_endpoint_that_is_not_available_now_and_then_is_asked_again(self):
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
            told = refusal(invoke, endpoint, QUESTION)
            self.assertEqual((told["type"], told["code"], told["status"]), (kind, kind, status))
        told = refusal(invoke, "full", QUESTION)
        self.assertEqual(told["OriginalStatusCode"], 507)
        self.assertIn("--fault", told["OriginalMessage"])


if __name__ == "__main__":
    unittest.main()
