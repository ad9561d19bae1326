#!/usr/bin/env python3
"""Makes the parts of pipelines from a picture to a label, and from a sentence to a label and to a
number of stars.

    .venv/bin/python scripts/make_pipelines.py pipelines

Each folder in the output folder is an artifact. The first container of a pipeline has no network:

    pixels             preprocessor_config.json: from pictures to a tensor
    things             a small convolutional network and config.json: from that tensor to labels
    picture-to-thing   these two as one artifact
    tokens             tokenizer.json: from sentences to tensors
    opinions           a bag of words and config.json: from those tensors to labels
    review-to-opinion  these two as one artifact
    stars              a regressor: from the probabilities of opinions to a number of stars

Pictures show balls with a colour and a pattern; reviews consist of the words of a shop. Both
networks are fitted by least squares to such pictures and reviews: the last layer of the first
network, and the whole second one. `questions.json` has other pictures and reviews with the right
answers, and the pictures are next to it as JPEG. Needs NumPy and onnx, and no library of pictures
or of text.
"""

from __future__ import annotations

import argparse
import json
import shutil
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import onnx
from make_recommenders import IR_VERSION, OPSET, PRODUCTS
from onnx import ModelProto, TensorProto, helper, numpy_helper

FLOAT, INT64 = TensorProto.FLOAT, TensorProto.INT64

# Pictures

COLOURS = {"red": (200, 40, 45), "green": (50, 150, 70), "blue": (45, 80, 190), "yellow": (235, 200, 40)}
PATTERNS = ("plain", "striped", "dotted")
THINGS = [f"{pattern} {colour} ball" for colour in COLOURS for pattern in PATTERNS]
EDGE = 64
"""Size of the network's input, in pixels."""
WIDTH, HEIGHT = 320, 240
"""Size of the pictures in the requests."""
FILTERS = (32, 64)
EXAMPLES = 60
"""Number of pictures of each thing to fit."""
ASKED = 24
CLEAR = 2.0
"""Distance of the best logit of such a picture from the others, so that rounding cannot swap them.
"""


class Scene:
    """A ball on a ground, in coordinates from -1 to 1."""

    def __init__(self, thing: str, random: np.random.Generator) -> None:
        self.pattern, colour, _ = thing.split()
        self.colour = np.clip(random.normal(COLOURS[colour], 14), 0, 255)
        self.ground = random.uniform(90, 235) + random.normal(0, 8, 3)
        self.light = random.normal(0, 12, 2)
        self.place = random.uniform(-0.3, 0.3, 2)
        self.size = random.uniform(0.5, 0.75)
        self.turn = random.uniform(0, np.pi)
        self.random = random

    def covers(self, x: np.ndarray, y: np.ndarray) -> np.ndarray:
        """The colour at a point: 1 for the ball's, 2 for white, 0 for the ground."""
        x, y = x - self.place[0], y - self.place[1]
        sin, cos = np.sin(self.turn), np.cos(self.turn)
        along, across = (cos * x + sin * y) / self.size, (cos * y - sin * x) / self.size
        if self.pattern == "striped":
            is_white = np.mod(across, 0.4) < 0.15
        elif self.pattern == "dotted":
            is_white = np.hypot(np.mod(along, 0.45) - 0.22, np.mod(across, 0.45) - 0.22) < 0.13
        else:
            is_white = np.zeros_like(x, dtype=bool)
        return np.where(np.hypot(x, y) < self.size, 1 + is_white, 0)

    def draw(self, width: int, height: int) -> np.ndarray:
        """The pixels, with the square in the middle."""
        finer = 3
        scale = 2 / (min(width, height) * finer)
        x = (np.arange(width * finer) + 0.5) * scale - width * finer * scale / 2
        y = (np.arange(height * finer) + 0.5) * scale - height * finer * scale / 2
        x, y = np.meshgrid(x, y)
        mean = lambda fine: fine.reshape(height, finer, width, finer).mean((1, 3))[:, :, np.newaxis]
        covers = self.covers(x, y)
        parts = zip((0, 1, 2), (self.ground, self.colour, np.full(3, 245)))
        pixels = sum(mean(covers == part) * colour for part, colour in parts)
        pixels = pixels + self.light[0] * mean(x) + self.light[1] * mean(y)
        pixels = pixels + self.random.normal(0, 3, (height, width, 3))
        return np.clip(np.round(pixels), 0, 255).astype(np.uint8)


