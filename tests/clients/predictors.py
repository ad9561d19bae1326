"""Version 2 of the SageMaker SDK: its predictors and serializers, each with its own defaults, on
real exports.

usage: predictors.py FOLDER, where FOLDER contains the models of tests/exports/make.py.
"""

import io
import json
import os
import sys
import unittest
from pathlib import Path

os.environ["SAGEMAKER_USER_CONFIG_OVERRIDE"] = str(Path(__file__).with_name("sdk.yaml"))
os.environ["SAGEMAKER_SUPPRESS_V2_WARNING"] = "1"

import numpy as np
import pandas as pd
import scipy.sparse
from local_endpoint import Bucket, archive, deploy, multi_model
from sagemaker import Session
from sagemaker.amazon.common import RecordDeserializer, RecordSerializer
from sagemaker.base_deserializers import SimpleBaseDeserializer
from sagemaker.deserializers import (
    CSVDeserializer,
    JSONDeserializer,
    JSONLinesDeserializer,
    NumpyDeserializer,
    PandasDeserializer,
)
from sagemaker.predictor import Predictor
from sagemaker.serializers import (
    CSVSerializer,
    JSONLinesSerializer,
    JSONSerializer,
    LibSVMSerializer,
    NumpySerializer,
    SparseMatrixSerializer,
)
from sagemaker.sklearn import SKLearnPredictor
from sagemaker.xgboost import XGBoostPredictor

FOLDER = Path(sys.argv[1])
CLASSIFIER, REGRESSOR, COLUMNS = "sklearn_arrays", "xgboost_regressor", "sklearn_columns"
ENDPOINT = "predictors"



class Export:
    def __init__(self, name: str):
        answers = json.loads((FOLDER / name / "answers.json").read_text())
        self.columns, self.records, self.rows = answers["columns"], answers["records"], answers["rows"]

    def output(self, name: str) -> np.ndarray:
        return np.array([row[name] for row in self.rows])

    @property
    def matrix(self) -> np.ndarray:
        return np.array(self.records, np.float32)

    @property
    def frame(self) -> pd.DataFrame:
        return pd.DataFrame(self.records, columns=self.columns)


