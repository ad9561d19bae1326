"""boto3 and a multi-model endpoint: requests reach the models of the bucket, and errors have AWS's
types.
"""

import gzip
import unittest

from local_endpoint import (
    Bucket,
    archive,
    ask,
    configure,
    deploy,
    invoke,
    multi_model,
    refusal,
    runtime,
    sagemaker,
    scale,
    variant,
    wait,
)


class MultiModel(unittest.TestCase):
    bucket: Bucket

    @classmethod
    def setUpClass(cls):
        cls.bucket = Bucket()
        cls.prefix = f"s3://{cls.bucket.name}/models/"
        deploy("many", PrimaryContainer=multi_model(cls.prefix))

    def put(self, name: str, factor: float) -> None:
        self.bucket.put_model(f"models/{name}", scale(factor))

    def test_a_request_is_answered_by_the_model_it_names(self):
        names = ["a.tar.gz", "team/b.tar.gz", "team/deep/er/c.tar.gz", "blank +plus%20.tar.gz", "modèle-日本.tar.gz"]
        for factor, name in enumerate(names, start=2):
            self.put(name, factor)
        for _ in range(2):
            for factor, name in enumerate(names, start=2):
                self.assertEqual(ask("many", [10], TargetModel=name), [10.0 * factor], name)

    def test_a_model_may_be_added_while_the_endpoint_serves(self):
        missing = refusal(ask, "many", [1], TargetModel="new.tar.gz")
        self.assertEqual((missing["type"], missing["status"]), ("ValidationError", 400))
        self.assertIn(
            f"Failed to download model data ({self.prefix}new.tar.gz). Please ensure that there is an object located "
            "at the URL and that the role passed to CreateModel has permissions to download the model.",
            missing["message"],
        )
        self.put("new.tar.gz", 3)
        self.assertEqual(ask("many", [1], TargetModel="new.tar.gz"), [3.0])

    def test_a_broken_archive_and_a_broken_model_have_different_errors(self):
        self.bucket.put("models/archive.tar.gz", archive({"model.onnx": scale(2)})[:-20])
        failure = refusal(ask, "many", [1], TargetModel="archive.tar.gz")
        self.assertEqual(failure["type"], "ValidationError")
        self.assertIn(f"Failed to extract model data archive ({self.prefix}archive.tar.gz)", failure["message"])

        self.bucket.put_model("models/model.tar.gz", b"not a model")
        failure = refusal(ask, "many", [1], TargetModel="model.tar.gz")
        self.assertEqual((failure["type"], failure["OriginalStatusCode"]), ("ModelError", 400))

        # Neither affects other models.
        self.put("sound.tar.gz", 2)
        self.assertEqual(ask("many", [1], TargetModel="sound.tar.gz"), [2.0])

    def test_an_object_that_is_not_an_archive_is_refused_as_on_sagemaker(self):
        for name, content in (
            ("text.tar.gz", b"hello"),
            # SageMaker refuses all of these, even files that longshore could load.
            ("model.tar.gz", scale(2)),
            ("model", scale(2)),
            ("tar.tar.gz", gzip.decompress(archive({"model.onnx": scale(2)}))),
        ):
            self.bucket.put(f"models/no-archive/{name}", content)
            failure = refusal(ask, "many", [1], TargetModel=f"no-archive/{name}")
            self.assertEqual((failure["type"], failure["status"]), ("ValidationError", 400), name)
            self.assertIn(
                f"Failed to extract model data archive ({self.prefix}no-archive/{name}). Please ensure that the object "
                "located at the URL is a valid tar.gz archive.",
                failure["message"],
            )
        # This name is not valid on SageMaker at all, so it can only mean a bare model.
        self.bucket.put("models/bare.onnx", scale(2))
        self.assertEqual(ask("many", [1], TargetModel="bare.onnx"), [2.0])

    def test_a_refusal_of_the_model_is_a_model_error_with_its_message(self):
        self.put("strict.tar.gz", 2)
        failure = refusal(ask, "many", ["no number"], TargetModel="strict.tar.gz")
        self.assertEqual((failure["type"], failure["status"], failure["OriginalStatusCode"]), ("ModelError", 424, 400))
        self.assertIn('Received client error (400) from model with message "', failure["message"])
        self.assertIn(failure["OriginalMessage"], failure["message"])
        self.assertIn("/aws/sagemaker/Endpoints/many", failure["LogStreamArn"])

        failure = refusal(ask, "many", [1], TargetModel="strict.tar.gz", ContentType="image/png")
        self.assertEqual((failure["type"], failure["OriginalStatusCode"]), ("ModelError", 415))
        failure = refusal(ask, "many", [1], TargetModel="strict.tar.gz", Accept="image/png")
        self.assertEqual((failure["type"], failure["OriginalStatusCode"]), ("ModelError", 406))

    def test_a_request_must_name_a_model_of_the_bucket(self):
        failure = refusal(ask, "many", [1])
        self.assertEqual((failure["type"], failure["status"]), ("ValidationError", 400))
        self.assertIn("is missing a target model header", failure["message"])
        for name in ("../models/a.tar.gz", "/a.tar.gz", "a//b.tar.gz"):
            failure = refusal(ask, "many", [1], TargetModel=name)
            self.assertEqual((failure["type"], failure["status"]), ("ValidationError", 400), name)

    def test_custom_attributes_are_passed_and_returned(self):
        self.put("beside.tar.gz", 2)
        response = invoke(
            "many",
            {"instances": [4]},
            TargetModel="beside.tar.gz",
            CustomAttributes="trace=1;c000b4f9",
            InferenceId="order-7",
            TargetVariant="AllTraffic",
        )
        self.assertEqual(response["Body"], {"predictions": [8.0]})
        self.assertEqual(response["ContentType"], "application/json")
        self.assertEqual(response["InvokedProductionVariant"], "AllTraffic")
        self.assertTrue(response["ResponseMetadata"]["RequestId"])
        self.assertEqual(response["ResponseMetadata"]["RetryAttempts"], 0)

        failure = refusal(ask, "many", [1], TargetModel="beside.tar.gz", TargetVariant="Elsewhere")
        self.assertEqual(failure["type"], "ValidationError")
        failure = refusal(ask, "many", [1], TargetModel="beside.tar.gz", CustomAttributes="x" * 1025)
        self.assertEqual((failure["type"], failure["status"]), ("ValidationError", 400))

    def test_a_body_may_have_25_mebibytes(self):
        self.put("large.tar.gz", 2)
        largest = b"[1]".ljust(25 << 20)
        request = {"EndpointName": "many", "TargetModel": "large.tar.gz", "ContentType": "application/json"}
        response = runtime.invoke_endpoint(Body=largest, **request)
        self.assertEqual(response["Body"].read(), b'{"predictions":[2.0]}')
        failure = refusal(runtime.invoke_endpoint, Body=largest + b" ", **request)
        self.assertEqual((failure["type"], failure["status"]), ("ClientError", 413))

    def test_variants_take_requests_by_weight_and_by_name(self):
        self.put("shared.tar.gz", 2)
        for name in ("blue", "green"):
            sagemaker.create_model(ModelName=name, PrimaryContainer=multi_model(self.prefix))
        configure("colours", [variant("blue", "blue", InitialVariantWeight=3), variant("green", "green")])
        sagemaker.create_endpoint(EndpointName="colours", EndpointConfigName="colours")
        wait("colours")

        def asked(**more):
            response = invoke("colours", {"instances": [4]}, TargetModel="shared.tar.gz", **more)
            self.assertEqual(response["Body"], {"predictions": [8.0]})
            return response["InvokedProductionVariant"]

        self.assertEqual(sorted(asked() for _ in range(8)), ["blue"] * 6 + ["green"] * 2)
        self.assertEqual([asked(TargetVariant="green") for _ in range(3)], ["green"] * 3)


if __name__ == "__main__":
    unittest.main()
