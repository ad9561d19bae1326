"""Exports models from their libraries, each with some records and the library's own answers.

Nothing here depends on the server: `check.py` and `series.py` send the requests. All data comes
from fixed seeds.

usage: make.py FOLDER MODEL...

Writes artifacts for programs with other libraries: FOLDER/MODEL/model, and next to it answers.json
with records, names of columns, and the value of each output for each record.
"""

import json
import sys

import warnings
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import onnx
import pandas as pd
from onnx import TensorProto, helper, numpy_helper
from onnx.reference import ReferenceEvaluator

warnings.filterwarnings("ignore")

RECORDS = 3
"""Number of records for each model."""


@dataclass
class Export:
    """A model, records for it, and the right answers."""

    name: str
    kind: str
    """The column of the table in docs/formats.md."""
    model: onnx.ModelProto
    inputs: dict[str, np.ndarray]
    """Whole tensors by their names in the graph."""
    rows: list[dict]
    """For each record, the value of each output as JSON."""
    whole: dict
    """The value of each output for all records together, for responses without rows."""
    frame: pd.DataFrame | None = None
    """The records in the form that users of the library have."""
    names_known: bool = False
    """Whether the server knows the names of the frame's columns."""
    axes: dict[str, int] = field(default_factory=dict)
    """The axis of the records, for inputs where it is not the first."""
    tensors: tuple[str, ...] = ()
    """The outputs that are tensors."""
    manifest: dict | None = None
    files: dict[str, str] = field(default_factory=dict)
    missing: list[str] = field(default_factory=list)
    """Columns that requests may omit: the frame has their default."""
    aliases: dict[str, str] = field(default_factory=dict)
    """Other names of columns. If there are any, the server ignores unknown names."""

    def write(self, folder: Path) -> Path:
        """Writes the artifact as a training job does."""
        artifact = folder / self.name / "model"
        artifact.mkdir(parents=True)
        onnx.save(self.model, artifact / "model.onnx")
        for name, text in self.files.items():
            (artifact / name).write_text(text)
        if self.manifest is not None:
            (artifact / "longshore.json").write_text(json.dumps(self.manifest))
        return artifact

    @property
    def only(self) -> np.ndarray | None:
        """The only input."""
        return next(iter(self.inputs.values())) if len(self.inputs) == 1 else None

    @property
    def matrix(self) -> np.ndarray | None:
        """The only input, if it is a matrix of numbers."""
        only = self.only
        is_matrix = only is not None and only.ndim == 2 and only.shape[1] > 1 and only.dtype != object
        return only if is_matrix else None

    @property
    def cells(self) -> list[list] | None:
        """A list of values for each record, as in a table."""
        if (matrix := self.matrix) is not None:
            return matrix.tolist()
        if not self.axes and all(array.size == RECORDS for array in self.inputs.values()):
            return [list(row) for row in zip(*(array.ravel().tolist() for array in self.inputs.values()))]
        return None

    @property
    def records(self) -> list[dict]:
        """The value of each input for each record."""
        scalar = lambda value: value[0] if isinstance(value, list) and len(value) == 1 else value
        moved = {name: np.moveaxis(array, self.axes.get(name, 0), 0) for name, array in self.inputs.items()}
        columns = {name: array.tolist() for name, array in moved.items()}
        if self.cells is not None:
            columns = {name: [scalar(value) for value in values] for name, values in columns.items()}
        return [{name: values[index] for name, values in columns.items()} for index in range(RECORDS)]


def plain(value):
    """A value of the library as JSON."""
    if isinstance(value, np.ndarray):
        return plain(value.tolist())
    if isinstance(value, (list, tuple)):
        return [plain(item) for item in value]
    if isinstance(value, dict):
        return {str(plain(key)): plain(item) for key, item in value.items()}
    if isinstance(value, np.generic):
        return value.item()
    return value


def by_row(outputs: dict) -> tuple[list[dict], dict]:
    """The rows and the whole tensors of outputs with an entry for each record."""
    whole = {name: plain(value) for name, value in outputs.items()}
    count = len(next(iter(whole.values())))
    return [{name: value[index] for name, value in whole.items()} for index in range(count)], whole


def maps(classes, probabilities) -> list[dict]:
    """Probabilities in the form of skl2onnx's ZipMap."""
    return [dict(zip(classes, row)) for row in plain(probabilities)]


def wine():
    from sklearn.datasets import load_wine
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    data = load_wine()
    x = data.data.astype(np.float32)
    pipeline = make_pipeline(StandardScaler(), LogisticRegression()).fit(x, data.target)
    some = x[[0, 80, 150]]
    return pipeline, some, pd.DataFrame(some, columns=data.feature_names)


