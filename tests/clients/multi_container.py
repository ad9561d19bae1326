"""boto3 and endpoints of several containers: pipelines, also with many models, and direct
invocation.
"""

import unittest

from local_endpoint import Bucket, ask, container, deploy, invoke, multi_model, refusal, scale


class MultiContainer(unittest.TestCase):
    bucket: Bucket

    @classmethod
    def setUpClass(cls):
        cls.bucket = Bucket()
        cls.urls = {factor: cls.bucket.put_model(f"{factor}.tar.gz", scale(factor)) for factor in (2, 3, 5)}

    def step(self, factor: float, **more):
        """A container that reads and writes rows of CSV."""
        environment = {"SAGEMAKER_DEFAULT_INVOCATIONS_ACCEPT": "text/csv"}
        return container(self.urls[factor], Environment=environment, **more)

    def test_each_container_of_a_pipeline_receives_the_previous_output(self):
        deploy("series", Containers=[self.step(2), self.step(3), self.step(5)])
        # JSON to the first container, CSV between them, JSON from the last.
        response = invoke("series", {"instances": [1, 2]})
        self.assertEqual(response["Body"], {"predictions": [30.0, 60.0]})
        self.assertEqual(response["ContentType"], "application/json")
        failure = refusal(ask, "series", ["no number"])
        self.assertEqual((failure["type"], failure["OriginalStatusCode"]), ("ModelError", 400))
        self.assertIn("from container-1 with message", failure["message"])
        failure = refusal(ask, "series", [1], Accept="image/png")
        self.assertEqual((failure["type"], failure["OriginalStatusCode"]), ("ModelError", 406))
        self.assertIn("from container-3 with message", failure["message"])

    def test_a_container_of_a_pipeline_may_have_many_models(self):
        for factor in (7, 11):
            self.bucket.put_model(f"many/{factor}.tar.gz", scale(factor))
        many = multi_model(f"s3://{self.bucket.name}/many/", ContainerHostname="many")
        deploy("mixed", Containers=[self.step(2, ContainerHostname="first"), many])
        self.assertEqual(ask("mixed", [1], TargetModel="7.tar.gz"), [14.0])
        self.assertEqual(ask("mixed", [1], TargetModel="11.tar.gz"), [22.0])
        self.assertEqual(refusal(ask, "mixed", [1])["type"], "ValidationError")
        self.assertEqual(refusal(ask, "mixed", [1], TargetModel="13.tar.gz")["type"], "ValidationError")

    def test_a_direct_request_reaches_the_container_it_names(self):
        deploy(
            "direct",
            Containers=[self.step(2, ContainerHostname="twice"), self.step(3, ContainerHostname="thrice")],
            InferenceExecutionConfig={"Mode": "Direct"},
        )
        self.assertEqual(ask("direct", [1], TargetContainerHostname="twice"), [2.0])
        self.assertEqual(ask("direct", [1], TargetContainerHostname="thrice"), [3.0])
        failure = refusal(ask, "direct", ["no number"], TargetContainerHostname="thrice")
        self.assertIn("from thrice with message", failure["message"])
        for hostname in ({}, {"TargetContainerHostname": "unknown"}):
            failure = refusal(ask, "direct", [1], **hostname)
            self.assertEqual((failure["type"], failure["status"]), ("ValidationError", 400))


if __name__ == "__main__":
    unittest.main()
