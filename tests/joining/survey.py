#!/usr/bin/env python3
"""Inspects more than a thousand models, and prints for which of them a server batches requests,
and why not for the others.

    python3 -m venv .venv && .venv/bin/pip install -r tests/joining/requirements.txt
    .venv/bin/python tests/joining/survey.py target/debug/longshore
    .venv/bin/python tests/joining/survey.py target/debug/longshore --before OTHER    # compares with another binary

The models are those of the ONNX standard's operators (unchanged, and with an open first axis of
all inputs, because a fixed axis is never batched), skl2onnx's exports of scikit-learn's
estimators, the models of `tests/models`, and networks as exporters write them, with and without
quantisation. ORT_DYLIB_PATH names ONNX Runtime's library if the binary does not find it.
"""

from __future__ import annotations

import argparse
import collections
import concurrent.futures
import json
import subprocess
import sys
import tempfile
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnx.backend.test.loader as loader
from onnx import ModelProto, TensorProto, helper, numpy_helper

HERE = Path(__file__).resolve().parent
ROOT = HERE.parent.parent


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("binary", type=Path)
    parser.add_argument("--before", type=Path, help="another binary to compare with")
    parser.add_argument("--only", default="", help="models whose names contain this")
    parser.add_argument("--jobs", type=int, default=2)
    parser.add_argument("--json", type=Path, help="write all verdicts to this file")
    arguments = parser.parse_args()
    binaries = [arguments.binary.resolve()] + ([arguments.before.resolve()] if arguments.before else [])
    with tempfile.TemporaryDirectory() as folder:
        paths = dict(write(Path(folder), arguments.only))
        with concurrent.futures.ThreadPoolExecutor(arguments.jobs) as pool:
            reports = [dict(zip(paths, pool.map(lambda path: inspect(binary, path), paths.values()))) for binary in binaries]
    after = {name: verdict(report) for name, report in reports[0].items()}
    before = {name: verdict(report) for name, report in reports[-1].items()}
    if arguments.json:
        arguments.json.write_text(json.dumps({n: {"before": before[n], "after": after[n]} for n in after}, indent=1))
    table(before if arguments.before else None, after)


def write(folder: Path, only: str) -> Iterator[tuple[str, Path]]:
    """Names and paths of the models."""
    sources = {"node": node_models, "sklearn": sklearn_models, "fixture": fixture_models, "network": networks}
    for kind, source in sources.items():
        # The prefix of a name says which kinds of models it can be.
        if any(map(only.startswith, sources)) and not only.startswith(kind):
            continue
        for name, model in source():
            if only not in name:
                continue
            if isinstance(model, Path):
                yield name, model
                continue
            path = folder / name.replace("/", "_") / "model.onnx"
            path.parent.mkdir()
            path.write_bytes(model if isinstance(model, bytes) else model.SerializeToString())
            yield name, path.parent


def inspect(binary: Path, path: Path) -> dict[str, Any] | None:
    try:
        done = subprocess.run([binary, "inspect", "--json", path], capture_output=True, timeout=120)
        return json.loads(done.stdout)
    except (json.JSONDecodeError, subprocess.TimeoutExpired):
        return None


def verdict(report: dict[str, Any] | None) -> tuple[str, str]:
    """`joined`, `alone` or `refused`, and the reason."""
    if report is None or "refused" in report:
        return "refused", ""
    if "joined" in report:
        return ("joined", "") if report["joined"] else ("alone", report["joined_why_not"])
    # Older binaries had no analysis: two rows of invented data decided.
    firsts = {shape[0] if shape else 0 for shape in (item["shape"] or [0] for item in report["inputs"])}
    is_open = len(firsts - {None}) <= 1 and all(isinstance(first, (str, type(None))) for first in firsts) and firsts
    has_rows = any(item.get("shape") and not isinstance(item["shape"][0], int) for item in report["outputs"])
    seen = report["measured"]["independent_rows"] is True
    return ("joined" if is_open and has_rows and seen else "alone"), ""


def table(before: dict[str, tuple[str, str]] | None, after: dict[str, tuple[str, str]]) -> None:
    kinds = collections.Counter(name.split("/")[0] for name in after)
    print("| models | of them load | joined before | joined after | no longer | newly |")
    print("|---|---|---|---|---|---|")
    for kind in [*kinds, ""]:
        names = [name for name in after if name.startswith(kind) and after[name][0] != "refused"]
        now = {name for name in names if after[name][0] == "joined"}
        was = {name for name in names if before and before[name][0] == "joined"}
        total = sum(name.startswith(kind) for name in after)
        print(f"| {kind or 'all'}: {total} | {len(names)} | {len(was) if before else ''} | {len(now)} "
              f"| {len(was - now) if before else ''} | {len(now - was) if before else ''} |")
    reasons: dict[str, list[str]] = collections.defaultdict(list)
    for name, (state, why) in after.items():
        if state == "alone" and (before is None or before[name][0] == "joined"):
            reasons[why].append(name)
    print("\nWhy not", "any more" if before else "", "\n")
    for why, names in sorted(reasons.items(), key=lambda item: (-len(item[1]), item[0])):
        print(f"- {why}: {', '.join(sorted(names))}")


