"""Networks in the patterns of PyTorch's and TensorFlow's exporters, and their quantised forms."""

from __future__ import annotations

import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import onnx
from onnx import ModelProto, TensorProto, helper, numpy_helper

FLOAT, INT64 = TensorProto.FLOAT, TensorProto.INT64


class Builder:
    """Adds nodes, names their outputs, and invents weights."""

    def __init__(self) -> None:
        self.nodes, self.constants, self.random = [], [], np.random.default_rng(1)

    def __call__(self, operator: str, *inputs: str, count: int = 1, name: str = "", domain: str = "", **attributes):
        outputs = [name or f"v{len(self.nodes)}_{index}" for index in range(count)]
        self.nodes.append(helper.make_node(operator, list(inputs), outputs, f"{operator}_{len(self.nodes)}", domain=domain, **attributes))
        return outputs[0] if count == 1 else outputs

    def const(self, value, dtype=np.int64) -> str:
        name = f"c{len(self.constants)}"
        self.constants.append(numpy_helper.from_array(np.array(value, dtype), name))
        return name

    def weight(self, *shape: int) -> str:
        scale = np.sqrt(2 / max(1, int(np.prod(shape[1:]))))
        return self.const(self.random.standard_normal(shape) * scale, np.float32)

    def dim(self, x: str, axis: int) -> str:
        """`x.shape[axis]` as PyTorch writes it."""
        return self("Gather", self("Shape", x), self.const(axis), axis=0)

    def sizes(self, *parts) -> str:
        """A list of sizes from values of the graph and from numbers."""
        parts = [self.const([part]) if isinstance(part, int) else self("Unsqueeze", part, self.const([0])) for part in parts]
        return self("Concat", *parts, axis=0)

    def linear(self, x: str, a: int, b: int) -> str:
        return self("Add", self("MatMul", x, self.weight(a, b)), self.weight(b))

    def model(self, inputs, outputs, opset: int = 17) -> ModelProto:
        value = lambda name, kind, shape: helper.make_tensor_value_info(name, kind, shape)
        graph = helper.make_graph(self.nodes, "g", [value(*i) for i in inputs], [value(*o) for o in outputs], self.constants)
        imports = [helper.make_opsetid("", opset), helper.make_opsetid("com.microsoft", 1)]
        return helper.make_model(graph, opset_imports=imports, ir_version=8)


def mlp(head: str) -> ModelProto:
    g = Builder()
    h = g("Relu", g("Gemm", "x", g.weight(64, 32), g.weight(64), transB=1))
    h = g("Relu", g("Gemm", h, g.weight(64, 64), g.weight(64), transB=1))
    y = g("Gemm", h, g.weight(8, 64), g.weight(8), transB=1)
    if head == "softmax":
        g("Softmax", y, name="y", axis=-1)
        return g.model([("x", FLOAT, ["batch", 32])], [("y", FLOAT, ["batch", 8])])
    if head == "label":
        g("ArgMax", y, name="y", axis=1, keepdims=0)
        return g.model([("x", FLOAT, ["batch", 32])], [("y", INT64, ["batch"])])
    if head == "batchnorm":
        y = g("BatchNormalization", y, *(g.const(np.ones(8), np.float32) for _ in range(4)))
    if head == "standardised":
        y = g("Sub", y, g("ReduceMean", y, axes=[0], keepdims=1))
    g("Identity", y, name="y")
    return g.model([("x", FLOAT, ["batch", 32])], [("y", FLOAT, ["batch", 8])])


