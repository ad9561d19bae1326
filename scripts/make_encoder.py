#!/usr/bin/env python3
"""Makes a model for the container before a recommender of make_recommenders.py: it turns titles of
items into their numbers.

    .venv/bin/python scripts/make_encoder.py models/de-berlin-families/model.onnx encoder.onnx

    input   titles  string  [batch, 5]  titles of the last five items bought
    output  bought  int64   [batch, 5]  their numbers; -1 stands for an unknown title
"""

from __future__ import annotations

import argparse
from pathlib import Path

import onnx
from make_recommenders import HISTORY, IR_VERSION, NOTHING, OPSET
from onnx import ModelProto, TensorProto, helper, numpy_helper


def encoder_of(recommender: ModelProto) -> ModelProto:
    """The encoder for the titles of the items that a recommender's segment sells."""
    constants = {tensor.name: numpy_helper.to_array(tensor) for tensor in recommender.graph.initializer}
    encoder = helper.make_node(
        "LabelEncoder",
        ["titles"],
        ["bought"],
        domain="ai.onnx.ml",
        keys_strings=list(constants["item_titles"]),
        values_int64s=constants["assortment"].flatten(),
        default_int64=NOTHING,
    )
    graph = helper.make_graph(
        [encoder],
        "titles",
        [helper.make_tensor_value_info("titles", TensorProto.STRING, ["batch", HISTORY])],
        [helper.make_tensor_value_info("bought", TensorProto.INT64, ["batch", HISTORY])],
    )
    opsets = [helper.make_opsetid("", OPSET), helper.make_opsetid("ai.onnx.ml", 2)]
    return helper.make_model(graph, opset_imports=opsets, ir_version=IR_VERSION)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("recommender", type=Path, help="the recommender's model.onnx")
    parser.add_argument("out", type=Path, help="the file to write")
    arguments = parser.parse_args()
    onnx.save(encoder_of(onnx.load(arguments.recommender)), arguments.out)


if __name__ == "__main__":
    main()
