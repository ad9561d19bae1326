"""Calls a server of tests/models as a program written for Triton would, with tritonclient.

usage: client.py HOST:PORT of a server that has tests/models as its model store and has not loaded
any of them. Ends with status 0 if everything is as Triton's clients expect.
"""

import sys

import ml_dtypes
import numpy as np
import tritonclient.http as triton
from tritonclient.utils import InferenceServerException, np_to_triton_dtype

NUMBERS = {
    "bfloat16": ml_dtypes.bfloat16,
    "bool": np.bool_,
    "float16": np.float16,
    "float32": np.float32,
    "float64": np.float64,
    "int8": np.int8,
    "int16": np.int16,
    "int32": np.int32,
    "int64": np.int64,
    "uint8": np.uint8,
    "uint16": np.uint16,
    "uint32": np.uint32,
    "uint64": np.uint64,
}


def given(name, array, **how):
    tensor = triton.InferInput(name, list(array.shape), np_to_triton_dtype(array.dtype))
    return tensor.set_data_from_numpy(array, **how)


def wanted(name, binary):
    return triton.InferRequestedOutput(name, binary_data=binary)


def refused(status, part, call, *arguments, **more):
    try:
        call(*arguments, **more)
    except InferenceServerException as error:
        assert error.status() == status, error
        assert part in error.message(), error
    else:
        raise AssertionError(f"{call.__name__} {arguments} was not refused")


def equal(actual, expected):
    assert actual.dtype == expected.dtype, (actual.dtype, expected.dtype)
    np.testing.assert_array_equal(actual, expected)


def is_there(client):
    assert client.is_server_live()
    assert client.is_server_ready()
    metadata = client.get_server_metadata()
    assert metadata["name"] == "longshore", metadata
    assert {"binary_tensor_data", "model_repository"} <= set(metadata["extensions"]), metadata


def keeps_a_repository(client):
    assert client.get_model_repository_index() == []
    assert not client.is_model_ready("two_inputs")
    client.load_model("two_inputs")
    client.load_model("two_inputs")
    assert client.is_model_ready("two_inputs")
    assert client.is_model_ready("two_inputs", model_version="1")
    assert not client.is_model_ready("two_inputs", model_version="2")
    expected = [{"name": "two_inputs", "version": "1", "state": "READY", "reason": ""}]
    assert client.get_model_repository_index() == expected
    client.unload_model("two_inputs")
    assert not client.is_model_ready("two_inputs")
    assert client.get_model_repository_index() == []
    refused("404", "not loaded", client.unload_model, "two_inputs")
    refused("404", "nowhere", client.load_model, "nowhere")
    refused("400", "config", client.load_model, "two_inputs", config="{}")
    refused("400", "bad/truncated", client.load_model, "bad/truncated")
    # The client does not encode slashes.
    assert not client.is_model_ready("bad/truncated")


def describes_models(client):
    metadata = client.get_model_metadata("two_inputs")
    assert metadata["name"] == "two_inputs" and metadata["versions"] == ["1"], metadata
    assert metadata["inputs"] == [
        {"name": "a", "datatype": "FP32", "shape": [-1, 3]},
        {"name": "b", "datatype": "INT64", "shape": [-1]},
    ], metadata
    assert [output["name"] for output in metadata["outputs"]] == ["sum", "positive"], metadata
    refused("404", "nowhere", client.get_model_metadata, "nowhere")


def answers_by_default(client):
    """Uses binary data in both directions, for all outputs."""
    inputs = [
        given("a", np.array([[1, 2, 3], [4, 5, 6]], np.float32)),
        given("b", np.array([4, -40], np.int64)),
    ]
    answer = client.infer("two_inputs", inputs, request_id="seven")
    assert answer.get_response()["id"] == "seven"
    assert answer.get_response()["model_name"] == "two_inputs"
    assert answer.get_output("sum")["parameters"] == {"binary_data_size": 24}
    equal(answer.as_numpy("sum"), np.array([[5, 6, 7], [-36, -35, -34]], np.float32))
    equal(answer.as_numpy("positive"), np.array([True, False]))
    assert answer.as_numpy("nothing") is None
    client.infer("two_inputs", inputs, model_version="1")
    later = [client.async_infer("two_inputs", inputs) for _ in range(8)]
    for answer in later:
        equal(answer.get_result().as_numpy("positive"), np.array([True, False]))