# The standard's operators


def node_models() -> Iterator[tuple[str, ModelProto]]:
    for case in loader.load_model_tests(kind="node"):
        model = case.model or onnx.load(Path(case.model_dir) / "model.onnx")
        yield f"node/{case.name.removeprefix('test_')}", model
        opened = ModelProto()
        opened.CopyFrom(model)
        if open_first_axes(opened):
            yield f"node-open/{case.name.removeprefix('test_')}", opened


def open_first_axes(model: ModelProto) -> bool:
    """Leaves the first axis of all inputs and outputs open, if all inputs have one."""
    for value in model.graph.input:
        if not value.type.tensor_type.shape.dim:
            return False
    for value in [*model.graph.input, *model.graph.output]:
        if value.type.tensor_type.shape.dim:
            value.type.tensor_type.shape.dim[0].dim_param = "records"
    del model.graph.value_info[:]
    return len(model.graph.input) > 0


# scikit-learn


def sklearn_models() -> Iterator[tuple[str, bytes]]:
    from skl2onnx import to_onnx
    from skl2onnx.common.data_types import FloatTensorType, Int64TensorType, StringTensorType
    from sklearn import (
        calibration, cluster, compose, decomposition, ensemble, feature_extraction, feature_selection, gaussian_process,
        impute, linear_model, mixture, multiclass, naive_bayes, neighbors, neural_network, pipeline, preprocessing,
        random_projection, svm, tree,
    )

    warnings.simplefilter("ignore")
    random = np.random.default_rng(0)
    x = random.standard_normal((120, 6)).astype(np.float32)
    positive = np.abs(x)
    labels = (x[:, 0] + x[:, 1] > 0).astype(np.int64) + (x[:, 2] > 1)
    numbers = x @ np.arange(6) + 1
    floats = [("x", FloatTensorType([None, 6]))]
    classifiers = [
        linear_model.LogisticRegression(), linear_model.SGDClassifier(loss="log_loss"), linear_model.RidgeClassifier(),
        linear_model.Perceptron(), tree.DecisionTreeClassifier(), tree.ExtraTreeClassifier(),
        ensemble.RandomForestClassifier(5), ensemble.ExtraTreesClassifier(5), ensemble.GradientBoostingClassifier(n_estimators=5),
        ensemble.HistGradientBoostingClassifier(max_iter=5), ensemble.AdaBoostClassifier(n_estimators=5),
        ensemble.BaggingClassifier(n_estimators=3), svm.SVC(probability=True), svm.SVC(), svm.LinearSVC(), svm.NuSVC(nu=0.1),
        naive_bayes.GaussianNB(), naive_bayes.BernoulliNB(), neighbors.KNeighborsClassifier(3),
        neighbors.RadiusNeighborsClassifier(30.0), neural_network.MLPClassifier((8,), max_iter=50),
        calibration.CalibratedClassifierCV(linear_model.LogisticRegression(), cv=2),
        multiclass.OneVsRestClassifier(linear_model.LogisticRegression()),
        ensemble.VotingClassifier([("a", linear_model.LogisticRegression()), ("b", tree.DecisionTreeClassifier())], voting="soft"),
        ensemble.StackingClassifier([("a", linear_model.LogisticRegression()), ("b", tree.DecisionTreeClassifier())], cv=2),
        pipeline.make_pipeline(preprocessing.StandardScaler(), linear_model.LogisticRegression()),
        pipeline.make_pipeline(decomposition.PCA(3), svm.SVC(probability=True)),
    ]
    regressors = [
        linear_model.LinearRegression(), linear_model.Ridge(), linear_model.Lasso(), linear_model.ElasticNet(),
        linear_model.BayesianRidge(), linear_model.HuberRegressor(), linear_model.PoissonRegressor(),
        linear_model.QuantileRegressor(solver="highs"), tree.DecisionTreeRegressor(), ensemble.RandomForestRegressor(5),
        ensemble.ExtraTreesRegressor(5), ensemble.GradientBoostingRegressor(n_estimators=5),
        ensemble.HistGradientBoostingRegressor(max_iter=5), ensemble.AdaBoostRegressor(n_estimators=5),
        ensemble.BaggingRegressor(n_estimators=3), svm.SVR(), svm.NuSVR(), svm.LinearSVR(),
        neighbors.KNeighborsRegressor(3), neighbors.RadiusNeighborsRegressor(30.0),
        neural_network.MLPRegressor((8,), max_iter=50), gaussian_process.GaussianProcessRegressor(),
        pipeline.make_pipeline(preprocessing.StandardScaler(), linear_model.Ridge()),
    ]
    transformers = [
        preprocessing.StandardScaler(), preprocessing.MinMaxScaler(), preprocessing.MaxAbsScaler(),
        preprocessing.RobustScaler(), preprocessing.Normalizer(), preprocessing.Normalizer("max"), preprocessing.Binarizer(),
        preprocessing.PolynomialFeatures(2), preprocessing.PowerTransformer(), preprocessing.KBinsDiscretizer(3, encode="ordinal"),
        preprocessing.KBinsDiscretizer(3), preprocessing.FunctionTransformer(), decomposition.PCA(3),
        decomposition.TruncatedSVD(3), decomposition.IncrementalPCA(3), random_projection.GaussianRandomProjection(3),
        feature_selection.VarianceThreshold(), feature_selection.SelectKBest(k=3), impute.SimpleImputer(), impute.KNNImputer(),
        cluster.KMeans(3, n_init=1), cluster.MiniBatchKMeans(3, n_init=1), mixture.GaussianMixture(2),
        mixture.BayesianGaussianMixture(n_components=2), ensemble.IsolationForest(n_estimators=5), svm.OneClassSVM(),
        neighbors.LocalOutlierFactor(novelty=True), neighbors.NearestNeighbors(n_neighbors=3),
    ]

    def export(name: str, make: Callable[[], bytes]) -> Iterator[tuple[str, bytes]]:
        try:
            yield f"sklearn/{name}", make()
        except Exception as error:  # noqa: BLE001: skl2onnx has no converter for some
            print(f"not exported: {name}: {type(error).__name__}", file=sys.stderr)

    def serialised(model: Any, inputs: list[Any], options: dict[str, Any] | None = None) -> bytes:
        return to_onnx(model, initial_types=inputs, options=options, target_opset={"": 17, "ai.onnx.ml": 3}).SerializeToString()

    def title(model: Any) -> str:
        steps = getattr(model, "steps", None)
        return "+".join(type(step).__name__ for _, step in steps) if steps else type(model).__name__

    for index, model in enumerate(classifiers):
        for kind, target in (("", labels), ("-texts", np.array(["a", "b", "c"])[labels])):
            fitted = model.fit(positive, target)
            for zipped in (True, False):
                name = f"{title(model)}{kind}{'' if zipped else '-plain'}-{index}"
                yield from export(name, lambda: serialised(fitted, floats, {"zipmap": zipped}))
            fitted = None
    for index, model in enumerate(regressors):
        yield from export(f"{title(model)}-{index}", lambda: serialised(model.fit(positive, np.abs(numbers)), floats))
    for index, model in enumerate(transformers):
        yield from export(f"{title(model)}-{index}", lambda: serialised(model.fit(positive, labels), floats))
    texts = np.array([["good day sir"], ["bad day"], ["no day at all"], ["good night"]])
    for index, vectorizer in enumerate([
        feature_extraction.text.CountVectorizer(), feature_extraction.text.TfidfVectorizer(),
        feature_extraction.text.TfidfVectorizer(ngram_range=(1, 2)), feature_extraction.text.TfidfVectorizer(analyzer="char"),
    ]):
        fitted = vectorizer.fit(texts.ravel())
        yield from export(f"{title(vectorizer)}-{index}", lambda: serialised(fitted, [("x", StringTensorType([None, 1]))]))
        line = pipeline.make_pipeline(vectorizer, linear_model.LogisticRegression()).fit(texts.ravel(), [0, 1, 1, 0])
        yield from export(f"{title(line)}-{index}", lambda: serialised(line, [("x", StringTensorType([None, 1]))]))
    for name, encoder in (("OneHot", preprocessing.OneHotEncoder()), ("Ordinal", preprocessing.OrdinalEncoder())):
        fitted = encoder.fit(texts)
        yield from export(f"{name}-texts", lambda: serialised(fitted, [("x", StringTensorType([None, 1]))]))
        whole = encoder.fit(labels[:, None])
        yield from export(f"{name}-ints", lambda: serialised(whole, [("x", Int64TensorType([None, 1]))]))
    frame = np.column_stack([x[:, :2].astype(object), np.array(["u", "v", "w"], object)[labels]])
    columns = compose.ColumnTransformer([("n", preprocessing.StandardScaler(), [0, 1]), ("c", preprocessing.OneHotEncoder(), [2])])
    line = pipeline.make_pipeline(columns, linear_model.LogisticRegression()).fit(frame, labels)
    kinds = [("a", FloatTensorType([None, 1])), ("b", FloatTensorType([None, 1])), ("c", StringTensorType([None, 1]))]
    yield from export("ColumnTransformer", lambda: serialised(line, kinds))


# The models of the tests


def fixture_models() -> Iterator[tuple[str, Path]]:
    for folder in sorted((ROOT / "tests/models").iterdir()):
        if (folder / "cases.json").exists():
            yield f"fixture/{folder.name}", folder


# Networks as exporters write them


def networks() -> Iterator[tuple[str, ModelProto | bytes]]:
    sys.path.insert(0, str(HERE))
    import made

    for name, model in made.networks():
        yield f"network/{name}", model
        for kind, other in made.quantised(name, model):
            yield f"network-{kind}/{name}", other
        for kind, other in made.optimised(model):
            yield f"network-{kind}/{name}", other


if __name__ == "__main__":
    main()
