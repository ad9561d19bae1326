#!/usr/bin/env python3
"""Writes the test models in this folder, and checks them with ONNX Runtime.

    python3 -m venv .venv && .venv/bin/pip install -r tests/models/requirements.txt
    export ORT_DISABLE_TELEMETRY=1
    .venv/bin/python tests/models/make.py            # writes every model again
    .venv/bin/python tests/models/make.py --check    # changes no files, tries each model

The models are committed, so the test suite needs no Python for them. A second run writes the same
bytes.

A good model is a directory like an archive that SageMaker has unpacked: `NAME/model.onnx`, its
external data if it has any, and `NAME/cases.json`. This is a list of requests with the answers of
ONNX Runtime, or of scikit-learn and Python:

    {"inputs": {NAME: TENSOR}, "outputs": {NAME: TENSOR or VALUE}}

TENSOR is `{"dtype": ..., "shape": [...], "data": [...]}` with flat data in row-major order. VALUE,
for an output that is not a tensor, is plain JSON: a sequence is a list, a map is an object, and a
tensor inside is nested lists. Numbers that JSON lacks are the strings "NaN", "Infinity" and
"-Infinity".

`bad/NAME/` holds an artifact that a server must refuse, or survive, and `why.txt`, one line with
the reason.
"""

from __future__ import annotations

import argparse
import atexit
import ctypes
import json
import math
import multiprocessing
import os
import shutil
import signal
import sys
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime as ort
from ml_dtypes import bfloat16
from onnx import FunctionProto, ModelProto, NodeProto, TensorProto, ValueInfoProto, helper, numpy_helper
from skl2onnx import to_onnx
from skl2onnx.common.data_types import FloatTensorType, StringTensorType
from sklearn.compose import ColumnTransformer
from sklearn.datasets import load_diabetes, load_iris
from sklearn.ensemble import RandomForestRegressor
from sklearn.feature_extraction.text import CountVectorizer, TfidfVectorizer
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import OneHotEncoder, StandardScaler

ROOT = Path(__file__).resolve().parent
OPSET = 17
IR_VERSION = 8
SEED = 20240607
LOCAL_DOMAIN = "local"
BUSY_AFTER_SECONDS = 20.0
RELATIVE_TOLERANCE = 1e-5
ABSOLUTE_TOLERANCE = 1e-6

Inputs = dict[str, np.ndarray]
Files = dict[str, bytes]


@dataclass(frozen=True)
class Good:
    """A model that serves, the requests whose answers are recorded, and further files.

    With `in_ort_format` the model is kept in ONNX Runtime's own format, as `model.ort`. `answers`,
    one for each request, replace those of ONNX Runtime in `cases.json`: they come from the library
    that made the model.
    """

    model: ModelProto
    requests: Sequence[Inputs] = ()
    files: Files = field(default_factory=dict)
    in_ort_format: bool = False
    answers: Sequence[Inputs] | None = None


@dataclass(frozen=True)
class Bad:
    """An artifact that does not serve.

    `outcome` is a part of the outcome of `try_to_load` for its `model.onnx`. It is None if the
    directory has no file of that name, because ONNX Runtime is not tried then.
    """

    why: str
    build: Callable[[], Files]
    outcome: str | None


# Building blocks


def value(name: str, dtype: int, shape: Sequence[int | str] | None) -> ValueInfoProto:
    """A graph input or output; a shape of None leaves even the rank open."""
    return helper.make_tensor_value_info(name, dtype, shape)


def floats(name: str, shape: Sequence[int | str] | None) -> ValueInfoProto:
    """A float32 graph input or output."""
    return value(name, TensorProto.FLOAT, shape)


def constant(name: str, data: Any, dtype: type = np.float32) -> TensorProto:
    """An initializer whose values are kept as raw bytes."""
    return numpy_helper.from_array(np.asarray(data, dtype=dtype), name)


def make_model(
    nodes: Sequence[NodeProto],
    inputs: Sequence[ValueInfoProto],
    outputs: Sequence[ValueInfoProto],
    initializers: Sequence[TensorProto] = (),
    *,
    functions: Sequence[FunctionProto] = (),
    opsets: Mapping[str, int] | None = None,
    ir_version: int = IR_VERSION,
) -> ModelProto:
    """A model of one graph, which by default every ONNX Runtime of recent years can read."""
    graph = helper.make_graph(nodes, "graph", inputs, outputs, initializers)
    imports = [helper.make_opsetid(domain, version) for domain, version in (opsets or {"": OPSET}).items()]
    return helper.make_model(graph, functions=functions, opset_imports=imports, ir_version=ir_version)


def external(name: str, dims: Sequence[int], location: str) -> TensorProto:
    """A float32 initializer whose bytes are in the file at `location`."""
    tensor = TensorProto(name=name, data_type=TensorProto.FLOAT, dims=dims, data_location=TensorProto.EXTERNAL)
    for key, entry in (("location", location), ("offset", "0"), ("length", str(4 * math.prod(dims)))):
        tensor.external_data.add(key=key, value=entry)
    return tensor


def array(*rows: Any, dtype: Any = np.float32) -> np.ndarray:
    """The rows as one array."""
    return np.array(rows, dtype=dtype)


# Good models


def mlp() -> Good:
    """Two dense layers with random weights: an ordinary small classifier."""
    random = np.random.default_rng(SEED)
    weights = [
        constant("w1", random.normal(0, 32**-0.5, (32, 64))),
        constant("b1", random.normal(0, 0.1, 64)),
        constant("w2", random.normal(0, 64**-0.5, (64, 8))),
        constant("b2", random.normal(0, 0.1, 8)),
    ]
    nodes = [
        helper.make_node("Gemm", ["features", "w1", "b1"], ["hidden"]),
        helper.make_node("Relu", ["hidden"], ["active"]),
        helper.make_node("Gemm", ["active", "w2", "b2"], ["logits"]),
        helper.make_node("Softmax", ["logits"], ["scores"], axis=-1),
    ]
    model = make_model(nodes, [floats("features", ["batch", 32])], [floats("scores", ["batch", 8])], weights)
    requests = [{"features": random.normal(size=(rows, 32)).round(3).astype(np.float32)} for rows in (1, 3)]
    return Good(model, requests)