def answers_in_json_and_in_both(client):
    a, b = np.array([[1, 2, 3]], np.float32), np.array([4], np.int64)
    for binary in [(True, False), (False, True), (False, False)]:
        inputs = [given("a", a, binary_data=binary[0]), given("b", b, binary_data=binary[1])]
        outputs = [wanted("positive", binary[1]), wanted("sum", binary[0])]
        answer = client.infer("two_inputs", inputs, outputs=outputs)
        equal(answer.as_numpy("sum"), a + 4)
        equal(answer.as_numpy("positive"), np.array([True]))
        assert [output["name"] for output in answer.get_response()["outputs"]] == ["positive", "sum"]
    one = client.infer("two_inputs", inputs, outputs=[wanted("sum", True)])
    assert one.as_numpy("positive") is None
    equal(one.as_numpy("sum"), a + 4)


def carries_every_element_type(client):
    for name, kind in NUMBERS.items():
        array = np.array([[0, 1], [1, 0], [3, 5]]).astype(kind)
        empty = np.empty((0, 2), kind)
        for array in [array, empty]:
            answer = client.infer(f"identity_{name}", [given("x", array)])
            equal(answer.as_numpy("y"), array)
            if name == "bfloat16":
                continue
            if name == "float16" and array.size:
                # JSON has no form for this type; as a number it is exact.
                array = array[:1]
            outputs = [wanted("y", False)]
            answer = client.infer(f"identity_{name}", [given("x", array, binary_data=False)], outputs=outputs)
            equal(answer.as_numpy("y"), array)


def carries_strings(client):
    texts = np.array([["", "plain"], ['"quoted"\\\n', "Grüße, 世界 🚢"]], dtype=np.object_)
    encoded = np.vectorize(lambda text: text.encode(), otypes=[np.object_])(texts)
    answer = client.infer("identity_string", [given("x", texts)])
    equal(answer.as_numpy("y"), encoded)
    answer = client.infer("identity_string", [given("x", texts, binary_data=False)], outputs=[wanted("y", False)])
    equal(answer.as_numpy("y"), texts)
    raw = np.array([[b"\xff\x00\xfe", b"x" * 100_000]], dtype=np.object_)
    equal(client.infer("identity_string", [given("x", raw)]).as_numpy("y"), raw)


def refuses_in_words(client):
    a, b = given("a", np.zeros((1, 3), np.float32)), given("b", np.zeros(1, np.int64))
    refused("404", "nowhere", client.infer, "nowhere", [a])
    refused("404", "no version", client.infer, "two_inputs", [a, b], model_version="2")
    refused("400", "is missing", client.infer, "two_inputs", [a])
    refused("400", "no input", client.infer, "two_inputs", [a, b, given("c", np.zeros(1, np.int64))])
    refused("400", "int64[1, 3]", client.infer, "two_inputs", [given("a", np.zeros((1, 3), np.int64)), b])
    refused("400", "float32[1, 4]", client.infer, "two_inputs", [given("a", np.zeros((1, 4), np.float32)), b])
    refused("400", "no such output", client.infer, "two_inputs", [a, b], outputs=[wanted("z", True)])
    classes = [triton.InferRequestedOutput("sum", class_count=2)]
    refused("400", "classification", client.infer, "two_inputs", [a, b], outputs=classes)
    refused("415", "gzip or zstd", client.infer, "two_inputs", [a, b], request_compression_algorithm="deflate")
    client.infer("two_inputs", [a, b], request_compression_algorithm="gzip")
    refused("503", "bad/truncated", client.infer, "bad/truncated", [a])
    refused("404", "/v2/models/two_inputs/config", client.get_model_config, "two_inputs")
    # The server still works after all this.
    client.infer("two_inputs", [a, b])


def main():
    checks = [
        is_there,
        keeps_a_repository,
        describes_models,
        answers_by_default,
        answers_in_json_and_in_both,
        carries_every_element_type,
        carries_strings,
        refuses_in_words,
    ]
    for check in checks:
        with triton.InferenceServerClient(sys.argv[1]) as client:
            check(client)
        print(check.__name__)


if __name__ == "__main__":
    main()