def wide(name, kind, model, x, outputs, tensors, **more) -> Export:
    """An export with one input of many columns."""
    rows, whole = by_row(outputs)
    return Export(name, kind, model, {model.graph.input[0].name: x}, rows, whole, tensors=tensors, **more)


def scikit_learn_numbers():
    from skl2onnx import to_onnx
    from sklearn.datasets import load_diabetes
    from sklearn.ensemble import GradientBoostingRegressor
    from sklearn.multioutput import MultiOutputClassifier
    from sklearn.tree import DecisionTreeClassifier

    pipeline, x, frame = wine()
    label, probabilities = pipeline.predict(x), pipeline.predict_proba(x)
    zipped = {"output_label": label, "output_probability": maps(pipeline.classes_, probabilities)}
    yield wide("sklearn_zipmap", "numbers", to_onnx(pipeline, x[:1]), x, zipped, ("output_label",), frame=frame)
    arrays = to_onnx(pipeline, x[:1], options={"zipmap": False})
    plain_outputs = {"label": label, "probabilities": probabilities}
    both = ("label", "probabilities")
    yield wide("sklearn_arrays", "numbers", arrays, x, plain_outputs, both, frame=frame)

    # The same with names for the columns, and only the probabilities, under another name.
    names = list(frame.columns)
    columns = [*names[:-1], {"name": names[-1], "aliases": ["prolin"], "default": 1000}]
    manifest = {
        "columns": columns,
        "outputs": [{"name": "probabilities", "as": "scores"}],
        "unknown_inputs": "ignore",
    }
    defaulted = x.copy()
    defaulted[:, -1] = 1000
    yield wide(
        "sklearn_manifest",
        "named numbers",
        arrays,
        defaulted,
        {"scores": pipeline.predict_proba(defaulted)},
        ("scores",),
        frame=pd.DataFrame(defaulted, columns=names),
        names_known=True,
        manifest=manifest,
        missing=names[-1:],
        aliases={names[-1]: "prolin"},
    )
    varieties = ["barolo", "grignolino", "barbera"]
    yield wide(
        "sklearn_labels",
        "labels",
        arrays,
        x,
        {"variety": [varieties[index] for index in label], "scores": maps(varieties, probabilities)},
        (),
        frame=frame,
        manifest={
            "labels": varieties,
            "outputs": [
                {"name": "label", "as": "variety", "labels": True},
                {"name": "probabilities", "as": "scores", "labels": True},
            ],
        },
    )
    signature = ", ".join(f'{{"type": "float", "name": "{name}", "required": true}}' for name in names)
    mlmodel = (
        "flavors:\n  onnx:\n    data: model.onnx\n    onnx_version: 1.20.1\n"
        f"signature:\n  inputs: '[{signature}]'\n  outputs: null\n  params: null\n"
    )
    yield wide(
        "sklearn_mlmodel",
        "MLmodel",
        arrays,
        x,
        plain_outputs,
        both,
        frame=frame,
        names_known=True,
        files={"MLmodel": mlmodel},
    )

    data = load_diabetes()
    x = data.data.astype(np.float32)
    regressor = GradientBoostingRegressor(n_estimators=20, random_state=0).fit(x, data.target)
    x = x[:RECORDS]
    answer = {"variable": regressor.predict(x).reshape(-1, 1)}
    frame = pd.DataFrame(x, columns=data.feature_names)
    yield wide("sklearn_regressor", "numbers", to_onnx(regressor, x[:1]), x, answer, ("variable",), frame=frame)

    random = np.random.default_rng(7)
    x = random.normal(size=(200, 6)).astype(np.float32)
    targets = np.stack([x[:, 0] > 0, x[:, 1] + x[:, 2] > 0], axis=1).astype(np.int64)
    multi = MultiOutputClassifier(DecisionTreeClassifier(max_depth=4, random_state=0)).fit(x, targets)
    x = x[:RECORDS]
    label = plain(multi.predict(x))
    probabilities = plain(np.stack(multi.predict_proba(x)))
    model = to_onnx(multi, x[:1], options={"zipmap": False})
    yield Export(
        "sklearn_two_targets",
        "two targets",
        model,
        {"X": x},
        # The library gives a list with one array of probabilities for each target, not for each
        # record.
        [
            {"label": label[index], "probabilities": [[target[index]] for target in probabilities]}
            for index in range(RECORDS)
        ],
        {"label": label, "probabilities": probabilities},
        tensors=("label",),
    )


