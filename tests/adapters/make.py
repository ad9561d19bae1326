#!/usr/bin/env python3
"""Writes the base models and LoRA adapters in this folder, and the answers of ONNX Runtime.

    python3 -m venv .venv && .venv/bin/pip install -r tests/adapters/requirements.txt
    export ORT_DISABLE_TELEMETRY=1
    .venv/bin/python tests/adapters/make.py            # writes every file again
    .venv/bin/python tests/adapters/make.py --check    # changes no files, computes the answers again

The files are committed, so the test suite needs no Python for them. A second run writes the same
bytes.

A base model is `NAME.onnx`, of two layers. As in the exports of Olive, the matrices of the adapter
are inputs, and the size of their inner dimension is open:

- `optional.onnx`: each has a default with an inner dimension of 0, so the model also runs alone.
- `required.onnx`: they have no default.
- `mixing.onnx`: like `required.onnx`, but the rows of a request influence each other.

`spinning.onnx` works as long as the request says, and adds the one number of its adapter to 1. Its
adapters are `spinning_one` and `spinning_two`.

An adapter is `NAME.onnx_adapter`, in ONNX Runtime's own format. `cases.json` holds the answers of
ONNX Runtime with an adapter active, or with none: a list of

    {"base": NAME, "adapter": NAME or null, "x": rows, "y": rows}

`bad/NAME.onnx_adapter` is an adapter that a server must refuse.
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path

import numpy as np
import onnxruntime as ort
from onnx import TensorProto, checker, helper, numpy_helper

FOLDER = Path(__file__).parent
WIDTHS = [8, 6, 3]
RANKS = {"first": 2, "second": 4, "third": 1}
BASES = ["optional", "required", "mixing"]


def matrix(random: np.random.Generator, *shape: int) -> np.ndarray:
    return random.uniform(-1, 1, shape).astype(np.float32)


def names(layer: int) -> tuple[str, str]:
    return f"layers.{layer}.lora_A.weight", f"layers.{layer}.lora_B.weight"


def base(kind: str) -> bytes:
    random = np.random.default_rng(1)
    inputs = [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["batch", WIDTHS[0]])]
    nodes, initializers, value = [], [], "x"
    if kind == "mixing":
        nodes.append(helper.make_node("ReduceSum", ["x", "axis"], ["sum"], keepdims=1))
        nodes.append(helper.make_node("Sub", ["x", "sum"], ["centred"]))
        initializers.append(numpy_helper.from_array(np.array([0], dtype=np.int64), "axis"))
        value = "centred"
    for layer, (width, following) in enumerate(zip(WIDTHS, WIDTHS[1:])):
        first, second = names(layer)
        inputs.append(helper.make_tensor_value_info(first, TensorProto.FLOAT, [width, "lora_r"]))
        inputs.append(helper.make_tensor_value_info(second, TensorProto.FLOAT, ["lora_r", following]))
        if kind == "optional":
            initializers.append(numpy_helper.from_array(np.zeros((width, 0), dtype=np.float32), first))
            initializers.append(numpy_helper.from_array(np.zeros((0, following), dtype=np.float32), second))
        initializers.append(numpy_helper.from_array(matrix(random, width, following), f"w{layer}"))
        last = layer == len(WIDTHS) - 2
        nodes += [
            helper.make_node("MatMul", [value, f"w{layer}"], [f"dense{layer}"]),
            helper.make_node("MatMul", [value, first], [f"down{layer}"]),
            helper.make_node("MatMul", [f"down{layer}", second], [f"up{layer}"]),
            helper.make_node("Add", [f"dense{layer}", f"up{layer}"], ["y" if last else f"sum{layer}"]),
        ]
        if not last:
            nodes.append(helper.make_node("Tanh", [f"sum{layer}"], [f"tanh{layer}"]))
            value = f"tanh{layer}"
    graph = helper.make_graph(
        nodes,
        kind,
        inputs,
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["batch", WIDTHS[-1]])],
        initializers,
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)
    checker.check_model(model)
    return model.SerializeToString(deterministic=True)


def spinning() -> bytes:
    size = [64, 64]
    body = helper.make_graph(
        [
            helper.make_node("Identity", ["go_on"], ["going_on"]),
            helper.make_node("MatMul", ["state", "state"], ["next"]),
        ],
        "body",
        [
            helper.make_tensor_value_info("iteration", TensorProto.INT64, []),
            helper.make_tensor_value_info("go_on", TensorProto.BOOL, []),
            helper.make_tensor_value_info("state", TensorProto.FLOAT, size),
        ],
        [
            helper.make_tensor_value_info("going_on", TensorProto.BOOL, []),
            helper.make_tensor_value_info("next", TensorProto.FLOAT, size),
        ],
    )
    graph = helper.make_graph(
        [
            helper.make_node("ConstantOfShape", ["size"], ["blank"]),
            helper.make_node("EyeLike", ["blank"], ["start"]),
            helper.make_node("Loop", ["iterations", "", "start"], ["end"], body=body),
            helper.make_node("ReduceMax", ["end"], ["one"], keepdims=0),
            helper.make_node("Add", ["one", "more"], ["y"]),
        ],
        "spinning",
        [
            helper.make_tensor_value_info("iterations", TensorProto.INT64, []),
            helper.make_tensor_value_info("more", TensorProto.FLOAT, []),
        ],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, [])],
        [numpy_helper.from_array(np.array(size, dtype=np.int64), "size")],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)
    checker.check_model(model)
    return model.SerializeToString(deterministic=True)


def values(name: str) -> dict[str, np.ndarray]:
    rank = RANKS[name]
    random = np.random.default_rng(10 + rank)
    found = {}
    for layer, (width, following) in enumerate(zip(WIDTHS, WIDTHS[1:])):
        first, second = names(layer)
        found[first] = matrix(random, width, rank)
        found[second] = matrix(random, rank, following)
    return found


def write_adapter(path: Path, parameters: dict[str, np.ndarray]) -> None:
    adapter = ort.AdapterFormat()
    adapter.set_adapter_version(1)
    adapter.set_model_version(1)
    adapter.set_parameters({name: ort.OrtValue.ortvalue_from_numpy(value) for name, value in parameters.items()})
    adapter.export_adapter(str(path))


def bad() -> dict[str, dict[str, np.ndarray]]:
    good = values("first")
    first, second = names(0)
    return {
        "unknown_input": {"layers.7.lora_A.weight": good[first]} | good,
        "wrong_shape": good | {first: np.zeros((9, 2), dtype=np.float32)},
        "wrong_rank": good | {second: np.zeros((2, 6, 1), dtype=np.float32)},
        "wrong_type": good | {first: good[first].astype(np.float64)},
    }


def run(session: ort.InferenceSession, x: np.ndarray, options: ort.RunOptions) -> np.ndarray:
    # The public method demands the inputs that the adapter gives.
    (y,) = session._sess.run(["y"], {"x": x}, options)
    return y


def answers() -> list[dict]:
    random = np.random.default_rng(3)
    cases = []
    for kind in BASES:
        session = ort.InferenceSession(str(FOLDER / f"{kind}.onnx"), providers=["CPUExecutionProvider"])
        for adapter in [*RANKS, None]:
            if adapter is None and kind != "optional":
                continue
            x = matrix(random, 3, WIDTHS[0]).round(3)
            options = ort.RunOptions()
            if adapter is not None:
                loaded = ort.LoraAdapter()
                loaded.Load(str(FOLDER / f"{adapter}.onnx_adapter"))
                options.add_active_adapter(loaded)
            y = run(session, x, options)
            cases.append({"base": kind, "adapter": adapter, "x": x.tolist(), "y": y.tolist()})
    return cases


def check(cases: list[dict]) -> None:
    committed = json.loads((FOLDER / "cases.json").read_text())
    assert len(committed) == len(cases)
    for old, new in zip(committed, cases):
        assert {key: old[key] for key in ["base", "adapter"]} == {key: new[key] for key in ["base", "adapter"]}
        np.testing.assert_allclose(old["y"], new["y"], rtol=1e-5, atol=1e-6)
    different = {json.dumps(case["y"]) for case in cases}
    assert len(different) == len(cases), "each adapter has its own answers"
    session = ort.InferenceSession(str(FOLDER / "required.onnx"), providers=["CPUExecutionProvider"])
    for name in bad():
        loaded = ort.LoraAdapter()
        loaded.Load(str(FOLDER / "bad" / f"{name}.onnx_adapter"))
        options = ort.RunOptions()
        options.add_active_adapter(loaded)
        try:
            run(session, np.zeros((1, WIDTHS[0]), dtype=np.float32), options)
        except Exception:
            continue
        raise AssertionError(f"ONNX Runtime accepts {name}")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--check", action="store_true", help="change no files")
    if not parser.parse_args().check:
        (FOLDER / "bad").mkdir(exist_ok=True)
        for kind in BASES:
            (FOLDER / f"{kind}.onnx").write_bytes(base(kind))
        for name in RANKS:
            write_adapter(FOLDER / f"{name}.onnx_adapter", values(name))
        (FOLDER / "spinning.onnx").write_bytes(spinning())
        for name, more in [("spinning_one", 1), ("spinning_two", 2)]:
            write_adapter(FOLDER / f"{name}.onnx_adapter", {"more": np.array(more, dtype=np.float32)})
        for name, parameters in bad().items():
            write_adapter(FOLDER / "bad" / f"{name}.onnx_adapter", parameters)
        lines = ",\n".join(json.dumps(case) for case in answers())
        (FOLDER / "cases.json").write_text(f"[\n{lines}\n]\n")
    check(answers())
    return 0


if __name__ == "__main__":
    sys.exit(main())
