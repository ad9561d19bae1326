"""Makes artifacts of pretrained networks from packages, with requests and the answers of the
packages' own pipelines.

usage: make.py FOLDER [NETWORK...]

Writes FOLDER/NETWORK/model, an artifact, and FOLDER/NETWORK/cases.json with requests and right
answers, whose bodies and tensors are in files next to it. Nothing here depends on the server:
tests/it/pretrained.rs sends the requests. Run it with .pretrained/bin/python, which
scripts/pretrained installs.
"""

from __future__ import annotations

import sys
import time
from pathlib import Path

import filetypes
import onnxruntime
import sound
import text
import vision

NETWORKS = {
    "minilm": text.minilm,
    "modernbert_tokens": text.modernbert_tokens,
    "open_nsfw": vision.open_nsfw,
    "page_direction": vision.page_direction,
    "line_direction": vision.line_direction,
    "text_places": vision.text_places,
    "text_lines": vision.text_lines,
    "text_boxes": vision.text_boxes,
    "silero_vad": sound.silero,
    "magika": filetypes.magika,
}


class OneThread(onnxruntime.InferenceSession):
    """The sessions of the packages, with one thread: other tests need the cores too, and threads
    that wait for work would spin.
    """

    def __init__(self, model, sess_options=None, **more) -> None:
        options = sess_options or onnxruntime.SessionOptions()
        options.intra_op_num_threads = 1
        super().__init__(model, options, **more)


def main() -> None:
    # The packages are imported after this line, so they use the class.
    onnxruntime.InferenceSession = OneThread
    folder, *wanted = sys.argv[1:]
    for name in wanted or NETWORKS:
        started = time.monotonic()
        made = NETWORKS[name]()
        for network in made if isinstance(made, list) else [made]:
            network.write(Path(folder))
            print(f"{network.name}: {len(network.cases)} cases", file=sys.stderr)
        print(f"{name}: {time.monotonic() - started:.1f} s", file=sys.stderr)


if __name__ == "__main__":
    main()