def series() -> tuple[Export, Export]:
    """A scaler, and a classifier whose input has another name than the scaler's output. The
    answers of the scaler are those of both in series.
    """
    from skl2onnx import to_onnx
    from skl2onnx.common.data_types import FloatTensorType

    pipeline, x, frame = wine()
    (_, scaler), (_, classifier) = pipeline.steps
    scaled = scaler.transform(x).astype(np.float32)
    answers = {"label": pipeline.predict(x), "probabilities": pipeline.predict_proba(x)}
    both = tuple(answers)
    first = wide("scaler", "numbers", to_onnx(scaler, x[:1]), x, answers, both, frame=frame)
    types = [("scaled_features", FloatTensorType([None, x.shape[1]]))]
    model = to_onnx(classifier, initial_types=types, options={"zipmap": False})
    return first, wide("classifier", "numbers", model, scaled, answers, both)


def scikit_learn_columns() -> Export:
    from skl2onnx import to_onnx
    from sklearn.compose import make_column_transformer
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import OneHotEncoder, StandardScaler

    random = np.random.default_rng(3)
    size = 120
    frame = pd.DataFrame(
        {
            "Island": random.choice(["Biscoe", "Dream", "Torgersen"], size),
            "Culmen Length (mm)": random.normal(44, 5, size).astype(np.float32),
            "Delta 15 N (o/oo)": random.normal(8.7, 0.5, size).astype(np.float32),
            "Sex": random.choice(["FEMALE", "MALE"], size),
        }
    )
    frame["Island"] = frame["Island"].astype(object)
    frame["Sex"] = frame["Sex"].astype(object)
    species = np.where(
        frame["Culmen Length (mm)"] > 45, "Gentoo", np.where(frame["Island"] == "Dream", "Chinstrap", "Adelie")
    )
    texts, numbers = ["Island", "Sex"], ["Culmen Length (mm)", "Delta 15 N (o/oo)"]
    pipeline = make_pipeline(
        make_column_transformer((OneHotEncoder(), texts), (StandardScaler(), numbers)),
        LogisticRegression(max_iter=500),
    ).fit(frame, species)
    model = to_onnx(pipeline, frame[:1], options={"zipmap": False})
    some = frame[:RECORDS]
    rows, whole = by_row({"label": pipeline.predict(some), "probabilities": pipeline.predict_proba(some)})
    arrays = [
        some[column].to_numpy(dtype=object if column in texts else np.float32).reshape(-1, 1) for column in frame.columns
    ]
    inputs = dict(zip([value.name for value in model.graph.input], arrays))
    return Export(
        "sklearn_columns",
        "columns",
        model,
        inputs,
        rows,
        whole,
        frame=some,
        names_known=True,
        tensors=("label", "probabilities"),
    )


def scikit_learn_text() -> Export:
    from skl2onnx import to_onnx
    from skl2onnx.common.data_types import StringTensorType
    from sklearn.feature_extraction.text import TfidfVectorizer
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline

    good = ["a great, warm film", "I loved it", "great acting and a good plot", "good fun", "warm and funny"]
    bad = ["a dull, cold film", "I hated it", "poor acting and a bad plot", "no fun at all", "cold and boring"]
    pipeline = make_pipeline(TfidfVectorizer(token_pattern="[a-zA-Z]+"), LogisticRegression())
    pipeline.fit(good + bad, ["good"] * len(good) + ["bad"] * len(bad))
    texts = ["a warm and good film", 'boring, "dull" and bad', "I loved the plot, not the acting"]
    model = to_onnx(pipeline, initial_types=[("review", StringTensorType([None, 1]))], options={"zipmap": False})
    rows, whole = by_row({"label": pipeline.predict(texts), "probabilities": pipeline.predict_proba(texts)})
    return Export(
        "sklearn_text",
        "text",
        model,
        {"review": np.array(texts, dtype=object).reshape(-1, 1)},
        rows,
        whole,
        frame=pd.DataFrame({"review": texts}),
        names_known=True,
        tensors=("label", "probabilities"),
    )