ZIGZAG = sorted(range(64), key=lambda at: (at // 8 + at % 8, at // 8 if (at // 8 + at % 8) % 2 else at % 8))
"""The positions in a block of 8 by 8, in the order in which JPEG writes them."""


def jpeg(pixels: np.ndarray) -> bytes:
    """A baseline JPEG file. All codes of one table have one length, so the file is larger than others."""
    height, width, _ = pixels.shape
    rgb = pixels.astype(np.float64)
    to_ycc = np.array([[0.299, 0.587, 0.114], [-0.168736, -0.331264, 0.5], [0.5, -0.418688, -0.081312]])
    planes = rgb @ to_ycc.T - [128, 0, 0]
    planes = np.pad(planes, ((0, -height % 8), (0, -width % 8), (0, 0)), mode="edge")
    row, column = np.mgrid[0:8, 0:8]
    cosines = np.cos((2 * column + 1) * row * np.pi / 16) * np.where(row == 0, np.sqrt(1 / 8), 0.5)
    steps = 4 + 2 * (row + column)
    blocks = planes.reshape(planes.shape[0] // 8, 8, planes.shape[1] // 8, 8, 3).transpose(0, 2, 4, 1, 3)
    levels = np.round(cosines @ blocks @ cosines.T / steps).astype(int).reshape(-1, 3, 64)[:, :, ZIGZAG]

    # The code of a symbol is its position in the table.
    sizes = list(range(12))
    runs = [0x00, 0xF0] + [run << 4 | size for run in range(16) for size in range(1, 11)]
    size_places, run_places = ({symbol: place for place, symbol in enumerate(table)} for table in (sizes, runs))
    bits: list[str] = []

    def put(places: dict[int, int], length: int, symbol: int, level: int) -> None:
        bits.append(format(places[symbol], f"0{length}b"))
        size = abs(level).bit_length()
        if size:
            bits.append(format(level if level > 0 else level + (1 << size) - 1, f"0{size}b"))

    last = [0, 0, 0]
    for block in levels.tolist():
        for component, (first, *others) in enumerate(block):
            difference = first - last[component]
            last[component] = first
            put(size_places, 4, abs(difference).bit_length(), difference)
            run = 0
            for level in others:
                if level == 0:
                    run += 1
                    continue
                while run > 15:
                    put(run_places, 8, 0xF0, 0)
                    run -= 16
                put(run_places, 8, run << 4 | abs(level).bit_length(), level)
                run = 0
            if run:
                put(run_places, 8, 0x00, 0)
    stream = "".join(bits)
    stream += "1" * (-len(stream) % 8)
    data = int(stream, 2).to_bytes(len(stream) // 8, "big").replace(b"\xff", b"\xff\x00")

    def part(marker: int, content: bytes) -> bytes:
        return bytes([0xFF, marker]) + (len(content) + 2).to_bytes(2, "big") + content

    def codes(table: list[int], length: int) -> bytes:
        return bytes([len(table) if index == length - 1 else 0 for index in range(16)]) + bytes(table)

    size = height.to_bytes(2, "big") + width.to_bytes(2, "big")
    components = b"".join(bytes([number, 0x11, 0]) for number in (1, 2, 3))
    return b"".join(
        [
            b"\xff\xd8",
            part(0xE0, b"JFIF\x00\x01\x01\x00\x00\x01\x00\x01\x00\x00"),
            part(0xDB, b"\x00" + bytes(steps.ravel()[ZIGZAG].tolist())),
            part(0xC0, b"\x08" + size + b"\x03" + components),
            part(0xC4, b"\x00" + codes(sizes, 4)),
            part(0xC4, b"\x10" + codes(runs, 8)),
            part(0xDA, b"\x03" + b"".join(bytes([number, 0]) for number in (1, 2, 3)) + b"\x00\x3f\x00"),
            data,
            b"\xff\xd9",
        ]
    )


def convolved(pixels: np.ndarray, filters: np.ndarray) -> np.ndarray:
    """A layer: takes every second position, and sets negative values to zero."""
    size = filters.shape[-1]
    windows = np.lib.stride_tricks.sliding_window_view(pixels, (size, size), axis=(2, 3))[:, :, ::2, ::2]
    return np.maximum(np.einsum("nchwij,fcij->nfhw", windows, filters, optimize=True), 0)


def features(pixels: np.ndarray, filters: list[np.ndarray]) -> np.ndarray:
    """For pictures [n, height, width, 3]: the mean and the maximum of each filter of the last
    layer.
    """
    values = (pixels.transpose(0, 3, 1, 2).astype(np.float32) / 255 - 0.5) / 0.5
    for layer in filters:
        values = convolved(values, layer)
    return np.concatenate([values.mean((2, 3)), values.max((2, 3))], axis=1)


def least_squares(values: np.ndarray, targets: np.ndarray, penalty: float) -> tuple[np.ndarray, np.ndarray]:
    """The weights and constants that fit best, with a penalty on large ones."""
    mean = values.mean(0)
    centred = values - mean
    weights = np.linalg.solve(centred.T @ centred + penalty * np.eye(values.shape[1]), centred.T @ (targets - targets.mean(0)))
    return weights, targets.mean(0) - mean @ weights


def fit_things(random: np.random.Generator) -> tuple[list[np.ndarray], np.ndarray, np.ndarray]:
    """Filters, which are patches of the pictures and of the outputs of earlier filters, and the
    fitted last layer.
    """
    classes = np.repeat(np.arange(len(THINGS)), EXAMPLES)
    pixels = np.stack([Scene(THINGS[number], random).draw(EDGE, EDGE) for number in classes])
    values = (pixels.transpose(0, 3, 1, 2).astype(np.float32) / 255 - 0.5) / 0.5
    filters = []
    for count, size in zip(FILTERS, (5, 3)):
        patches = []
        while len(patches) < count:
            picture = values[random.integers(len(values))]
            y, x = (random.integers(length - size) for length in picture.shape[1:])
            patch = picture[:, y : y + size, x : x + size]
            patch = patch - patch.mean()
            # A plain patch contains no information.
            if patch.std() > 0.05:
                patches.append(patch / np.linalg.norm(patch) * random.choice([-1, 1]))
        filters.append(np.stack(patches).astype(np.float32))
        values = convolved(values, filters[-1])
    targets = np.eye(len(THINGS))[classes]
    found = features(pixels, filters)
    mean, spread = found.mean(0), found.std(0) + 1e-3
    weights, constants = least_squares((found - mean) / spread, targets, 1.0)
    weights = weights / spread[:, np.newaxis]
    constants = constants - mean @ weights
    # Scales the difference between the best and the others from about one to about ten.
    return filters, 10 * weights, 10 * constants


def is_clear(scene: Scene, thing: str, fitted: tuple[list[np.ndarray], np.ndarray, np.ndarray]) -> bool:
    """Whether the network is right about a scene, and certain."""
    filters, weights, constants = fitted
    (logits,) = features(scene.draw(EDGE, EDGE)[np.newaxis], filters) @ weights + constants
    *_, second, best = np.argsort(logits)
    return THINGS[best] == thing and logits[best] - logits[second] > CLEAR


def network_of_things(filters: list[np.ndarray], weights: np.ndarray, constants: np.ndarray) -> ModelProto:
    nodes, last = [], "pixel_values"
    for number, layer in enumerate(filters):
        nodes += [
            helper.make_node("Conv", [last, f"filters_{number}"], [f"sums_{number}"], strides=[2, 2]),
            helper.make_node("Relu", [f"sums_{number}"], [f"layer_{number}"]),
        ]
        last = f"layer_{number}"
    nodes += [
        helper.make_node("GlobalAveragePool", [last], ["means"]),
        helper.make_node("GlobalMaxPool", [last], ["peaks"]),
        helper.make_node("Concat", ["means", "peaks"], ["both"], axis=1),
        helper.make_node("Flatten", ["both"], ["features"]),
        helper.make_node("Gemm", ["features", "weights", "constants"], ["logits"]),
    ]
    initializers = [numpy_helper.from_array(layer, f"filters_{number}") for number, layer in enumerate(filters)]
    initializers += [
        numpy_helper.from_array(weights.astype(np.float32), "weights"),
        numpy_helper.from_array(constants.astype(np.float32), "constants"),
    ]
    return model(
        "things",
        nodes,
        [helper.make_tensor_value_info("pixel_values", FLOAT, ["batch", 3, EDGE, EDGE])],
        [helper.make_tensor_value_info("logits", FLOAT, ["batch", len(THINGS)])],
        initializers,
    )


PREPROCESSOR = {
    "image_processor_type": "CLIPImageProcessor",
    "do_convert_rgb": True,
    "do_resize": True,
    "size": {"shortest_edge": EDGE},
    "resample": 2,
    "do_center_crop": True,
    "crop_size": {"height": EDGE, "width": EDGE},
    "do_rescale": True,
    "rescale_factor": 1 / 255,
    "do_normalize": True,
    "image_mean": [0.5, 0.5, 0.5],
    "image_std": [0.5, 0.5, 0.5],
}

# Sentences

OPINIONS = ("negative", "neutral", "positive")
WORDS = {
    "negative": "broken terrible disappointed flimsy useless awful ugly loud hate regret wobbly cheap stained cracked",
    "neutral": "okay average fine ordinary expected standard usual plain acceptable middling",
    "positive": "great lovely sturdy excellent perfect happy love recommend beautiful comfortable handy quiet delighted",
}
FILLERS = "the a my this it is was and but very quite for with our in of we i after one two weeks days has been so , . !"
PIECES = "##s ##ed ##ly ##ing ##er ##ness"
SPECIAL = ["[PAD]", "[UNK]", "[CLS]", "[SEP]"]
REVIEWS = 1500
LONGEST = 64

ASKED_REVIEWS = [
    ("My new kettle is lovely and very quiet, I recommend it!", "positive"),
    ("The tent was broken after two days. So disappointed.", "negative"),
    ("An ordinary floor lamp. It is okay.", "neutral"),
    ("We love this wooden train, excellent!", "positive"),
    ("Terrible blender: loud, flimsy and ugly.", "negative"),
    ("This umbrella is average, as expected", "neutral"),
    ("PERFECT bike lock. Sturdy, handy, beautiful!!!", "positive"),
    ("Useless speaker, cracked and stained; I regret it.", "negative"),
]


def vocabulary() -> list[str]:
    """Special tokens, words, and pieces that can form any other word of these letters."""
    letters = [chr(code) for code in range(ord("a"), ord("z") + 1)]
    products = " ".join(PRODUCTS.values()).replace(",", " ").lower().replace("-", " ").replace("'", " ").split()
    words = " ".join(WORDS.values()).split() + FILLERS.split() + products + letters + list("0123456789;:-'?")
    pieces = PIECES.split() + [f"##{letter}" for letter in letters]
    return list(dict.fromkeys(SPECIAL + words + pieces))


def tokenizer(words: list[str]) -> dict:
    """tokenizer.json in the form of tokenizers of BERT's family."""
    numbers = {name: words.index(name) for name in SPECIAL}
    special = [
        {
            "id": number,
            "content": name,
            "single_word": False,
            "lstrip": False,
            "rstrip": False,
            "normalized": False,
            "special": True,
        }
        for name, number in numbers.items()
    ]
    token = lambda name: {"SpecialToken": {"id": name, "type_id": 0}}
    sequence = lambda name, number: {"Sequence": {"id": name, "type_id": number}}
    return {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "added_tokens": special,
        "normalizer": {
            "type": "BertNormalizer",
            "clean_text": True,
            "handle_chinese_chars": True,
            "strip_accents": None,
            "lowercase": True,
        },
        "pre_tokenizer": {"type": "BertPreTokenizer"},
        "post_processor": {
            "type": "TemplateProcessing",
            "single": [token("[CLS]"), sequence("A", 0), token("[SEP]")],
            "pair": [token("[CLS]"), sequence("A", 0), token("[SEP]"), sequence("B", 1), token("[SEP]")],
            "special_tokens": {
                name: {"id": name, "ids": [numbers[name]], "tokens": [name]} for name in ("[CLS]", "[SEP]")
            },
        },
        "decoder": {"type": "WordPiece", "prefix": "##", "cleanup": True},
        "model": {
            "type": "WordPiece",
            "unk_token": "[UNK]",
            "continuing_subword_prefix": "##",
            "max_input_chars_per_word": 100,
            "vocab": {word: number for number, word in enumerate(words)},
        },
    }


TOKENIZER_CONFIG = {
    "tokenizer_class": "BertTokenizer",
    "do_lower_case": True,
    "model_max_length": LONGEST,
    "model_input_names": ["input_ids", "attention_mask"],
    "pad_token": "[PAD]",
    "unk_token": "[UNK]",
    "cls_token": "[CLS]",
    "sep_token": "[SEP]",
}


def reviews(random: np.random.Generator) -> Iterator[tuple[list[str], int]]:
    """Words of reviews, and the numbers of their opinions. One review in five also has a word of
    another opinion.
    """
    fillers = FILLERS.split()
    products = ", ".join(PRODUCTS.values()).lower().replace("-", " ").replace("'", " ").split(", ")
    for _ in range(REVIEWS):
        opinion = int(random.integers(len(OPINIONS)))
        words = list(random.choice(fillers, random.integers(4, 12)))
        words += str(random.choice(products)).split()
        words += list(random.choice(WORDS[OPINIONS[opinion]].split(), random.integers(1, 4)))
        if random.random() < 0.2 and opinion != 1:
            words += [str(random.choice(WORDS[OPINIONS[int(random.integers(3))]].split()))]
        yield [str(word) for word in random.permutation(words)], opinion


def fit_opinions(words: list[str], random: np.random.Generator) -> np.ndarray:
    """The weight of each word for each opinion."""
    numbers = {word: number for number, word in enumerate(words)}
    rows, opinions = [], []
    for review, opinion in reviews(random):
        row = np.zeros(len(words))
        for word in review:
            row[numbers[word]] += 1
        # Including the first and the last token.
        rows.append(row / (len(review) + 2))
        opinions.append(opinion)
    targets = np.eye(len(OPINIONS))[opinions]
    weights, constants = least_squares(np.stack(rows), targets, 0.02)
    # Every token carries its share of the constants, because the network sums the shares.
    return 6 * (weights + constants)


def network_of_opinions(weights: np.ndarray) -> ModelProto:
    nodes = [
        helper.make_node("Gather", ["words", "input_ids"], ["each"]),
        helper.make_node("Cast", ["attention_mask"], ["mask"], to=FLOAT),
        helper.make_node("Unsqueeze", ["mask", "last"], ["column"]),
        helper.make_node("Mul", ["each", "column"], ["masked"]),
        helper.make_node("ReduceSum", ["masked", "tokens"], ["sums"], keepdims=0),
        helper.make_node("ReduceSum", ["mask", "tokens"], ["count"], keepdims=1),
        helper.make_node("Div", ["sums", "count"], ["logits"]),
        helper.make_node("Softmax", ["logits"], ["probabilities"], axis=1),
    ]
    initializers = [
        numpy_helper.from_array(weights.astype(np.float32), "words"),
        numpy_helper.from_array(np.array([2], np.int64), "last"),
        numpy_helper.from_array(np.array([1], np.int64), "tokens"),
    ]
    return model(
        "opinions",
        nodes,
        [helper.make_tensor_value_info(name, INT64, ["batch", "length"]) for name in ("input_ids", "attention_mask")],
        [helper.make_tensor_value_info("probabilities", FLOAT, ["batch", len(OPINIONS)])],
        initializers,
    )


def network_of_stars(weights: np.ndarray, random: np.random.Generator) -> ModelProto:
    """Fitted to the stars that customers gave: one or two, three, four or five."""
    numbers = {word: number for number, word in enumerate(vocabulary())}
    rows, stars = [], []
    for review, opinion in reviews(random):
        logits = (weights[[numbers[word] for word in review]].sum(0) + weights[2] + weights[3]) / (len(review) + 2)
        rows.append(np.exp(logits) / np.exp(logits).sum())
        stars.append(random.choice([[1, 2], [3, 3], [4, 5]][opinion]))
    fitted, constant = least_squares(np.stack(rows), np.array(stars, float)[:, np.newaxis], 0.1)
    initializers = [
        numpy_helper.from_array(fitted.astype(np.float32), "weights"),
        numpy_helper.from_array(constant.astype(np.float32), "constant"),
    ]
    return model(
        "stars",
        [helper.make_node("Gemm", ["probabilities", "weights", "constant"], ["stars"])],
        [helper.make_tensor_value_info("probabilities", FLOAT, ["batch", len(OPINIONS)])],
        [helper.make_tensor_value_info("stars", FLOAT, ["batch", 1])],
        initializers,
    )


# Writing


def model(name: str, nodes: list, inputs: list, outputs: list, initializers: list) -> ModelProto:
    graph = helper.make_graph(nodes, name, inputs, outputs, initializers)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", OPSET)], ir_version=IR_VERSION)


def config(architecture: str, labels: list[str] | tuple[str, ...]) -> dict:
    """config.json in the form of transformers."""
    names = {str(number): label for number, label in enumerate(labels)}
    return {"architectures": [architecture], "id2label": names, "label2id": {name: int(key) for key, name in names.items()}}


def write(folder: Path, files: dict[str, ModelProto | dict]) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for name, content in files.items():
        if isinstance(content, ModelProto):
            onnx.save(content, folder / name)
        else:
            (folder / name).write_text(json.dumps(content, indent=1), encoding="utf-8")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=Path, help="the folder to write to")
    out = parser.parse_args().out
    shutil.rmtree(out, ignore_errors=True)
    random = np.random.default_rng(14)

    pixels = {"preprocessor_config.json": PREPROCESSOR}
    fitted = fit_things(random)
    things = {"model.onnx": network_of_things(*fitted), "config.json": config("ResNetForImageClassification", THINGS)}
    write(out / "pixels", pixels)
    write(out / "things", things)
    write(out / "picture-to-thing", things | pixels)

    words = vocabulary()
    tokens = {"tokenizer.json": tokenizer(words), "tokenizer_config.json": TOKENIZER_CONFIG}
    weights = fit_opinions(words, random)
    opinions = {
        "model.onnx": network_of_opinions(weights),
        "config.json": config("BertForSequenceClassification", OPINIONS),
        # The network's own last step turns them into probabilities.
        "longshore.json": {"answer": {"function_to_apply": "none"}},
    }
    write(out / "tokens", tokens)
    write(out / "opinions", opinions)
    write(out / "review-to-opinion", opinions | tokens)
    write(out / "stars", {"model.onnx": network_of_stars(weights, random)})

    pictures = {}
    while len(pictures) < ASKED:
        thing = THINGS[len(pictures) % len(THINGS)]
        scene = Scene(thing, random)
        if is_clear(scene, thing, fitted):
            name = f"{len(pictures):02}-{thing}.jpg".replace(" ", "-")
            (out / name).write_bytes(jpeg(scene.draw(WIDTH, HEIGHT)))
            pictures[name] = thing
    questions = {"pictures": pictures, "reviews": dict(ASKED_REVIEWS)}
    (out / "questions.json").write_text(json.dumps(questions, indent=1), encoding="utf-8")
    size = sum(file.stat().st_size for file in out.glob("*.jpg")) / ASKED / 1024
    print(f"7 artifacts, and {ASKED} pictures of {WIDTH} by {HEIGHT}, {size:.0f} KiB each, written to {out}")


if __name__ == "__main__":
    main()