def cnn(tail: str) -> ModelProto:
    g = Builder()
    h = g("Relu", g("Conv", "x", g.weight(8, 3, 3, 3), g.weight(8), pads=[1] * 4, kernel_shape=[3, 3]))
    h = g("MaxPool", h, kernel_shape=[2, 2], strides=[2, 2])
    c = g("Conv", h, g.weight(8, 8, 3, 3), g.weight(8), pads=[1] * 4, kernel_shape=[3, 3])
    h = g("Relu", g("Add", c, h))
    size = 8 * 16 * 16
    if tail == "flatten":
        h = g("Flatten", h, axis=1)
    elif tail == "view":
        h = g("Reshape", h, g.const([-1, size]))
    elif tail == "shape":
        h = g("Reshape", h, g.sizes(g.dim(h, 0), -1))
    elif tail == "mean":
        h, size = g("ReduceMean", h, axes=[2, 3], keepdims=0), 8
    elif tail == "wrong":
        h = g("Reshape", h, g.const([-1, 16]))
        h = g("Softmax", g("Transpose", h, perm=[1, 0]), axis=1)
        h = g("Reshape", g("Transpose", h, perm=[1, 0]), g.const([-1, size]))
    else:
        h, size = g("Flatten", g("GlobalAveragePool", h)), 8
    g("Gemm", h, g.weight(size, 10), g.weight(10), name="y")
    return g.model([("x", FLOAT, ["batch", 3, 32, 32])], [("y", FLOAT, ["batch", 10])])


def unet() -> ModelProto:
    g = Builder()
    conv = lambda x, a, b: g("Relu", g("Conv", x, g.weight(b, a, 3, 3), g.weight(b), pads=[1] * 4))
    a = conv("x", 3, 4)
    b = conv(g("MaxPool", a, kernel_shape=[2, 2], strides=[2, 2]), 4, 8)
    up = g("Resize", b, "", g.const([1, 1, 2, 2], np.float32), mode="nearest")
    y = g("Concat", up, a, axis=1)
    other = g("ConvTranspose", b, g.weight(8, 4, 2, 2), strides=[2, 2])
    y = conv(g("Concat", y, other, axis=1), 16, 4)
    # Like `F.interpolate(y, scale_factor=2)` in older exports.
    sizes = g("Cast", g("Floor", g("Mul", g("Cast", g("Slice", g("Shape", y), g.const([2]), g.const([4]), g.const([0])), to=FLOAT), g.const([2, 2], np.float32))), to=INT64)
    whole = g("Concat", g("Slice", g("Shape", y), g.const([0]), g.const([2]), g.const([0])), sizes, axis=0)
    y = g("Resize", y, "", "", whole, mode="linear")
    g("Conv", y, g.weight(2, 4, 1, 1), g.weight(2), name="y")
    return g.model([("x", FLOAT, ["batch", 3, "height", "width"])], [("y", FLOAT, ["batch", 2, "h2", "w2"])])


