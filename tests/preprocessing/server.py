"""Models behind FastAPI, in the usual way: Pillow or tokenizers, NumPy, ONNX Runtime.

usage: server.py FOLDER PROCESSES

make.py writes FOLDER. Prints its address in one line, and ends with its standard input. As under
gunicorn, every process has its own models and accepts connections from one socket.
"""

from __future__ import annotations

import io
import json
import os
import socket
import sys
import threading
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import uvicorn
from fastapi import FastAPI, Request
from fastapi.concurrency import run_in_threadpool
from fastapi.responses import JSONResponse
from PIL import Image
from tokenizers import Tokenizer

FOLDER = Path(sys.argv[1])

app = FastAPI()


def session(file: str) -> onnxruntime.InferenceSession:
    options = onnxruntime.SessionOptions()
    # One process serves each core.
    options.intra_op_num_threads = 1
    options.inter_op_num_threads = 1
    return onnxruntime.InferenceSession(FOLDER / file, options, providers=["CPUExecutionProvider"])


def settings(file: str) -> dict[str, Any]:
    return json.loads((FOLDER / file).read_text())


def softmax(logits: np.ndarray) -> np.ndarray:
    powers = np.exp(logits - logits.max(axis=-1, keepdims=True))
    return powers / powers.sum(axis=-1, keepdims=True)


def labelled(scores: np.ndarray, labels: list[str], count: int) -> list[dict[str, Any]]:
    best = np.argsort(-scores)[:count]
    return [{"label": labels[index], "score": float(scores[index])} for index in best]


class Things:
    def __init__(self) -> None:
        self.session = session("picture-to-thing/model.onnx")
        self.labels = list(settings("picture-to-thing/config.json")["id2label"].values())

    def __call__(self, body: bytes) -> list[dict[str, Any]]:
        image = Image.open(io.BytesIO(body)).convert("RGB")
        width, height = image.size
        scale = 64 / min(width, height)
        image = image.resize((int(width * scale), int(height * scale)), Image.BILINEAR)
        left, top = (image.width - 64) // 2, (image.height - 64) // 2
        image = image.crop((left, top, left + 64, top + 64))
        pixels = (np.asarray(image, dtype=np.float32) / 255 - 0.5) / 0.5
        pixels = pixels.transpose(2, 0, 1)[np.newaxis]
        logits = self.session.run(None, {"pixel_values": pixels})[0]
        return labelled(softmax(logits)[0], self.labels, 5)


class OpenNsfw:
    def __init__(self) -> None:
        self.session = session("open_nsfw/open_nsfw.onnx")
        self.input = self.session.get_inputs()[0].name
        self.mean = np.array([104, 117, 123], dtype=np.float32)

    def __call__(self, body: bytes) -> list[dict[str, Any]]:
        image = Image.open(io.BytesIO(body)).convert("RGB").resize((256, 256), Image.BILINEAR).crop((16, 16, 240, 240))
        pixels = np.asarray(image, dtype=np.float32)[:, :, ::-1] - self.mean
        scores = self.session.run(None, {self.input: pixels[np.newaxis]})[0]
        return labelled(scores[0], ["sfw", "nsfw"], 5)


class Opinions:
    def __init__(self) -> None:
        self.session = session("review-to-opinion/model.onnx")
        self.labels = list(settings("review-to-opinion/config.json")["id2label"].values())
        self.tokenizer = Tokenizer.from_file(str(FOLDER / "review-to-opinion/tokenizer.json"))
        self.tokenizer.enable_truncation(settings("review-to-opinion/tokenizer_config.json")["model_max_length"])

    def __call__(self, body: bytes) -> list[dict[str, Any]]:
        encoding = self.tokenizer.encode(json.loads(body)["inputs"])
        feeds = {
            "input_ids": np.array([encoding.ids], dtype=np.int64),
            "attention_mask": np.array([encoding.attention_mask], dtype=np.int64),
        }
        return labelled(self.session.run(None, feeds)[0][0], self.labels, 1)


class MiniLm:
    def __init__(self) -> None:
        self.session = session("minilm/onnx/model.onnx")
        self.tokenizer = Tokenizer.from_file(str(FOLDER / "minilm/tokenizer.json"))
        self.tokenizer.no_padding()
        self.tokenizer.enable_truncation(256)

    def __call__(self, body: bytes) -> list[list[float]]:
        encoding = self.tokenizer.encode(json.loads(body)["inputs"])
        ids = np.array([encoding.ids], dtype=np.int64)
        mask = np.array([encoding.attention_mask], dtype=np.int64)
        feeds = {"input_ids": ids, "attention_mask": mask, "token_type_ids": np.zeros_like(ids)}
        hidden = self.session.run(None, feeds)[0]
        weights = mask[..., np.newaxis].astype(np.float32)
        pooled = (hidden * weights).sum(axis=1) / weights.sum(axis=1)
        return (pooled / np.linalg.norm(pooled, axis=1, keepdims=True)).tolist()


MODELS = {"picture-to-thing": Things, "open_nsfw": OpenNsfw, "review-to-opinion": Opinions, "minilm": MiniLm}
loaded: dict[str, Any] = {}


@app.post("/models/{name}/invoke")
async def invoke(name: str, request: Request) -> JSONResponse:
    body = await request.body()
    return JSONResponse(await run_in_threadpool(loaded[name], body))


def end_with_standard_input() -> None:
    while sys.stdin.buffer.read(1):
        pass
    os._exit(0)


def main() -> None:
    listener = socket.socket()
    listener.bind(("127.0.0.1", 0))
    listener.listen(1024)
    for _ in range(int(sys.argv[2]) - 1):
        if os.fork() == 0:
            break
    # Every process does this, because each has the other end of the pipe too.
    threading.Thread(target=end_with_standard_input, daemon=True).start()
    loaded.update({name: model() for name, model in MODELS.items()})
    # Once for each process.
    print(f"127.0.0.1:{listener.getsockname()[1]}", flush=True)
    configuration = uvicorn.Config(app, log_level="warning", access_log=False, loop="uvloop", http="httptools")
    uvicorn.Server(configuration).run(sockets=[listener])


if __name__ == "__main__":
    main()
