"""Version 2 of the SageMaker SDK: MultiDataModel and Predictor."""

import os
import tempfile
import unittest
from pathlib import Path

os.environ["SAGEMAKER_USER_CONFIG_OVERRIDE"] = str(Path(__file__).with_name("sdk.yaml"))
os.environ["SAGEMAKER_SUPPRESS_V2_WARNING"] = "1"

import numpy as np
from local_endpoint import IMAGE, ROLE, Bucket, archive, refusal, scale
from sagemaker import Session
from sagemaker.deserializers import CSVDeserializer, JSONDeserializer, NumpyDeserializer
from sagemaker.multidatamodel import MultiDataModel
from sagemaker.predictor import Predictor
from sagemaker.serializers import CSVSerializer, JSONSerializer, NumpySerializer


class Sdk(unittest.TestCase):
    def test_a_multi_data_model_is_deployed_and_predicts(self):
        bucket = Bucket()
        session = Session(default_bucket=bucket.name)
        models = MultiDataModel(
            name="models",
            model_data_prefix=f"s3://{bucket.name}/models/",
            image_uri=IMAGE,
            role=ROLE,
            predictor_cls=Predictor,
            sagemaker_session=session,
        )
        with tempfile.TemporaryDirectory() as folder:
            local = Path(folder, "model.tar.gz")
            local.write_bytes(archive({"model.onnx": scale(2)}))
            models.add_model(str(local), "team/a.tar.gz")
        # The SDK's own wait polls every 30 seconds.
        predictor = models.deploy(1, "ml.m5.large", endpoint_name="sdk", wait=False)
        session.wait_for_endpoint("sdk", poll=0.1)
        # A model can be added while the endpoint serves.
        models.add_model(bucket.put_model("elsewhere/b.tar.gz", scale(3)), "b.tar.gz")
        self.assertEqual(sorted(models.list_models()), ["b.tar.gz", "team/a.tar.gz"])

        for serializer, deserializer, data, expected in (
            (JSONSerializer(), JSONDeserializer(), {"instances": [4, 5]}, {"predictions": [8.0, 10.0]}),
            (CSVSerializer(), CSVDeserializer(accept="text/csv"), [[4], [5]], [["8.0"], ["10.0"]]),
            (NumpySerializer(), NumpyDeserializer(), np.array([4, 5], np.float32), np.array([8, 10], np.float32)),
        ):
            predictor = Predictor("sdk", session, serializer, deserializer)
            answer = predictor.predict(data, target_model="team/a.tar.gz")
            np.testing.assert_array_equal(answer, expected)
        self.assertEqual(answer.dtype, np.float32)
        np.testing.assert_array_equal(predictor.predict(data, target_model="b.tar.gz"), [12, 15])
        np.testing.assert_array_equal(
            predictor.predict(
                data,
                target_model="b.tar.gz",
                target_variant="AllTraffic",
                inference_id="order-7",
                custom_attributes="trace=1",
            ),
            [12, 15],
        )
        failure = refusal(predictor.predict, np.ones((2, 2), str), target_model="b.tar.gz")
        self.assertEqual((failure["type"], failure["OriginalStatusCode"]), ("ModelError", 400))

        predictor.delete_endpoint()
        models.delete_model()


if __name__ == "__main__":
    unittest.main()
