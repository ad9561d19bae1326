"""File types: a network for neither pictures nor text nor sound, whose outputs become labels."""

from __future__ import annotations

import io

import numpy as np
import samples
from network import JSON, NPY, Case, Network, scores
from text import installed


def magika() -> Network:
    from magika import Magika
    from magika.types.seekable import Seekable

    whole = Magika()
    folder = next((installed("magika") / "models").iterdir())
    labels = [str(label) for label in whole._target_labels_space]
    manifest = {"labels": labels, "outputs": [{"name": "target_label", "labels": True}]}
    network = Network("magika", "magika 1.0.3", "file types", {"model.onnx": folder / "model.onnx", "longshore.json": manifest})
    for name, content in samples.files().items():
        _, features = whole._get_result_or_features_from_seekable(Seekable(io.BytesIO(content)))
        if features is None:
            continue
        row = np.array([[*features.beg, *features.end]], np.int32)
        (raw,) = whole._get_raw_predictions([(None, features)])
        # The package's own answer is about the first of them.
        (answer,) = whole._get_model_outputs_from_features([(None, features)])
        assert str(answer[1].label) == labels[int(np.argmax(raw))]
        right = scores(dict(zip(labels, raw, strict=True)))
        buffer = io.BytesIO()
        np.save(buffer, row)
        network.cases.append(Case(name, NPY, buffer.getvalue(), right, JSON))
    assert len(network.cases) > 8, "too few files that the package passes to its network"
    return network