def identity(dtype: Any, rows: Sequence[Sequence[Any]]) -> Good:
    """Returns its input, in one element type; `rows` hold the values at the ends of the type's
    range.
    """
    data = np.array(rows, dtype=dtype)
    kind = TensorProto.STRING if data.dtype == object else helper.np_dtype_to_tensor_dtype(data.dtype)
    shape = ["rows", "cols"]
    model = make_model(
        [helper.make_node("Identity", ["x"], ["y"])], [value("x", kind, shape)], [value("y", kind, shape)]
    )
    return Good(model, [{"x": data}, {"x": data[:1]}, {"x": data[:0]}])


def identity_integer(dtype: type) -> Good:
    """The identity in an integer type."""
    limits = np.iinfo(dtype)
    return identity(dtype, [[limits.min, limits.max], [0, 1]])


def identity_float(dtype: Any, largest: float, smallest: float) -> Good:
    """The identity in a floating-point type."""
    return identity(dtype, [[largest, -largest], [smallest, -0.0], [math.nan, 1.5], [math.inf, -math.inf]])


def identity_bool() -> Good:
    """The identity in booleans."""
    return identity(bool, [[True, False], [False, True]])


def identity_string() -> Good:
    """The identity in strings."""
    return identity(object, [["", "plain"], ['"quoted"\\\n', "Grüße, 世界 🚢"], ["\u0001", "NaN"]])


def any_rank() -> Good:
    """An input and an output that declare no shape."""
    nodes = [helper.make_node("Add", ["x", "one"], ["y"])]
    model = make_model(nodes, [floats("x", None)], [floats("y", None)], [constant("one", 1)])
    return Good(model, [{"x": np.zeros(shape, np.float32)} for shape in ((), (3,), (2, 1, 2))])


def scalar() -> Good:
    """A tensor without axes."""
    nodes = [helper.make_node("Mul", ["x", "two"], ["y"])]
    model = make_model(nodes, [floats("x", [])], [floats("y", [])], [constant("two", 2)])
    return Good(model, [{"x": np.array(number, np.float32)} for number in (0.25, -3)])


def vector() -> Good:
    """One axis of any length."""
    model = make_model([helper.make_node("Neg", ["x"], ["y"])], [floats("x", ["n"])], [floats("y", ["n"])])
    return Good(model, [{"x": array(1, -2.5, 3)}, {"x": array(7)}])


def two_inputs() -> Good:
    """Two inputs of different types and ranks, and two such outputs."""
    nodes = [
        helper.make_node("Cast", ["b"], ["b_float"], to=TensorProto.FLOAT),
        helper.make_node("Unsqueeze", ["b_float", "last_axis"], ["b_column"]),
        helper.make_node("Add", ["a", "b_column"], ["sum"]),
        helper.make_node("Greater", ["b", "zero"], ["positive"]),
    ]
    model = make_model(
        nodes,
        [floats("a", ["batch", 3]), value("b", TensorProto.INT64, ["batch"])],
        [floats("sum", ["batch", 3]), value("positive", TensorProto.BOOL, ["batch"])],
        [constant("last_axis", [1], np.int64), constant("zero", 0, np.int64)],
    )
    return Good(
        model,
        [
            {"a": array([0.5, 1.5, 2.5]), "b": array(10, dtype=np.int64)},
            {"a": array([1, 2, 3], [4, 5, 6]), "b": array(-1, 1, dtype=np.int64)},
        ],
    )


def columns() -> Good:
    """A scikit-learn pipeline over named columns: one input for each column, numbers and strings
    mixed.
    """
    random = np.random.default_rng(SEED)
    count = 300
    age = random.integers(18, 80, count)
    income = random.integers(12, 120, count) * 1000
    city = random.choice(["Berlin", "Lisbon", "Oslo"], count)
    merit = income / 1000 + age / 4 + np.where(city == "Oslo", 15, 0) + random.normal(0, 8, count)
    decision = np.select([merit < 60, merit < 90], ["declined", "review"], "approved")
    table = np.empty((count, 3), dtype=object)
    table[:, 0], table[:, 1], table[:, 2] = age, income, city
    classifier = LogisticRegression(max_iter=1000)
    encoder = ColumnTransformer(
        [("scaled", StandardScaler(), [0, 1]), ("coded", OneHotEncoder(handle_unknown="ignore"), [2])]
    )
    pipeline = make_pipeline(encoder, classifier).fit(table, decision)
    model = convert(
        pipeline,
        "columns",
        [
            ("age", FloatTensorType([None, 1])),
            ("income", FloatTensorType([None, 1])),
            ("city", StringTensorType([None, 1])),
        ],
        {id(classifier): {"zipmap": False}},
    )
    return Good(
        model,
        [
            {"age": array([41]), "income": array([52000]), "city": array(["Lisbon"], dtype=object)},
            {
                "age": array([19], [44], [67], [30]),
                "income": array([14000], [61500], [98000], [70000]),
                "city": array(["Berlin"], ["Oslo"], ["Lisbon"], ["Atlantis"], dtype=object),
            },
        ],
    )


def convert(
    estimator: Any, name: str, inputs: list[tuple[str, Any]], options: dict[int, Any] | None = None
) -> ModelProto:
    """The ONNX export of a fitted scikit-learn estimator, with its imports in a fixed order."""
    opsets = {"": OPSET, "ai.onnx.ml": 3}
    model: ModelProto = to_onnx(estimator, initial_types=inputs, options=options, target_opset=opsets, name=name)
    model.ir_version = IR_VERSION
    imports = sorted(model.opset_import, key=lambda entry: entry.domain)
    del model.opset_import[:]
    model.opset_import.extend(imports)
    return model


def iris(labels: Sequence[Any] | None) -> Good:
    """The first export of every scikit-learn user: probabilities come as one map for each row."""
    data = load_iris()
    target = data.target if labels is None else np.array(labels)[data.target]
    classifier = LogisticRegression(max_iter=1000).fit(data.data, target)
    model = convert(classifier, "iris", [("X", FloatTensorType([None, 4]))])
    return Good(model, [{"X": array([5.1, 3.5, 1.4, 0.2])}, {"X": array([6.7, 3.1, 4.7, 1.5], [6.3, 3.3, 6, 2.5])}])