def boosted():
    """XGBoost, LightGBM and CatBoost, each with the exporter that its users have."""
    import catboost
    import lightgbm
    import onnxmltools
    import xgboost
    from onnxmltools.convert.common.data_types import FloatTensorType
    from sklearn.datasets import load_breast_cancer

    data = load_breast_cancer()
    x, y = data.data.astype(np.float32), data.target
    some = x[[0, 19, 100]]
    frame = pd.DataFrame(some, columns=data.feature_names)
    types = [("input", FloatTensorType([None, x.shape[1]]))]
    both = ("label", "probabilities")

    classifier = xgboost.XGBClassifier(n_estimators=12, max_depth=3, random_state=0, n_jobs=1).fit(x, y)
    model = onnxmltools.convert_xgboost(classifier, initial_types=types)
    answer = {"label": classifier.predict(some), "probabilities": classifier.predict_proba(some)}
    yield wide("xgboost_classifier", "numbers", model, some, answer, both, frame=frame)

    holes = x.copy()
    holes[np.random.default_rng(5).random(x.shape) < 0.2] = np.nan
    classifier = xgboost.XGBClassifier(n_estimators=12, max_depth=3, random_state=0, n_jobs=1).fit(holes, y)
    model = onnxmltools.convert_xgboost(classifier, initial_types=types)
    few = holes[[0, 19, 100]]
    answer = {"label": classifier.predict(few), "probabilities": classifier.predict_proba(few)}
    manifest = {"csv": {"missing": ["NA", "unknown"]}}
    yield wide(
        "xgboost_missing",
        "missing values",
        model,
        few,
        answer,
        both,
        frame=pd.DataFrame(few, columns=data.feature_names),
        manifest=manifest,
    )

    regressor = xgboost.XGBRegressor(n_estimators=12, max_depth=3, random_state=0, n_jobs=1).fit(x, x[:, 0] * 2)
    model = onnxmltools.convert_xgboost(regressor, initial_types=types)
    answer = {"variable": regressor.predict(some).reshape(-1, 1)}
    yield wide("xgboost_regressor", "numbers", model, some, answer, ("variable",), frame=frame)

    classifier = lightgbm.LGBMClassifier(n_estimators=12, num_leaves=7, random_state=0, n_jobs=1, verbose=-1).fit(x, y)
    model = onnxmltools.convert_lightgbm(classifier, initial_types=types)
    answer = {"label": classifier.predict(some), "probabilities": maps([0, 1], classifier.predict_proba(some))}
    yield wide("lightgbm_classifier", "numbers", model, some, answer, ("label",), frame=frame)

    classifier = catboost.CatBoostClassifier(
        iterations=12, depth=3, random_seed=0, thread_count=1, verbose=False, allow_writing_files=False
    ).fit(x, y)
    import tempfile

    with tempfile.TemporaryDirectory() as folder:
        path = str(Path(folder, "model.onnx"))
        classifier.save_model(path, format="onnx")
        model = onnx.load(path)
    answer = {"label": classifier.predict(some), "probabilities": maps([0, 1], classifier.predict_proba(some))}
    yield wide("catboost_classifier", "numbers", model, some, answer, ("label",), frame=frame)


def graph(name, nodes, inputs, outputs, initializers=()) -> onnx.ModelProto:
    tensor = lambda name, shape, kind: helper.make_tensor_value_info(name, kind, shape)
    made = helper.make_graph(
        nodes,
        name,
        [tensor(*value) for value in inputs],
        [tensor(*value) for value in outputs],
        [numpy_helper.from_array(array, name) for name, array in initializers],
    )
    model = helper.make_model(made, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)
    onnx.checker.check_model(model)
    return model


