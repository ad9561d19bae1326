"""boto3's InvokeEndpointAsync: accepted at once; results and failures become objects in S3."""

import json
import unittest

from local_endpoint import Bucket, configure, container, deploy, refusal, runtime, s3, sagemaker, scale, variant, wait


class Asynchronous(unittest.TestCase):
    bucket: Bucket

    @classmethod
    def setUpClass(cls):
        cls.bucket = Bucket()
        model = container(cls.bucket.put_model("model.tar.gz", scale(2)))
        sagemaker.create_model(ModelName="later", PrimaryContainer=model)
        place = f"s3://{cls.bucket.name}"
        paths = {"S3OutputPath": f"{place}/results", "S3FailurePath": f"{place}/failures"}
        configure("later", [variant("later")], AsyncInferenceConfig={"OutputConfig": paths})
        sagemaker.create_endpoint(EndpointName="later", EndpointConfigName="later")
        wait("later")
        deploy("now", PrimaryContainer=model)

    def invoke(self, endpoint="later", **more):
        return runtime.invoke_endpoint_async(EndpointName=endpoint, ContentType="application/json", **more)

    def test_the_result_for_an_object_is_an_object(self):
        question = self.bucket.put("in.json", b'{"instances": [4]}')
        accepted = self.invoke(InputLocation=question, InferenceId="order-7", Accept="text/csv")
        self.assertEqual(accepted["ResponseMetadata"]["HTTPStatusCode"], 202)
        self.assertEqual(accepted["InferenceId"], "order-7")
        self.assertTrue(accepted["OutputLocation"].startswith(f"s3://{self.bucket.name}/results/"))
        self.assertEqual(self.bucket.get(accepted["OutputLocation"]), b"8.0\n")
        key = accepted["OutputLocation"].split("/", 3)[3]
        self.assertEqual(s3.head_object(Bucket=self.bucket.name, Key=key)["ContentType"], "text/csv")

    def test_a_small_body_may_be_in_the_request_which_may_name_the_output(self):
        accepted = self.invoke(Body=b'{"instances": [5]}', S3OutputPathExtension="june", Filename="five.json")
        self.assertEqual(accepted["OutputLocation"], f"s3://{self.bucket.name}/results/june/five.json")
        self.assertEqual(json.loads(self.bucket.get(accepted["OutputLocation"])), {"predictions": [10.0]})

    def test_every_request_of_a_queue_is_answered(self):
        accepted = [self.invoke(Body=b'{"instances": [%d]}' % number) for number in range(20)]
        for number, one in enumerate(accepted):
            self.assertEqual(json.loads(self.bucket.get(one["OutputLocation"])), {"predictions": [2.0 * number]})

    def test_a_failure_is_an_object(self):
        question = self.bucket.put("bad.json", b'{"instances": ["no number"]}')
        accepted = self.invoke(InputLocation=question)
        failure = json.loads(self.bucket.get(accepted["FailureLocation"]))
        self.assertEqual((failure["ErrorCode"], failure["OriginalStatusCode"]), ("CLIENT_ERROR_FROM_MODEL", 400))
        missing = self.invoke(InputLocation=f"s3://{self.bucket.name}/missing.json")
        self.assertIn("missing.json", json.loads(self.bucket.get(missing["FailureLocation"]))["Message"])

    def test_an_invalid_request_is_refused_at_once(self):
        for refused in (
            refusal(self.invoke),
            refusal(self.invoke, endpoint="now", Body=b"[]"),
            refusal(self.invoke, Body=b"[]", RequestTTLSeconds=1 << 20),
            # As on SageMaker, an endpoint is either asynchronous or not.
            refusal(runtime.invoke_endpoint, EndpointName="later", Body=b"[]"),
        ):
            self.assertEqual((refused["type"], refused["status"]), ("ValidationError", 400))


if __name__ == "__main__":
    unittest.main()