def trees() -> Good:
    """A regression forest."""
    data = load_diabetes()
    forest = RandomForestRegressor(n_estimators=12, max_depth=4, random_state=SEED).fit(data.data, data.target)
    model = convert(forest, "trees", [("X", FloatTensorType([None, 10]))])
    return Good(model, [{"X": data.data[rows].round(4).astype(np.float32)} for rows in ([0], [1, 2, 3])])


TEXTS = {
    "de": ["Das große Haus am See", "Über den Wolken", "STRASSE im Wald", "Ärger mit der Öffnung", "Äpfel und Öl"],
    "fr": ["Le café NOIR à emporter", "Où est la Gare du Nord", "L'ÉTÉ sera court", "Une forêt près d'ici"],
    "ru": ["Москва и большой ГОРОД", "Над Волгой ТУМАН", "Лес и река", "Дом у Озера"],
    "el": ["Η Αθήνα και η θάλασσα", "ΝΗΣΙΑ και βουνά", "Καλημέρα ΚΟΣΜΕ", "Το μεγάλο βιβλίο"],
    "hy": ["Երևան ՔԱՂԱՔ", "Մեծ ՏՈՒՆ", "Բարև Աշխարհ", "Լեռ և գետ"],
}


def text_tfidf() -> Good:
    """The language of a text, as scikit-learn's users export it, with a pattern of words for all
    alphabets.

    Without a pattern the exporter writes `[a-zA-Z0-9_]+`, which differs from scikit-learn's own
    pattern.
    """
    texts = [text for group in TEXTS.values() for text in group]
    languages = [language for language, group in TEXTS.items() for _ in group]
    vectorizer = TfidfVectorizer(lowercase=True)
    pipeline = make_pipeline(vectorizer, LogisticRegression(max_iter=1000, C=100)).fit(texts, languages)
    options = {id(vectorizer): {"tokenexp": r"[\p{L}\p{N}_]{2,}"}, id(pipeline): {"zipmap": False}}
    model = convert(pipeline, "text_tfidf", [("text", StringTensorType([None, 1]))], options)
    requests = [["ÜBER DIE STRASSE"], ["LE CAFÉ DU NORD", "МОСКВА", "ΑΘΉΝΑ ΚΑΙ ΒΟΥΝΆ", "ՔԱՂԱՔ", "nothing known", ""]]
    return Good(
        model,
        [{"text": np.array([[text] for text in rows], dtype=object)} for rows in requests],
        answers=[
            {
                "label": pipeline.predict(rows).astype(object),
                "probabilities": pipeline.predict_proba(rows).astype(np.float32),
            }
            for rows in requests
        ],
    )


def text_counts() -> Good:
    """Counts of words, exported without any option. The export then splits only English texts like
    scikit-learn.
    """
    vectorizer = CountVectorizer().fit(["The quick brown fox", "jumps over the LAZY dog", "the end of 2 foxes"])
    model = convert(vectorizer, "text_counts", [("text", StringTensorType([None, 1]))])
    requests = [["THE dog jumps over THE fox"], ["Quick, quick!", "2 lazy foxes", "unknown words", ""]]
    (output,) = model.graph.output
    return Good(
        model,
        [{"text": np.array([[text] for text in rows], dtype=object)} for rows in requests],
        answers=[{output.name: vectorizer.transform(rows).toarray().astype(np.float32)} for rows in requests],
    )


def normalizer(source: str, target: str, locale: str | None = None) -> NodeProto:
    """Text in lower case by the rules of `locale`, by default en_US.UTF-8."""
    attributes = {} if locale is None else {"locale": locale}
    return helper.make_node(
        "StringNormalizer", [source], [target], case_change_action="LOWER", is_case_sensitive=1, **attributes
    )


def text_case() -> Good:
    """Lower case of many alphabets, like Python's except for the two words in which a letter
    depends on others.

    ONNX Runtime changes letter by letter. Python writes a sigma at the end of a word as `ς`, and
    `İ` as two letters.
    """
    words = [
        "PLAIN ascii 123",
        "ÀÉÎÕÜ ÇÑØÅ ŁŽŠ",
        "GROẞE STRASSE, Straße",
        "ΑΒΓΔ ΣΊΣΥΦΕ ΆΈΉ",
        "ПРИВЕТ, ЁЖИК ЇЄҐ",
        "ԲԱՐԵՎ ՀԱՅԵՐ",
        "ႠႡႢ ᲐᲑᲒ აბგ",
        "ISPARTA ILIK",
        "ᎠᎡᎢ ꭰꭱ",
        "ＦＵＬＬ Ｗｉｄｔｈ",
        "𐐀𐐁𐐂 𐐨",
        "ⰀⰁ ⲀⲂ 𞤀𞤁 𐲀",
        "ǅ ǈ Ω K Å",
        "日本語 한국어 हिन्दी العربية 🚢",
        "",
    ]
    dependent = {"ΟΔΥΣΣΕΥΣ": "οδυσσευσ", "İZMİR": "izmir"}
    model = make_model(
        [normalizer("text", "lower")],
        [value("text", TensorProto.STRING, ["n"])],
        [value("lower", TensorProto.STRING, ["n"])],
    )
    return Good(
        model,
        [{"text": np.array(words, dtype=object)}, {"text": np.array(list(dependent), dtype=object)}],
        answers=[
            {"lower": np.array([word.lower() for word in words], dtype=object)},
            {"lower": np.array(list(dependent.values()), dtype=object)},
        ],
    )


