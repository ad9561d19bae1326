"""Writes models and requests for the benchmark of pre-processing.

usage: make.py FOLDER PRETRAINED

PRETRAINED is a folder of tests/pretrained/make.py with `open_nsfw` and `minilm` in it. Writes the
artifact FOLDER/NAME for each model, and FOLDER/requests.json with the requests. Run it with
.preprocessing/bin/python.
"""

from __future__ import annotations

import json
import shutil
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
from PIL import Image

ROOT = Path(__file__).parent.parent.parent
sys.path[:0] = [str(ROOT / "scripts"), str(ROOT / "tests/pretrained")]

import make_pipelines
import samples

SENTENCE = "My new kettle is lovely and very quiet, but after two weeks the lid was cracked and we are so disappointed with it!"


def jpeg(picture: Image.Image) -> bytes:
    return samples.encoded(picture, "JPEG", quality=90)


def thing(width: int, height: int) -> bytes:
    """A picture of a ball, as a camera writes it."""
    scene = make_pipelines.Scene("striped red ball", np.random.default_rng(1))
    picture = Image.fromarray(scene.draw(width // 2, height // 2)).resize((width, height), Image.BICUBIC)
    noise = np.random.default_rng(2).normal(0, 4, (height, width, 1)).astype(np.float32)
    return jpeg(Image.fromarray(np.clip(np.asarray(picture) + noise, 0, 255).astype(np.uint8)))


def main() -> None:
    folder, pretrained = map(Path, sys.argv[1:])
    small = folder / "small"
    sys.argv[1:] = [str(small)]
    make_pipelines.main()
    for name in ("picture-to-thing", "review-to-opinion"):
        shutil.move(small / name, folder / name)
    shutil.rmtree(small)
    for name in ("open_nsfw", "minilm"):
        shutil.copytree(pretrained / name / "model", folder / name)
    text = json.dumps({"inputs": SENTENCE}).encode()
    long = json.dumps({"inputs": " ".join([SENTENCE] * 6)}).encode()
    requests = [
        SimpleNamespace(what="JPEG, 320 by 240, small network", model="picture-to-thing", body=thing(320, 240)),
        SimpleNamespace(what="JPEG, 1280 by 960, small network", model="picture-to-thing", body=thing(1280, 960)),
        SimpleNamespace(what="JPEG, 4000 by 3000, small network", model="picture-to-thing", body=thing(4000, 3000)),
        SimpleNamespace(what="JPEG, 1280 by 960, ResNet", model="open_nsfw", body=jpeg(samples.photo(3, 1280, 960))),
        SimpleNamespace(what="a sentence, bag of words", model="review-to-opinion", body=text),
        SimpleNamespace(what="six sentences, bag of words", model="review-to-opinion", body=long),
        SimpleNamespace(what="a sentence, MiniLM", model="minilm", body=text),
    ]
    entries = []
    for number, request in enumerate(requests):
        (folder / f"{number}.body").write_bytes(request.body)
        media_type = "image/jpeg" if request.what.startswith("JPEG") else "application/json"
        entries.append(
            {"what": request.what, "model": request.model, "content_type": media_type, "body": f"{number}.body"}
        )
    (folder / "requests.json").write_text(json.dumps(entries))


if __name__ == "__main__":
    main()