class Predictors(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        bucket = Bucket()
        for name in (CLASSIFIER, REGRESSOR, COLUMNS):
            files = FOLDER / name / "model"
            content = archive({path.name: path.read_bytes() for path in files.iterdir()})
            bucket.put(f"models/{name}.tar.gz", content)
        deploy(ENDPOINT, PrimaryContainer=multi_model(f"s3://{bucket.name}/models/"))
        cls.session = Session(default_bucket=bucket.name)
        cls.classifier, cls.regressor, cls.columns = Export(CLASSIFIER), Export(REGRESSOR), Export(COLUMNS)

    def predict(self, model: str, data, serializer, deserializer):
        predictor = Predictor(ENDPOINT, self.session, serializer, deserializer)
        return predictor.predict(data, target_model=f"{model}.tar.gz")

    def assert_close(self, got, expected) -> None:
        np.testing.assert_allclose(np.array(got, np.float64), np.array(expected, np.float64), rtol=1e-5, atol=1e-6)

    def assert_predictions(self, answer, export: Export) -> None:
        rows = answer["predictions"]
        np.testing.assert_array_equal([row["label"] for row in rows], export.output("label"))
        self.assert_close([row["probabilities"] for row in rows], export.output("probabilities"))

    def test_the_scikit_learn_predictor_gets_what_predict_gives(self):
        predictor = SKLearnPredictor(ENDPOINT, self.session)
        answer = predictor.predict(self.classifier.matrix, target_model=f"{CLASSIFIER}.tar.gz")
        np.testing.assert_array_equal(answer, self.classifier.output("label"))

    def test_the_xgboost_predictor_sends_libsvm_and_reads_csv(self):
        predictor = XGBoostPredictor(ENDPOINT, self.session)
        lines = (
            "0 " + " ".join(f"{column}:{float(value)!r}" for column, value in enumerate(row) if value)
            for row in self.regressor.matrix
        )
        answer = predictor.predict("\n".join(lines), target_model=f"{REGRESSOR}.tar.gz")
        self.assert_close(answer, self.regressor.output("variable"))

    def test_the_xgboost_predictor_with_csv(self):
        predictor = XGBoostPredictor(ENDPOINT, self.session, serializer=CSVSerializer())
        answer = predictor.predict(self.regressor.matrix, target_model=f"{REGRESSOR}.tar.gz")
        self.assert_close(answer, self.regressor.output("variable"))

    def test_numpy_arrays(self):
        for data in (self.regressor.matrix, self.regressor.matrix.astype(np.float64), self.regressor.records):
            answer = self.predict(REGRESSOR, data, NumpySerializer(), NumpyDeserializer())
            self.assert_close(answer, self.regressor.output("variable"))
        answer = self.predict(CLASSIFIER, self.classifier.matrix, NumpySerializer(), JSONDeserializer())
        self.assert_predictions({"predictions": by_row(answer["outputs"])} if "outputs" in answer else answer, self.classifier)

    def test_sparse_matrices(self):
        for layout in ("csr", "csc", "coo"):
            data = scipy.sparse.coo_matrix(self.classifier.matrix).asformat(layout)
            answer = self.predict(CLASSIFIER, data, SparseMatrixSerializer(), JSONDeserializer())
            answer = {"predictions": by_row(answer["outputs"])} if "outputs" in answer else answer
            self.assert_predictions(answer, self.classifier)

    def test_records_in_and_out(self):
        for kind in (np.float32, np.float64):
            data = self.regressor.matrix.astype(kind)
            records = self.predict(REGRESSOR, data, RecordSerializer(), RecordDeserializer())
            [names] = {tuple(record.label) or tuple(record.features) for record in records}
            [name] = names
            part = "label" if records[0].label else "features"
            values = [list(getattr(record, part)[name].float32_tensor.values) for record in records]
            self.assert_close(values, self.regressor.output("variable"))

    def test_csv_of_arrays_lists_and_data_frames(self):
        for data in (self.regressor.matrix, self.regressor.records, self.regressor.frame):
            answer = self.predict(REGRESSOR, data, CSVSerializer(), CSVDeserializer())
            self.assert_close(answer, self.regressor.output("variable"))
        # A single record.
        answer = self.predict(REGRESSOR, self.regressor.matrix[0], CSVSerializer(), CSVDeserializer())
        self.assert_close(answer, self.regressor.output("variable")[:1])

    def test_csv_of_a_data_frame_of_texts_and_numbers_with_and_without_a_header(self):
        frame = self.columns.frame
        shuffled = frame[list(reversed(self.columns.columns))]
        with_header = [table.to_csv(index=False) for table in (frame, shuffled)]
        # The serializer sends an object with a method `read` as it is.
        for data in (frame, *map(io.StringIO, with_header)):
            answer = self.predict(COLUMNS, data, CSVSerializer(), JSONDeserializer())
            self.assert_predictions(answer, self.columns)
        answer = self.predict(COLUMNS, frame, CSVSerializer(), CSVDeserializer())
        self.assertEqual([row[0] for row in answer], list(self.columns.output("label")))
        self.assert_close([row[1:] for row in answer], self.columns.output("probabilities"))

    def test_json_and_json_lines(self):
        answer = self.predict(CLASSIFIER, self.classifier.matrix, JSONSerializer(), JSONDeserializer())
        self.assert_predictions(answer, self.classifier)
        for data in (self.classifier.records, [{"features": row} for row in self.classifier.records]):
            answer = self.predict(CLASSIFIER, data, JSONLinesSerializer(), JSONLinesDeserializer())
            self.assert_predictions({"predictions": answer}, self.classifier)
        records = self.columns.frame.to_dict(orient="records")
        answer = self.predict(COLUMNS, records, JSONLinesSerializer(), JSONDeserializer())
        self.assert_predictions(answer, self.columns)

    def test_libsvm_without_labels(self):
        lines = (
            " ".join(f"{column}:{float(value)!r}" for column, value in enumerate(row)) for row in self.regressor.matrix
        )
        answer = self.predict(REGRESSOR, "\n".join(lines), LibSVMSerializer(), JSONDeserializer())
        self.assert_close(answer["predictions"], self.regressor.output("variable"))

    def test_a_data_frame_back(self):
        # The SDK's own class accepts CSV first and then JSON. It takes the first row of CSV for a
        # header, and ours has none.
        class Rows(SimpleBaseDeserializer):
            def deserialize(self, stream, content_type):
                with stream:
                    return content_type, pd.read_csv(stream, header=None)

        accept = PandasDeserializer().ACCEPT
        content_type, frame = self.predict(REGRESSOR, self.regressor.frame, CSVSerializer(), Rows(accept=accept))
        self.assertTrue(content_type.startswith("text/csv"), content_type)
        self.assert_close(frame.to_numpy(), self.regressor.output("variable"))


def by_row(outputs: dict) -> list[dict]:
    """The rows of a response as whole tensors."""
    return [dict(zip(outputs, values)) for values in zip(*outputs.values())]


if __name__ == "__main__":
    unittest.main(argv=sys.argv[:1])