def text_locales() -> Good:
    """The locales that exports name. Those of nearly all languages have the same rules; C knows
    only ASCII.
    """
    names = {"british": "en_GB.UTF-8", "german": "de_DE.UTF-8", "windows": "en-US", "short": "fr_CA", "plain": "C"}
    model = make_model(
        [normalizer("text", output, locale) for output, locale in names.items()],
        [value("text", TensorProto.STRING, ["n"])],
        [value(output, TensorProto.STRING, ["n"]) for output in names],
    )
    words = ["ÄRGER", "Ice", "ÇA"]
    lower = np.array([word.lower() for word in words], dtype=object)
    answers = dict.fromkeys(names, lower) | {"plain": np.array(["Ärger", "ice", "Ça"], dtype=object)}
    return Good(model, [{"text": np.array(words, dtype=object)}], answers=[answers])


def sequence() -> Good:
    """One output that is a sequence of tensors: the rows of the input."""
    kind = helper.make_tensor_type_proto(TensorProto.FLOAT, None)
    output = helper.make_value_info("rows", helper.make_sequence_type_proto(kind))
    node = helper.make_node("SplitToSequence", ["x"], ["rows"], axis=0, keepdims=0)
    return Good(make_model([node], [floats("x", ["n", 2])], [output]), [{"x": array([1, 2], [3, 4], [5, 6])}])


def nan() -> Good:
    """Answers with numbers that JSON cannot express."""
    nodes = [helper.make_node("Div", ["x", "y"], ["quotient"])]
    model = make_model(nodes, [floats("x", ["n"]), floats("y", ["n"])], [floats("quotient", ["n"])])
    return Good(model, [{"x": array(1, -1, 0, 3, math.nan, math.inf), "y": array(0, 0, 0, 2, 1, -2)}])


def empty_axis() -> Good:
    """Answers a request without rows: one output has no rows, and another is the sum of none."""
    nodes = [
        helper.make_node("MatMul", ["x", "w"], ["y"]),
        helper.make_node("ReduceSum", ["y", "first_axis"], ["total"], keepdims=0),
    ]
    model = make_model(
        nodes,
        [floats("x", ["rows", 3])],
        [floats("y", ["rows", 2]), floats("total", [2])],
        [constant("w", [[1, 2], [3, 4], [5, 6]]), constant("first_axis", [0], np.int64)],
    )
    return Good(model, [{"x": np.zeros((0, 3), np.float32)}, {"x": array([1, 0, 1], [0, 2, 0])}])


def int_divide() -> Good:
    """Integer division, which on x86-64 traps for the smallest integer by -1: request data that
    ends a process.
    """
    shape = [value(name, TensorProto.INT64, ["n"]) for name in ("a", "b", "q")]
    model = make_model([helper.make_node("Div", ["a", "b"], ["q"])], shape[:2], shape[2:])
    return Good(model, [{"a": array(7, -7, 2**62, dtype=np.int64), "b": array(2, 2, -1, dtype=np.int64)}])


def allocate() -> Good:
    """Allocates a float32 tensor of the shape that the request gives, and sums its ones."""
    one = helper.make_tensor("one", TensorProto.FLOAT, [1], [1.0])
    nodes = [
        helper.make_node("ConstantOfShape", ["shape"], ["ones"], value=one),
        helper.make_node("ReduceSum", ["ones"], ["total"], keepdims=0),
    ]
    model = make_model(nodes, [value("shape", TensorProto.INT64, ["rank"])], [floats("total", [])])
    return Good(model, [{"shape": np.array(shape, np.int64)} for shape in ([3, 4], [1000], [0, 5])])


def spin() -> Good:
    """Works as long as the request says: `iterations` products of 64x64 matrices, one after the
    other.

    The state starts as the identity matrix, and each product applies a cyclic shift. `position` is
    the column of the one in the first row: `iterations` modulo 64, which shows that each product
    was computed.
    """
    size = 64
    body = helper.make_graph(
        [
            helper.make_node("Identity", ["go_on"], ["going_on"]),
            helper.make_node("MatMul", ["state", "shift"], ["shifted"]),
        ],
        "body",
        [
            value("iteration", TensorProto.INT64, []),
            value("go_on", TensorProto.BOOL, []),
            floats("state", [size, size]),
        ],
        [value("going_on", TensorProto.BOOL, []), floats("shifted", [size, size])],
    )
    zero = helper.make_tensor("zero", TensorProto.FLOAT, [1], [0.0])
    nodes = [
        helper.make_node("ConstantOfShape", ["shape"], ["blank"], value=zero),
        helper.make_node("EyeLike", ["blank"], ["start"]),
        helper.make_node("EyeLike", ["blank"], ["above"], k=1),
        helper.make_node("EyeLike", ["blank"], ["corner"], k=1 - size),
        helper.make_node("Add", ["above", "corner"], ["shift"]),
        helper.make_node("Loop", ["iterations", "", "start"], ["end"], body=body),
        helper.make_node("Gather", ["end", "first"], ["row"], axis=0),
        helper.make_node("MatMul", ["row", "places"], ["position"]),
    ]
    initializers = [
        constant("shape", [size, size], np.int64),
        constant("first", 0, np.int64),
        constant("places", np.arange(size)),
    ]
    model = make_model(nodes, [value("iterations", TensorProto.INT64, [])], [floats("position", [])], initializers)
    return Good(model, [{"iterations": np.array(count, np.int64)} for count in (0, 1, 100)])


def turns(start: str, end: str, size: int, count: int) -> tuple[list[NodeProto], list[TensorProto]]:
    """`count` products of `start` with a cyclic shift, one after the other. Each takes some
    microseconds, for one row nearly as many as for a hundred. Sums of powers of two stay exact.
    """
    body = helper.make_graph(
        [
            helper.make_node("Identity", ["go_on"], ["going_on"]),
            helper.make_node("MatMul", ["state", "shift"], ["shifted"]),
        ],
        "body",
        [
            value("iteration", TensorProto.INT64, []),
            value("go_on", TensorProto.BOOL, []),
            floats("state", ["rows", size]),
        ],
        [value("going_on", TensorProto.BOOL, []), floats("shifted", ["rows", size])],
    )
    nodes = [helper.make_node("Loop", ["count", "", start], [end], body=body)]
    return nodes, [constant("shift", np.roll(np.eye(size), 1, axis=1)), constant("count", count, np.int64)]


