"""Sound: voice activity."""

from __future__ import annotations

import sys
from types import ModuleType, SimpleNamespace

import numpy as np
import onnx
import samples
from network import NPY, Case, Network
from onnx import TensorProto, compose, helper, numpy_helper
from text import installed

FRAME, CONTEXT = 512, 64


def framing() -> onnx.ModelProto:
    """The package's steps in NumPy before its network: frames of 512 samples, each after the last
    64 of the previous frame.
    """
    size = FRAME + CONTEXT
    taken = np.eye(size, dtype=np.float32)[:, np.newaxis, :]
    constants = {
        "frame": np.array([FRAME], np.int64),
        "context": np.array([CONTEXT], np.int64),
        "nothing": np.array([0], np.int64),
        "last": np.array([1], np.int64),
        "axes": np.array([1], np.int64),
        "taken": taken,
    }
    nodes = [
        helper.make_node("Shape", ["input_values"], ["shape"]),
        helper.make_node("Gather", ["shape", "last"], ["length"], axis=0),
        helper.make_node("Neg", ["length"], ["less"]),
        # As many zeros as complete the last frame.
        helper.make_node("Mod", ["less", "frame"], ["missing"]),
        helper.make_node("Concat", ["nothing", "context", "nothing", "missing"], ["pads"], axis=0),
        helper.make_node("Pad", ["input_values", "pads"], ["padded"]),
        helper.make_node("Unsqueeze", ["padded", "axes"], ["channel"]),
        helper.make_node("Conv", ["channel", "taken"], ["columns"], strides=[FRAME]),
        helper.make_node("Transpose", ["columns"], ["turned"], perm=[0, 2, 1]),
        helper.make_node("Squeeze", ["turned", "nothing"], ["frames"]),
    ]
    graph = helper.make_graph(
        nodes,
        "framing",
        [helper.make_tensor_value_info("input_values", TensorProto.FLOAT, [1, "samples"])],
        [helper.make_tensor_value_info("frames", TensorProto.FLOAT, ["frames", size])],
        [numpy_helper.from_array(value, name) for name, value in constants.items()],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 16)], ir_version=8)


def silero() -> list[Network]:
    """Silero's network for whole recordings, unchanged, and with the package's framing in the
    graph.

    The unchanged network takes frames, which the server makes according to the manifest: chunks
    that overlap. The package puts zeros before the first frame, so the recording begins with zeros
    too.
    """
    folder = installed("silero_vad")
    file = folder / "data/silero_vad_16k_sequence.onnx"
    # Only the package's other classes use PyTorch; here its names are enough.
    torch = ModuleType("torch")
    torch.Tensor = object
    torch.no_grad = lambda: lambda function: function
    torch.device = lambda name: name
    torch.set_num_threads = lambda count: None
    torch.jit = SimpleNamespace()
    sys.modules.setdefault("torch", torch)
    from silero_vad.sequence_vad import SileroVADSequence

    vad = SileroVADSequence(str(file))
    package = "silero-vad 6.2.3"
    state = np.zeros((1, 1, 128), np.float32).tolist()
    manifest = {
        "inputs": [{"name": "h", "constant": state}, {"name": "c", "constant": state}],
        "outputs": ["speech_probs"],
        "batching": False,
    }
    extractor = {
        "feature_extractor_type": "Wav2Vec2FeatureExtractor",
        "feature_size": 1,
        "sampling_rate": samples.RATE,
        "padding_value": 0.0,
        "do_normalize": False,
        "return_attention_mask": False,
    }
    model = compose.merge_models(framing(), onnx.load(file), io_map=[("frames", "input")], prefix1="framing_")
    whole = Network(
        "silero_vad",
        package,
        "voice activity",
        {
            "model.onnx": model.SerializeToString(),
            "longshore.json": manifest,
            "preprocessor_config.json": extractor,
        },
    )
    chunks = {
        "sampling_rate": samples.RATE,
        "chunk_seconds": (CONTEXT + FRAME) / samples.RATE,
        "stride_seconds": FRAME / samples.RATE,
    }
    frames = Network(
        "silero_vad_frames",
        package,
        "voice activity",
        {"model.onnx": file, "longshore.json": manifest | {"audio": chunks}},
    )
    sounds = {
        "a voice": samples.speech(3, 3.0),
        "another voice": samples.speech(8, 2.5),
        "noise": samples.noise(1, 1.0),
        "a tone": samples.tone(440, 1.0),
        "silence": np.zeros(samples.RATE, np.float32),
        "less than a frame": samples.speech(2, 0.5)[:300],
        "a voice in noise": samples.speech(5, 4.0) + samples.noise(6, 4.0),
    }
    for name, sound in sounds.items():
        for channels in (1, 2):
            body, heard = samples.wav(sound, channels)
            right = vad.audio_forward(heard, samples.RATE)
            described = name if channels == 1 else f"{name}, stereo"
            whole.cases.append(Case(described, "audio/wav", body, {}, NPY, right))
        body, _ = samples.wav(np.concatenate([np.zeros(CONTEXT, np.float32), sound]))
        frames.cases.append(Case(name, "audio/wav", body, {}, NPY, right))
    return [whole, frames]
