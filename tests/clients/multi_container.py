"""boto3 against endpoints of several containers: in series, one of them with many models, and each by its name."""

import unittest

from desk import Bucket, ask, container, deploy, invoke, multi_model, refusal, scale


class MultiContainer(unittest.TestCase):
    bucket: Bucket

    @classmethod
    def setUpClass(cls):
        cls.bucket = Bucket()
        cls.urls = {factor: cls.bucket.put_model(f"{factor}.tar.gz", scale(factor)) for factor in (2, 3, 5)}

    def step(self, factor: float, **more):
        """A container that reads rows of CSV, and writes such."""
        environment = {"SAGEMAKER_DEFAULT_INVOCATIONS_ACCEPT": "text/csv"}
        return container(self.urls[factor], Environment=environment, **more)

    def test_containers_in_series_pass_their_answers_on(self):
        deploy("series", Containers=[self.step(2), self.step(3), self.step(5)])
        # In JSON to the first, in CSV between them, in JSON from the last.
        response = invoke("series", {"instances": [1, 2]})
        self.assertEqual(response["Body"], {"predictions": [30.0, 60.0]})
        self.assertEqual(response["ContentType"], "application/json")
        told = refusal(ask, "series", ["no number"])
        self.assertEqual((told["type"], told["OriginalStatusCode"]), ("ModelError", 400))
        self.assertIn("from container-1 with message", told["message"])
        told = refusal(ask, "series", [1], Accept="image/png")
        self.assertEqual((told["type"], told["OriginalStatusCode"]), ("ModelError", 406))
        self.assertIn("from container-3 with message", told["message"])

    def test_one_container_of_a_series_may_have_many_models(self):
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
        told = refusal(ask, "direct", ["no number"], TargetContainerHostname="thrice")
        self.assertIn("from thrice with message", told["message"])
        for hostname in ({}, {"TargetContainerHostname": "nobody"}):
            told = refusal(ask, "direct", [1], **hostname)
            self.assertEqual((told["type"], told["status"]), ("ValidationError", 400))


if __name__ == "__main__":
    unittest.main()