def lookup() -> Good:
    """Takes milliseconds for any number of rows, and refuses ids from 16 on. Each row sums the
    embeddings of its ids, and the products turn the sum by one position in total.
    """
    table = np.arange(16 * 8).reshape(16, 8) / 4
    loop, initializers = turns("sums", "turned", 8, 2001)
    nodes = [
        helper.make_node("Gather", ["table", "ids"], ["embedded"]),
        helper.make_node("ReduceSum", ["embedded", "second_axis"], ["sums"], keepdims=0),
        *loop,
        helper.make_node("Gather", ["ids", "none"], ["first"], axis=1),
    ]
    model = make_model(
        nodes,
        [value("ids", TensorProto.INT64, ["batch", "width"])],
        [floats("turned", ["batch", 8]), value("first", TensorProto.INT64, ["batch"])],
        [
            *initializers,
            constant("table", table),
            constant("second_axis", [1], np.int64),
            constant("none", 0, np.int64),
        ],
    )
    return Good(model, [{"ids": array([3, 4], dtype=np.int64)}, {"ids": array([1], [15], dtype=np.int64)}])


def one_more() -> Good:
    """Takes milliseconds, and returns one row more than its input has."""
    loop, initializers = turns("x", "turned", 2, 2000)
    nodes = [*loop, helper.make_node("Concat", ["turned", "last"], ["y"], axis=0)]
    initializers.append(constant("last", [[-1, -1]]))
    model = make_model(nodes, [floats("x", ["n", 2])], [floats("y", ["m", 2])], initializers)
    return Good(model, [{"x": array([1, 2])}, {"x": array([1, 2], [3, 4])}])


def scale() -> Good:
    """Multiplies by 1234.5, whose four bytes occur once in the file: changing them makes another
    model.
    """
    nodes = [helper.make_node("Mul", ["x", "c"], ["y"])]
    factor = constant("c", 1234.5)
    model = make_model(nodes, [floats("x", ["n"])], [floats("y", ["n"])], [factor])
    if model.SerializeToString().count(factor.raw_data) != 1:
        raise AssertionError("scale: the bytes of the factor must occur exactly once")
    return Good(model, [{"x": array(1, 2, -0.5)}])


def external_weights() -> Good:
    """External weights in a separate file."""
    weights = np.random.default_rng(SEED).normal(size=(16, 4)).astype("<f4")
    nodes = [helper.make_node("MatMul", ["x", "w"], ["y"])]
    tensor = external("w", weights.shape, "weights.bin")
    model = make_model(nodes, [floats("x", ["n", 16])], [floats("y", ["n", 4])], [tensor])
    return Good(model, [{"x": np.eye(16, dtype=np.float32)[:2]}], {"weights.bin": weights.tobytes()})


def external_big() -> Good:
    """External weights of 8 MiB in `weights.bin`, 1024 x 2048 float32, which the test has to
    write.
    """
    nodes = [
        helper.make_node("MatMul", ["x", "w"], ["products"]),
        helper.make_node("ReduceSum", ["products", "last_axis"], ["total"], keepdims=0),
    ]
    initializers = [external("w", (1024, 2048), "weights.bin"), constant("last_axis", [1], np.int64)]
    return Good(make_model(nodes, [floats("x", ["n", 1024])], [floats("total", ["n"])], initializers))


def ort_format() -> Good:
    """A small classifier in ONNX Runtime's own format."""
    return replace(mlp(), in_ort_format=True)


# Bad artifacts


def only_model(content: bytes | ModelProto) -> Files:
    """An artifact with only `model.onnx`."""
    return {"model.onnx": serialize(content) if isinstance(content, ModelProto) else content}


def negate(**changes: Any) -> ModelProto:
    """The model of `vector` with one difference."""
    return make_model([helper.make_node("Neg", ["x"], ["y"])], [floats("x", ["n"])], [floats("y", ["n"])], **changes)


def add_weight(weight: TensorProto) -> ModelProto:
    """A model that adds the initializer `weight` to its input."""
    return make_model([helper.make_node("Add", ["x", "w"], ["y"])], [floats("x", ["n"])], [floats("y", None)], [weight])


