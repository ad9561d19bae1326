"""Writes a base model and LoRA adapters for it, with the answers and the times of ONNX Runtime's Python library.

    python adapters.py FOLDER COUNT

FOLDER gets `base/model.onnx`, the base model, COUNT files `INDEX.onnx_adapter`, and `answers.json`:

    {"x": row, "alone": answer, "answers": [answer of each adapter], "seconds": median time of a run with an adapter}

The base has six layers of 512 by 512, and an adapter the two matrices of rank 8 for each of them.
"""

import json
import sys
import time
from pathlib import Path

import numpy as np
import onnxruntime as ort
from onnx import TensorProto, helper, numpy_helper, save

LAYERS, WIDTH, RANK = 6, 512, 8


def matrix(random, rows, columns):
    return (random.standard_normal((rows, columns)) / np.sqrt(rows)).astype(np.float32)


def names(layer):
    return f"layers.{layer}.lora_A.weight", f"layers.{layer}.lora_B.weight"


def base():
    random = np.random.default_rng(0)
    inputs = [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["batch", WIDTH])]
    nodes, constants, value = [], [], "x"
    for layer in range(LAYERS):
        down, up = names(layer)
        inputs.append(helper.make_tensor_value_info(down, TensorProto.FLOAT, [WIDTH, "rank"]))
        inputs.append(helper.make_tensor_value_info(up, TensorProto.FLOAT, ["rank", WIDTH]))
        # Without an adapter, the inner dimension is 0.
        constants.append(numpy_helper.from_array(np.zeros((WIDTH, 0), dtype=np.float32), down))
        constants.append(numpy_helper.from_array(np.zeros((0, WIDTH), dtype=np.float32), up))
        constants.append(numpy_helper.from_array(matrix(random, WIDTH, WIDTH), f"w{layer}"))
        out = "y" if layer == LAYERS - 1 else f"out{layer}"
        nodes += [
            helper.make_node("MatMul", [value, f"w{layer}"], [f"dense{layer}"]),
            helper.make_node("MatMul", [value, down], [f"down{layer}"]),
            helper.make_node("MatMul", [f"down{layer}", up], [f"up{layer}"]),
            helper.make_node("Add", [f"dense{layer}", f"up{layer}"], [f"sum{layer}"]),
            helper.make_node("Tanh", [f"sum{layer}"], [out]),
        ]
        value = out
    y = helper.make_tensor_value_info("y", TensorProto.FLOAT, ["batch", WIDTH])
    graph = helper.make_graph(nodes, "base", inputs, [y], constants)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)


def write_adapter(path, index):
    random = np.random.default_rng(index + 1)
    parameters = {}
    for layer in range(LAYERS):
        down, up = names(layer)
        parameters |= {down: matrix(random, WIDTH, RANK), up: matrix(random, RANK, WIDTH)}
    adapter = ort.AdapterFormat()
    adapter.set_adapter_version(1)
    adapter.set_model_version(1)
    adapter.set_parameters({name: ort.OrtValue.ortvalue_from_numpy(value) for name, value in parameters.items()})
    adapter.export_adapter(str(path))


def main():
    folder, count = Path(sys.argv[1]), int(sys.argv[2])
    (folder / "base").mkdir(parents=True)
    save(base(), folder / "base/model.onnx")
    ort.set_default_logger_severity(3)
    session = ort.InferenceSession(str(folder / "base/model.onnx"), providers=["CPUExecutionProvider"])
    x = np.random.default_rng(7).uniform(-1, 1, (1, WIDTH)).round(3).astype(np.float32)

    def run(options):
        # The public method demands the inputs that the adapter gives.
        return session._sess.run(["y"], {"x": x}, options)[0][0]

    answers, times = [], []
    for index in range(count):
        path = folder / f"{index}.onnx_adapter"
        write_adapter(path, index)
        adapter, options = ort.LoraAdapter(), ort.RunOptions()
        adapter.Load(str(path))
        options.add_active_adapter(adapter)
        answers.append([float(number) for number in run(options)])
        before = time.perf_counter()
        run(options)
        times.append(time.perf_counter() - before)
    found = {
        "x": [round(float(number), 3) for number in x[0]],
        "alone": [float(number) for number in run(ort.RunOptions())],
        "answers": answers,
        "seconds": sorted(times)[len(times) // 2],
    }
    (folder / "answers.json").write_text(json.dumps(found))


main()