def networks():
    """Graphs as torch.onnx.export writes them, with answers of ONNX's reference implementation."""
    random = np.random.default_rng(11)
    floats = lambda *shape: random.normal(scale=0.5, size=shape).astype(np.float32)
    real = TensorProto.FLOAT

    model = graph(
        "fixed",
        [
            helper.make_node("Conv", ["image", "kernel", "bias"], ["c"], kernel_shape=[3, 3]),
            helper.make_node("Relu", ["c"], ["r"]),
            helper.make_node("Flatten", ["r"], ["f"]),
            helper.make_node("Gemm", ["f", "weights", "offset"], ["logits"]),
        ],
        [("image", [1, 1, 8, 8], real)],
        [("logits", [1, 10], real)],
        [("kernel", floats(4, 1, 3, 3)), ("bias", floats(4)), ("weights", floats(144, 10)), ("offset", floats(10))],
    )
    image = floats(RECORDS, 1, 8, 8)
    reference = ReferenceEvaluator(model)
    answers = [reference.run(None, {"image": image[index : index + 1]})[0][0] for index in range(RECORDS)]
    yield Export(
        "fixed_batch", "fixed batch", model, {"image": image}, *by_row({"logits": np.stack(answers)}), tensors=("logits",)
    )

    units, width = 8, 5
    model = graph(
        "lstm",
        [
            helper.make_node("Transpose", ["x"], ["time_first"], perm=[1, 0, 2]),
            helper.make_node(
                "LSTM", ["time_first", "w", "r", "b", "", "h0", "c0"], ["all", "hn", "cn"], hidden_size=units
            ),
            helper.make_node("Squeeze", ["all", "one"], ["squeezed"]),
            helper.make_node("Transpose", ["squeezed"], ["y"], perm=[1, 0, 2]),
        ],
        [("x", ["N", "T", width], real), ("h0", [1, "N", units], real), ("c0", [1, "N", units], real)],
        [("y", ["N", "T", units], real), ("hn", [1, "N", units], real)],
        [
            ("w", floats(1, 4 * units, width)),
            ("r", floats(1, 4 * units, units)),
            ("b", floats(1, 8 * units)),
            ("one", np.array([1], np.int64)),
        ],
    )
    inputs = {"x": floats(RECORDS, 4, width), "h0": floats(1, RECORDS, units), "c0": floats(1, RECORDS, units)}
    y, hn = ReferenceEvaluator(model).run(None, inputs)
    yield Export(
        "lstm_state",
        "state",
        model,
        inputs,
        [{"y": plain(y[index]), "hn": plain(hn[:, index : index + 1])} for index in range(RECORDS)],
        {"y": plain(y), "hn": plain(hn)},
        axes={"h0": 1, "c0": 1},
        tensors=("y", "hn"),
    )
    # The same model with requests that omit the states.
    zeros = {name: np.zeros((1, RECORDS, units), np.float32) for name in ("h0", "c0")}
    y, hn = ReferenceEvaluator(model).run(None, {"x": inputs["x"], **zeros})
    state = [[0.0] * units]
    yield Export(
        "lstm_default_state",
        "state by default",
        model,
        {"x": inputs["x"]},
        [{"y": plain(y[index])} for index in range(RECORDS)],
        {"y": plain(y)},
        tensors=("y",),
        manifest={
            "inputs": [{"name": "h0", "default": [state]}, {"name": "c0", "default": [state]}],
            "outputs": ["y"],
        },
    )

    boxes, classes = 6, 2
    model = graph(
        "detector",
        [
            helper.make_node("NonMaxSuppression", ["boxes", "scores", "most", "overlap", "least"], ["selected"]),
            helper.make_node("Gather", ["selected", "last"], ["index"], axis=1),
            helper.make_node("Squeeze", ["index", "one"], ["flat"]),
            helper.make_node("Squeeze", ["boxes", "zero"], ["list"]),
            helper.make_node("Gather", ["list", "flat"], ["kept"], axis=0),
        ],
        [("boxes", [1, boxes, 4], real), ("scores", [1, classes, boxes], real)],
        [("kept", ["K", 4], real), ("selected", ["K", 3], TensorProto.INT64)],
        [
            ("most", np.array([3], np.int64)),
            ("overlap", np.array([0.5], np.float32)),
            ("least", np.array([0.3], np.float32)),
            ("last", np.array([2], np.int64)),
            ("one", np.array([1], np.int64)),
            ("zero", np.array([0], np.int64)),
        ],
    )
    corners = random.uniform(0, 1, size=(RECORDS, boxes, 2)).astype(np.float32)
    inputs = {
        "boxes": np.concatenate([corners, corners + random.uniform(0.2, 0.6, corners.shape).astype(np.float32)], axis=2),
        "scores": random.uniform(0, 1, size=(RECORDS, classes, boxes)).astype(np.float32),
    }
    rows = []
    for index in range(RECORDS):
        one = {name: array[index : index + 1] for name, array in inputs.items()}
        kept, selected = ReferenceEvaluator(model).run(None, one)
        rows.append({"kept": plain(kept), "selected": plain(selected)})
    yield Export("detector", "detector", model, inputs, rows, {}, tensors=("kept", "selected"))


def exports() -> list[Export]:
    made = [*scikit_learn_numbers(), scikit_learn_columns(), scikit_learn_text(), *boosted(), *networks()]
    for export in made:
        assert len(export.rows) == RECORDS, export.name
    return made


def main() -> None:
    folder, names = Path(sys.argv[1]), set(sys.argv[2:])
    for export in exports():
        if export.name in names:
            artifact = export.write(folder)
            columns = None if export.frame is None else list(export.frame.columns)
            answers = {"records": export.cells, "columns": columns, "rows": export.rows}
            (artifact.parent / "answers.json").write_text(json.dumps(plain(answers)))
            names.remove(export.name)
    assert not names, names


if __name__ == "__main__":
    main()