def truncated() -> Files:
    """An interrupted download."""
    content = serialize(mlp().model)
    return only_model(content[: len(content) // 2])


def garbage() -> Files:
    """Random bytes."""
    return only_model(np.random.default_rng(SEED).bytes(512))


def text() -> Files:
    """The error page that a download wrote in place of the model."""
    return only_model(
        b"<!DOCTYPE html>\n<html><head><title>403 Forbidden</title></head><body>Forbidden</body></html>\n"
    )


def unknown_operator(domain: str) -> Files:
    """An operator that its domain does not define."""
    node = helper.make_node("Frobnicate", ["x"], ["y"], domain=domain)
    return only_model(
        make_model([node], [floats("x", ["n"])], [floats("y", ["n"])], opsets={"": OPSET} | {domain: OPSET})
    )


def locale_turkish() -> Files:
    """Turkish in a country that does not exist."""
    shape = [value(name, TensorProto.STRING, ["n"]) for name in ("text", "lower")]
    return only_model(make_model([normalizer("text", "lower", "tr_ZZ.UTF-8")], shape[:1], shape[1:]))


def bad_initializer() -> Files:
    """An initializer that declares four numbers and stores two."""
    return only_model(add_weight(TensorProto(name="w", data_type=TensorProto.FLOAT, dims=[4], raw_data=bytes(8))))


def negative_dimension() -> Files:
    """A 9x9 kernel over a 2x2 image: shape inference declares the output as [1, 1, -6, -6]."""
    nodes = [helper.make_node("Conv", ["x", "w"], ["y"])]
    kernel = constant("w", np.ones((1, 1, 9, 9)))
    return only_model(make_model(nodes, [floats("x", [1, 1, 2, 2])], [floats("y", None)], [kernel]))


def external_at(location: str) -> Files:
    """External weights in a file that the archive must not name, or does not have."""
    return only_model(add_weight(external("w", [4], location)))


def ambiguous() -> Files:
    """Two models, neither of them called `model.onnx`."""
    return {"first.onnx": serialize(vector().model), "second.onnx": serialize(scalar().model)}


def cyclic() -> Files:
    """Two nodes that wait for each other."""
    nodes = [helper.make_node("Add", ["x", "b"], ["a"]), helper.make_node("Neg", ["a"], ["b"])]
    return only_model(make_model(nodes, [floats("x", ["n"])], [floats("b", ["n"])]))


def float8_input() -> Files:
    """A model whose request would have to contain float8 numbers."""
    nodes = [helper.make_node("Cast", ["x"], ["y"], to=TensorProto.FLOAT)]
    inputs = [value("x", TensorProto.FLOAT8E4M3FN, ["n"])]
    return only_model(make_model(nodes, inputs, [floats("y", ["n"])], opsets={"": 19}, ir_version=9))


def sequence_input() -> Files:
    """A model whose request would have to contain a sequence of tensors."""
    kind = helper.make_tensor_type_proto(TensorProto.FLOAT, None)
    inputs = [helper.make_value_info("x", helper.make_sequence_type_proto(kind))]
    nodes = [helper.make_node("SequenceAt", ["x", "first"], ["y"])]
    return only_model(make_model(nodes, inputs, [floats("y", None)], [constant("first", 0, np.int64)]))


def huge_declared() -> Files:
    """An initializer that declares 2^60 numbers and stores none."""
    return only_model(add_weight(TensorProto(name="w", data_type=TensorProto.FLOAT, dims=[1 << 60])))


def function_bomb() -> Files:
    """Local functions, each of which calls the one below twice: 2^28 nodes once they are inlined.
    """
    opsets = {"": OPSET, LOCAL_DOMAIN: 1}
    imports = [helper.make_opsetid(domain, version) for domain, version in opsets.items()]
    functions = []
    below, domain = "Neg", ""
    for level in range(28):
        nodes = [
            helper.make_node(below, ["a"], ["between"], domain=domain),
            helper.make_node(below, ["between"], ["b"], domain=domain),
        ]
        below, domain = f"f{level}", LOCAL_DOMAIN
        functions.append(helper.make_function(domain, below, ["a"], ["b"], nodes, imports))
    top = helper.make_node(below, ["x"], ["y"], domain=domain)
    return only_model(make_model([top], [floats("x", ["n"])], [floats("y", ["n"])], functions=functions, opsets=opsets))


def divide_crash() -> Files:
    """Divides the smallest integer by -1. Both are constants, so the load divides them."""
    nodes = [
        helper.make_node("Div", ["smallest", "minus_one"], ["quotient"]),
        helper.make_node("Add", ["x", "quotient"], ["y"]),
    ]
    shape = [value(name, TensorProto.INT64, ["n"]) for name in ("x", "y")]
    initializers = [constant("smallest", -(2**63), np.int64), constant("minus_one", -1, np.int64)]
    return only_model(make_model(nodes, shape[:1], shape[1:], initializers))


# Cases


def serialize(model: ModelProto) -> bytes:
    """The bytes of a model, the same each time."""
    content: bytes = model.SerializeToString(deterministic=True)
    return content


def to_ort_format(model: ModelProto) -> bytes:
    """The model as ONNX Runtime writes it, with only those optimisations that suit every machine.
    """
    with tempfile.TemporaryDirectory() as scratch:
        path = Path(scratch, "model.ort")
        options = ort.SessionOptions()
        options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_ENABLE_BASIC
        options.optimized_model_filepath = str(path)
        options.add_session_config_entry("session.save_model_format", "ORT")
        ort.InferenceSession(serialize(model), options, providers=["CPUExecutionProvider"])
        return path.read_bytes()


def model_file(directory: Path) -> Path:
    """The model in a directory, in either format."""
    ort_file = directory / "model.ort"
    return ort_file if ort_file.exists() else directory / "model.onnx"


def provide_locales() -> None:
    """Provides the locales of text models to this process and its children.

    Slim systems lack them. All languages in the text models have the case rules of C.UTF-8.
    """
    folder = Path(tempfile.mkdtemp(prefix="locales-"))
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    for name in ("en_US.UTF-8", "en_GB.UTF-8", "de_DE.UTF-8", "en-US", "fr_CA"):
        (folder / name).symlink_to("/usr/lib/locale/C.utf8")
    os.environ["LOCPATH"] = str(folder)


def open_session(path: Path) -> ort.InferenceSession:
    """The model, loaded as a server loads it, without log lines."""
    options = ort.SessionOptions()
    options.intra_op_num_threads = 1
    options.log_severity_level = 4
    return ort.InferenceSession(path, options, providers=["CPUExecutionProvider"])


def run(session: ort.InferenceSession, inputs: Inputs) -> dict[str, Any]:
    """The outputs of ONNX Runtime, by name."""
    if any(data.dtype == bfloat16 for data in inputs.values()):
        answers = run_bfloat16(session, inputs)
    else:
        answers = session.run(None, inputs)
    return dict(zip((output.name for output in session.get_outputs()), answers, strict=True))


def run_bfloat16(session: ort.InferenceSession, inputs: Inputs) -> list[np.ndarray]:
    """The outputs of a model with only bfloat16, a type that ONNX Runtime does not return as a
    NumPy array.
    """
    make_value = ort.OrtValue.ortvalue_from_numpy_with_onnx_type
    feeds = {name: make_value(data, TensorProto.BFLOAT16) for name, data in inputs.items()}
    answers = []
    for answer in session.run_with_ort_values(None, feeds):
        shape = answer.shape()
        content = ctypes.string_at(answer.data_ptr(), np.dtype(bfloat16).itemsize * math.prod(shape))
        answers.append(np.frombuffer(content, bfloat16).reshape(shape))
    return answers


def to_json(answer: Any) -> Any:
    """A tensor, or a sequence or map of any depth, in the form of `cases.json`."""
    if isinstance(answer, np.ndarray):
        dtype = "string" if answer.dtype == object else answer.dtype.name
        return {"dtype": dtype, "shape": list(answer.shape), "data": [element(item) for item in answer.reshape(-1)]}
    return plain(answer)


def plain(answer: Any) -> Any:
    """A sequence, a map or an element of one, as plain JSON."""
    if isinstance(answer, dict):
        return {str(key): plain(item) for key, item in answer.items()}
    if isinstance(answer, list) or (isinstance(answer, np.ndarray) and answer.ndim > 0):
        return [plain(item) for item in answer]
    return element(answer)


def element(item: Any) -> bool | int | float | str:
    """One element of a tensor as JSON: a float32 has the fewest digits that distinguish it from
    its neighbours.
    """
    if isinstance(item, (bool, np.bool_)):
        return bool(item)
    if isinstance(item, (int, np.integer)):
        return int(item)
    if isinstance(item, str):
        return item
    number = float(str(item)) if isinstance(item, np.float32) else float(item)
    if math.isnan(number):
        return "NaN"
    if math.isinf(number):
        return "Infinity" if number > 0 else "-Infinity"
    return number


def from_json(tensor: dict[str, Any]) -> np.ndarray:
    """The array that `to_json` wrote."""
    name = tensor["dtype"]
    dtype: Any = {"string": object, "bfloat16": bfloat16}.get(name, name)
    data = tensor["data"]
    if np.dtype(dtype).name in ("float16", "bfloat16", "float32", "float64"):
        data = [float(item) for item in data]
    return np.array(data, dtype=dtype).reshape(tensor["shape"])


def cases(path: Path, requests: Sequence[Inputs], expected: Sequence[Inputs] | None) -> bytes:
    """`cases.json` for the model at `path`: one case a line, with the answers of ONNX Runtime or
    the given ones.
    """
    session = open_session(path)
    lines = []
    for inputs, answers in zip(requests, expected or [run(session, inputs) for inputs in requests], strict=True):
        case = {
            "inputs": {name: to_json(data) for name, data in inputs.items()},
            "outputs": {name: to_json(answer) for name, answer in answers.items()},
        }
        lines.append(json.dumps(case, ensure_ascii=False))
    return ("[\n" + ",\n".join(lines) + "\n]\n").encode()


# Checking


def same(expected: Any, actual: Any) -> bool:
    """Whether two JSON values are equal, with a tolerance for floating-point numbers."""
    if isinstance(expected, dict):
        return (
            isinstance(actual, dict)
            and expected.keys() == actual.keys()
            and all(same(expected[key], actual[key]) for key in expected)
        )
    if isinstance(expected, list):
        return isinstance(actual, list) and len(expected) == len(actual) and all(map(same, expected, actual))
    if isinstance(expected, float) and isinstance(actual, float):
        return math.isclose(expected, actual, rel_tol=RELATIVE_TOLERANCE, abs_tol=ABSOLUTE_TOLERANCE)
    return type(expected) is type(actual) and bool(expected == actual)


def check_good(directory: Path) -> list[str]:
    """The problems of a good model's committed files; normally none."""
    session = open_session(model_file(directory))
    problems = []
    for number, case in enumerate(json.loads((directory / "cases.json").read_bytes())):
        answers = run(session, {name: from_json(tensor) for name, tensor in case["inputs"].items()})
        actual = {name: to_json(answer) for name, answer in answers.items()}
        if not same(case["outputs"], actual):
            problems.append(f"case {number}: ONNX Runtime answers {json.dumps(actual)}")
    return problems


def check_external_big(directory: Path) -> list[str]:
    """The same for `external_big`, whose weights are written here, all of them 0.5."""
    with tempfile.TemporaryDirectory() as scratch:
        copy = Path(shutil.copytree(directory, scratch, dirs_exist_ok=True))
        (copy / "weights.bin").write_bytes(np.full(1024 * 2048, 0.5, "<f4").tobytes())
        answers = run(open_session(copy / "model.onnx"), {"x": np.ones((1, 1024), np.float32)})
    total = answers["total"].tolist()
    return [] if total == [1024 * 2048 * 0.5] else [f"the total is {total}"]


def load(path: Path, report: Connection) -> None:
    """Loads a model in a process that may not survive it, and reports the outcome."""
    try:
        open_session(path)
    except Exception as error:  # noqa: BLE001 - ONNX Runtime's errors share no base of their own
        report.send(str(error))
    else:
        report.send("loads")


def try_to_load(path: Path) -> str:
    """The outcome of a load: "loads", the error's text, "busy" or "killed by SIGNAL"."""
    context = multiprocessing.get_context("spawn")
    receiver, sender = context.Pipe(duplex=False)
    process = context.Process(target=load, args=(path, sender))
    process.start()
    sender.close()
    try:
        return receiver.recv() if receiver.poll(BUSY_AFTER_SECONDS) else "busy"
    except EOFError:
        process.join()
        return f"killed by {signal.Signals(-(process.exitcode or 0)).name}"
    finally:
        process.kill()
        process.join()
        receiver.close()


def check_bad(directory: Path, expected: str | None) -> list[str]:
    """The problems of a bad artifact's committed files: a load has another outcome than recorded.
    """
    if expected is None:
        return ["there is a model.onnx"] if (directory / "model.onnx").exists() else []
    outcome = try_to_load(directory / "model.onnx")
    print(f"    {outcome}")
    return [] if expected in outcome else [f"the outcome must contain {expected!r}"]


def check(root: Path) -> int:
    """Tries every model under `root`, and returns the number of problems."""
    wrong = 0
    with tempfile.TemporaryDirectory() as scratch:
        bad = Path(shutil.copytree(root / "bad", Path(scratch, "bad")))
        (bad / "secret.bin").write_bytes(bytes(16))  # the file that external_parent names exists
        checks: dict[str, Callable[[], list[str]]] = {}
        for name in GOOD:
            tried = check_external_big if name == "external_big" else check_good
            checks[name] = partial(tried, root / name)
        for name, artifact in BAD.items():
            checks[f"bad/{name}"] = partial(check_bad, bad / name, artifact.outcome)
        for name, problems_of in checks.items():
            print(name)
            for problem in problems_of():
                print(f"    WRONG: {problem}")
                wrong += 1
    print(f"{len(checks)} models tried, {wrong} problems")
    return wrong


# Writing


def write_directory(directory: Path, files: Files) -> None:
    """Replaces the directory by one with exactly these files."""
    shutil.rmtree(directory, ignore_errors=True)
    directory.mkdir(parents=True)
    for name, content in files.items():
        (directory / name).write_bytes(content)


def write(root: Path) -> None:
    """Writes every model under `root`."""
    for name, build in GOOD.items():
        good = build()
        model = {"model.ort": to_ort_format(good.model)} if good.in_ort_format else only_model(good.model)
        write_directory(root / name, model | good.files)
        if good.requests:
            (root / name / "cases.json").write_bytes(cases(model_file(root / name), good.requests, good.answers))
    for name, bad in BAD.items():
        write_directory(root / "bad" / name, bad.build() | {"why.txt": f"{bad.why}\n".encode()})


GOOD: dict[str, Callable[[], Good]] = {
    "mlp": mlp,
    "identity_float16": partial(identity_float, np.float16, 65504.0, 2.0**-24),
    "identity_bfloat16": partial(identity_float, bfloat16, (2 - 2.0**-7) * 2.0**127, 2.0**-133),
    "identity_float32": partial(identity_float, np.float32, float(np.finfo(np.float32).max), 2.0**-149),
    "identity_float64": partial(identity_float, np.float64, sys.float_info.max, 5e-324),
    "identity_int8": partial(identity_integer, np.int8),
    "identity_int16": partial(identity_integer, np.int16),
    "identity_int32": partial(identity_integer, np.int32),
    "identity_int64": partial(identity_integer, np.int64),
    "identity_uint8": partial(identity_integer, np.uint8),
    "identity_uint16": partial(identity_integer, np.uint16),
    "identity_uint32": partial(identity_integer, np.uint32),
    "identity_uint64": partial(identity_integer, np.uint64),
    "identity_bool": identity_bool,
    "identity_string": identity_string,
    "any_rank": any_rank,
    "scalar": scalar,
    "vector": vector,
    "two_inputs": two_inputs,
    "columns": columns,
    "iris_zipmap": partial(iris, None),
    "iris_zipmap_str": partial(iris, ["setosa", "versicolor", "virginica"]),
    "trees": trees,
    "text_tfidf": text_tfidf,
    "text_counts": text_counts,
    "text_case": text_case,
    "text_locales": text_locales,
    "sequence": sequence,
    "nan": nan,
    "empty_axis": empty_axis,
    "int_divide": int_divide,
    "allocate": allocate,
    "spin": spin,
    "lookup": lookup,
    "one_more": one_more,
    "scale": scale,
    "external": external_weights,
    "external_big": external_big,
    "ort_format": ort_format,
}

BAD: dict[str, Bad] = {
    "truncated": Bad("the file ends in the middle of the model", truncated, "INVALID_PROTOBUF"),
    "empty_file": Bad("model.onnx has no bytes", partial(only_model, b""), "No graph was found"),
    "empty_directory": Bad("there is no model at all", lambda: {".gitkeep": b""}, None),
    "garbage": Bad("the file holds random bytes", garbage, "INVALID_PROTOBUF"),
    "text": Bad("the file is a web page", text, "INVALID_PROTOBUF"),
    "opset_future": Bad(
        "it imports opset 999, which does not exist yet", lambda: only_model(negate(opsets={"": 999})), "opset"
    ),
    "ir_future": Bad(
        "its IR version is 999, which does not exist yet", lambda: only_model(negate(ir_version=999)), "IR version"
    ),
    "unknown_operator": Bad("it uses an operator that ONNX does not have", partial(unknown_operator, ""), "Frobnicate"),
    "unknown_domain": Bad(
        "it uses an operator of a domain that is not registered",
        partial(unknown_operator, "com.example.custom"),
        "com.example.custom",
    ),
    "locale_turkish": Bad(
        "it names the locale of a language with case rules of its own, in a country where no system has it",
        locale_turkish,
        "Failed to construct locale",
    ),
    "bad_initializer": Bad(
        "an initializer of 4 numbers stores the bytes of 2", bad_initializer, "does not match expected size"
    ),
    "negative_dimension": Bad(
        "it loads, but its output has the inferred shape [1, 1, -6, -6]: the kernel is larger than the image",
        negative_dimension,
        "loads",
    ),
    "external_parent": Bad(
        "its weights are in ../secret.bin, outside of the model's directory",
        partial(external_at, "../secret.bin"),
        "escapes model directory",
    ),
    "external_absolute": Bad(
        "its weights are in /etc/passwd", partial(external_at, "/etc/passwd"), "Absolute path not allowed"
    ),
    "external_missing": Bad(
        "its weights are in missing.bin, which is not there", partial(external_at, "missing.bin"), "does not exist"
    ),
    "ambiguous": Bad("it holds two .onnx files and none of them is model.onnx", ambiguous, None),
    "cyclic": Bad("two nodes wait for each other", cyclic, "not acyclic"),
    "float8_input": Bad("it loads, but no wire format carries its float8e4m3fn input", float8_input, "loads"),
    "sequence_input": Bad(
        "it loads, but no wire format carries its input, a sequence of tensors", sequence_input, "loads"
    ),
    "huge_declared": Bad(
        "an initializer claims 2^60 numbers and stores none", huge_declared, "exceeds the 2147483648 byte limit"
    ),
    "function_bomb": Bad(
        "28 local functions call each other twice: 2^28 nodes once inlined, which keeps ONNX Runtime loading for ages",
        function_bomb,
        "busy",
    ),
    "divide_crash": Bad(
        "loading it divides the smallest integer by -1, which ends the process with SIGFPE on x86-64",
        divide_crash,
        "killed by SIGFPE",
    ),
}


def main() -> int:
    """Writes the models, or checks them."""
    parser = argparse.ArgumentParser(description="Writes the test models beside this file.")
    parser.add_argument("--check", action="store_true", help="try the existing files with ONNX Runtime")
    arguments = parser.parse_args()
    provide_locales()
    if arguments.check:
        return 1 if check(ROOT) else 0
    write(ROOT)
    return 0


if __name__ == "__main__":
    sys.exit(main())