def encoder(style: str, layers: int = 2, d: int = 32, heads: int = 4) -> ModelProto:
    """BERT as PyTorch exports it, with shapes computed in the graph. `steps_first` is
    `nn.TransformerEncoder`.
    """
    g = Builder()
    ids, mask = "ids", "mask"
    h = g("Gather", g.weight(100, d), ids)
    length = g.dim(ids, 1)
    positions = g("Slice", g.const([list(range(64))]), g.const([0]), g("Unsqueeze", length, g.const([0])), g.const([1]))
    h = g("Add", h, g("Gather", g.weight(64, d), positions))
    norm = lambda x: g("LayerNormalization", x, g.const(np.ones(d), np.float32), g.const(np.zeros(d), np.float32), axis=-1)

    def old_norm(x):
        centred = g("Sub", x, g("ReduceMean", x, axes=[-1]))
        deviation = g("Sqrt", g("Add", g("ReduceMean", g("Pow", centred, g.const(2, np.float32)), axes=[-1]), g.const(1e-5, np.float32)))
        return g("Add", g("Mul", g("Div", centred, deviation), g.weight(d)), g.weight(d))

    if style == "old":
        norm = old_norm
    h = norm(h)
    if style == "expanded":
        # As in transformers' scaled_dot_product_attention.
        wide = g("Unsqueeze", g("Unsqueeze", mask, g.const([1])), g.const([2]))
        target = g.sizes(g.dim(mask, 0), 1, g.dim(mask, 1), g.dim(mask, 1))
        ones = g("ConstantOfShape", g.const([4]), value=numpy_helper.from_array(np.array([1], np.int64)))
        is_open = g("Equal", target, g("Mul", ones, g.const(-1)))
        m = g("Expand", wide, g("Where", is_open, ones, target))
    else:
        m = g("Unsqueeze", g("Unsqueeze", mask, g.const([1])), g.const([2]))
    m = g("Mul", g("Sub", g.const(1, np.float32), g("Cast", m, to=FLOAT)), g.const(-10000, np.float32))
    for _ in range(layers):
        q, k, v = (g.linear(h, d, d) for _ in range(3))
        if style == "steps_first":
            # [n, s, d] -> [s, n * heads, d / heads] -> [n * heads, s, d / heads]
            parts = []
            for part in (q, k, v):
                part = g("Transpose", part, perm=[1, 0, 2])
                shape = g.sizes(g.dim(part, 0), g("Mul", g.dim(part, 1), g.const(heads)), d // heads)
                parts.append(g("Transpose", g("Reshape", part, shape), perm=[1, 0, 2]))
            q, k, v = parts
            w = g("Softmax", g("MatMul", q, g("Transpose", k, perm=[0, 2, 1])), axis=-1)
            a = g("Transpose", g("MatMul", w, v), perm=[1, 0, 2])
            steps = g("Transpose", h, perm=[1, 0, 2])
            flat = g("Reshape", a, g.sizes(g("Mul", g.dim(steps, 0), g.dim(steps, 1)), d))
            flat = g("Gemm", flat, g.weight(d, d), g.weight(d))
            a = g("Transpose", g("Reshape", flat, g.sizes(g.dim(steps, 0), g.dim(steps, 1), d)), perm=[1, 0, 2])
        else:
            def split(x):
                if style in ("zeros", "old"):
                    shape = g.const([0, 0, heads, d // heads])
                elif style == "minus":
                    shape = g.sizes(g.dim(x, 0), -1, heads, d // heads)
                else:
                    shape = g.sizes(g.dim(x, 0), g.dim(x, 1), heads, d // heads)
                return g("Reshape", x, shape)
            q = g("Transpose", split(q), perm=[0, 2, 1, 3])
            k = g("Transpose", split(k), perm=[0, 2, 3, 1])
            v = g("Transpose", split(v), perm=[0, 2, 1, 3])
            scores = g("Add", g("Div", g("MatMul", q, k), g.const((d / heads) ** .5, np.float32)), m)
            a = g("Transpose", g("MatMul", g("Softmax", scores, axis=-1), v), perm=[0, 2, 1, 3])
            if style in ("zeros", "old"):
                shape = g.const([0, 0, d])
            elif style == "minus":
                shape = g.sizes(g.dim(a, 0), -1, d)
            else:
                shape = g.sizes(g.dim(a, 0), g.dim(a, 1), d)
            a = g.linear(g("Reshape", a, shape), d, d)
        h = norm(g("Add", a, h))
        f = g.linear(h, d, 4 * d)
        f = g("Mul", g("Mul", f, g("Add", g("Erf", g("Div", f, g.const(2 ** .5, np.float32))), g.const(1, np.float32))), g.const(.5, np.float32))
        h = norm(g("Add", g.linear(f, 4 * d, d), h))
    if style == "pooled":
        wide = g("Cast", g("Expand", g("Unsqueeze", mask, g.const([2])), g("Shape", h)), to=FLOAT)
        total = g("ReduceSum", g("Mul", h, wide), g.const([1]), keepdims=0)
        mean = g("Div", total, g("Clip", g("ReduceSum", wide, g.const([1]), keepdims=0), g.const(1e-9, np.float32)))
        length = g("Clip", g("ReduceL2", mean, axes=[1], keepdims=1), g.const(1e-12, np.float32))
        g("Div", mean, g("Expand", length, g("Shape", mean)), name="y")
    else:
        first = g("Gather", h, g.const(0), axis=1)
        g("Gemm", g("Tanh", g("Gemm", first, g.weight(d, d), g.weight(d))), g.weight(d, 3), g.weight(3), name="y")
    return g.model([("ids", INT64, ["batch", "length"]), ("mask", INT64, ["batch", "length"])], [("y", FLOAT, ["batch", None])])


def vit() -> ModelProto:
    g = Builder()
    d = 16
    h = g("Conv", "x", g.weight(d, 3, 8, 8), g.weight(d), strides=[8, 8], kernel_shape=[8, 8])
    h = g("Transpose", g("Reshape", h, g.sizes(g.dim(h, 0), d, -1)), perm=[0, 2, 1])
    token = g("Expand", g.const(np.zeros((1, 1, d)), np.float32), g.sizes(g.dim("x", 0), -1 + 2, d))
    h = g("Add", g("Concat", token, h, axis=1), g.const(np.ones((1, 17, d)), np.float32))
    three = g("Reshape", g.linear(h, d, 3 * d), g.sizes(g.dim(h, 0), 17, 3, 2, d // 2))
    three = g("Transpose", three, perm=[2, 0, 3, 1, 4])
    q, k, v = (g("Gather", three, g.const(index), axis=0) for index in range(3))
    w = g("Softmax", g("MatMul", q, g("Transpose", k, perm=[0, 1, 3, 2])), axis=-1)
    a = g("Transpose", g("MatMul", w, v), perm=[0, 2, 1, 3])
    h = g("Add", h, g("Reshape", a, g.sizes(g.dim(a, 0), 17, d)))
    g("Gemm", g("Gather", h, g.const(0), axis=1), g.weight(d, 5), g.weight(5), name="y")
    return g.model([("x", FLOAT, ["batch", 3, 32, 32])], [("y", FLOAT, ["batch", 5])])


def recurrent(kind: str) -> ModelProto:
    """A recurrent network with the batch first, as PyTorch exports it: states of zeros are
    expanded.
    """
    g = Builder()
    gates = {"LSTM": 4, "GRU": 3, "RNN": 1}[kind]
    steps = g("Transpose", "x", perm=[1, 0, 2])
    zeros = lambda: g("Expand", g.const(np.zeros((1, 1, 16)), np.float32), g.sizes(1, g.dim("x", 0), 16))
    states = [zeros(), zeros()] if kind == "LSTM" else [zeros()]
    outputs = g(kind, steps, g.weight(1, gates * 16, 8), g.weight(1, gates * 16, 16), g.weight(1, 2 * gates * 16), "", *states, count=2, hidden_size=16)
    h = g("Transpose", g("Squeeze", outputs[0], g.const([1])), perm=[1, 0, 2])
    last = g("Slice", h, g.const([-1]), g.const([np.iinfo(np.int64).max]), g.const([1]))
    g("Gemm", g("Squeeze", last, g.const([1])), g.weight(16, 4), g.weight(4), name="y")
    return g.model([("x", FLOAT, ["batch", "steps", 8])], [("y", FLOAT, ["batch", 4])])


def recommender() -> ModelProto:
    g = Builder()
    h = g("Concat", g("Gather", g.weight(50, 8), "user"), g("Gather", g.weight(60, 8), "item"), "x", axis=1)
    h = g("Relu", g.linear(h, 20, 16))
    g("Squeeze", g("Sigmoid", g.linear(h, 16, 1)), g.const([1]), name="y")
    return g.model([("user", INT64, ["batch"]), ("item", INT64, ["batch"]), ("x", FLOAT, ["batch", 4])], [("y", FLOAT, ["batch"])])


def detector() -> ModelProto:
    g = Builder()
    chosen = g("NonMaxSuppression", "boxes", "scores", g.const([10]), g.const([0.5], np.float32))
    g("Cast", chosen, name="y", to=FLOAT)
    return g.model([("boxes", FLOAT, ["batch", 20, 4]), ("scores", FLOAT, ["batch", 2, 20])], [("y", FLOAT, ["found", 3])])


def last_token() -> ModelProto:
    """Takes the state of each record's last token by counting the records, like GPT-2 classifiers.
    """
    g = Builder()
    h = g("Gather", g.weight(100, 8), "ids")
    lengths = g("Sub", g("ReduceSum", g("Cast", g("Not", g("Equal", "ids", g.const(0))), to=INT64), g.const([1]), keepdims=0), g.const(1))
    lengths = g("Max", lengths, g.const(0))
    rows = g("Range", g.const(0), g.dim("ids", 0), g.const(1))
    both = g("Concat", g("Unsqueeze", rows, g.const([1])), g("Unsqueeze", lengths, g.const([1])), axis=1)
    g("GatherND", h, both, name="y")
    return g.model([("ids", INT64, ["batch", "length"])], [("y", FLOAT, ["batch", 8])])


def networks() -> Iterator[tuple[str, ModelProto]]:
    for head in ("plain", "softmax", "label", "batchnorm", "standardised"):
        yield f"mlp-{head}", mlp(head)
    for tail in ("flatten", "view", "shape", "mean", "pool", "wrong"):
        yield f"cnn-{tail}", cnn(tail)
    yield "unet", unet()
    for style in ("zeros", "shapes", "minus", "old", "expanded", "pooled", "steps_first"):
        yield f"encoder-{style}", encoder(style)
    yield "vit", vit()
    for kind in ("LSTM", "GRU", "RNN"):
        yield kind.lower(), recurrent(kind)
    yield "recommender", recommender()
    yield "detector", detector()
    yield "last-token", last_token()


def quantised(name: str, model: ModelProto) -> Iterator[tuple[str, bytes]]:
    """The network with eight-bit weights and activations, with dynamic and with static scales."""
    import logging

    from onnxruntime.quantization import CalibrationDataReader, QuantFormat, quantize_dynamic, quantize_static

    logging.disable(logging.WARNING)
    sizes = {"batch": 2, "length": 8, "steps": 5, "height": 16, "width": 16}

    class Reader(CalibrationDataReader):
        def __init__(self) -> None:
            random = np.random.default_rng(2)
            feed = {}
            for value in model.graph.input:
                dims = [dim.dim_value or sizes[dim.dim_param] for dim in value.type.tensor_type.shape.dim]
                is_int = value.type.tensor_type.elem_type == INT64
                feed[value.name] = random.integers(0, 2, dims) if is_int else random.standard_normal(dims).astype(np.float32)
            self.feeds = iter([feed])

        def get_next(self):
            return next(self.feeds, None)

    with tempfile.TemporaryDirectory() as folder:
        source, target = Path(folder) / "a.onnx", Path(folder) / "b.onnx"
        onnx.save(model, source)
        kinds = {
            "dynamic": lambda: quantize_dynamic(source, target),
            "qdq": lambda: quantize_static(source, target, Reader(), quant_format=QuantFormat.QDQ),
            "qoperator": lambda: quantize_static(source, target, Reader(), quant_format=QuantFormat.QOperator),
        }
        for kind, run in kinds.items():
            try:
                run()
                yield kind, target.read_bytes()
            except Exception as error:  # noqa: BLE001: not every network can be quantised in every way
                print(f"not quantised: {name}, {kind}: {error!r:.80}", file=sys.stderr)


def optimised(model: ModelProto) -> Iterator[tuple[str, bytes]]:
    """The network as ONNX Runtime saves it, with its fusions."""
    import onnxruntime

    with tempfile.TemporaryDirectory() as folder:
        options = onnxruntime.SessionOptions()
        options.log_severity_level = 3
        options.optimized_model_filepath = str(Path(folder) / "o.onnx")
        options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_EXTENDED
        onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
        yield "optimised", Path(folder, "o.onnx").read_bytes()
