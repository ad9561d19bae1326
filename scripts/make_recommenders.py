#!/usr/bin/env python3
"""Makes product recommenders, one small ONNX model for each customer segment of a shop.

    python3 -m venv .venv && .venv/bin/pip install -r scripts/requirements.txt
    .venv/bin/python scripts/make_recommenders.py models --count 100

Each segment has its own catalogue, customers and tastes. All come from a generator that is seeded
with the segment's name, so a segment does not depend on the number of segments. Alternating least
squares for implicit feedback (Hu, Koren and Volinsky, 2008) factors the purchases of its
customers. A model holds the item factors, and computes the factors of a customer from that
customer's purchases.

    input   bought  int64   [batch, 5]  numbers of the last five items bought; -1 stands for "nothing"
    output  items   int64   [batch, 5]  numbers of five recommended items, best first, none of those bought
    output  scores  float32 [batch, 5]  how well each of them fits
    output  titles  string  [batch, 5]  their titles
"""

from __future__ import annotations

import argparse
import json
import sys
import time
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from onnx import ModelProto, TensorProto, helper, numpy_helper

OPSET = 17
IR_VERSION = 8
HISTORY = 5
RECOMMENDED = 5
NOTHING = -1

CUSTOMERS = 240
PURCHASES = (8, 24)
ITEMS = (180, 270)
FACTORS = (10, 20)
ROUNDS = 6
CONFIDENCE = 20.0
REGULARIZATION = 2.0
CLEAR_GAP = 1e-3

CITIES = {
    "de": "berlin hamburg munich cologne leipzig",
    "fr": "paris lyon nantes toulouse",
    "es": "madrid valencia bilbao",
    "pt": "lisbon porto",
    "it": "milan rome turin bologna",
    "nl": "amsterdam utrecht",
    "be": "ghent antwerp",
    "at": "vienna graz",
    "ch": "zurich basel",
    "pl": "warsaw krakow gdansk",
    "cz": "prague brno",
    "dk": "copenhagen aarhus",
    "se": "stockholm malmo",
    "no": "oslo bergen",
    "fi": "helsinki tampere",
    "ie": "dublin",
}
PLACES = [f"{country}-{city}" for country, cities in CITIES.items() for city in cities.split()]

PRODUCTS = {
    "kitchen": "saucepan, chef's knife, cutting board, kettle, toaster, mixing bowl, blender, salad spinner, wok, "
    "espresso pot, bread tin, spice rack",
    "garden": "watering can, pruning shears, seed tray, garden hose, wheelbarrow, plant trellis, compost bin, rake, "
    "garden gloves, bird feeder, flower pot, trowel",
    "toys": "wooden train, building blocks, jigsaw puzzle, dollhouse, kite, board game, plush bear, marble run, "
    "toy kitchen, craft box, balance bike, bath boat",
    "outdoors": "tent, sleeping bag, hiking poles, camping stove, head torch, rucksack, hammock, picnic blanket, "
    "water bottle, rain poncho, folding chair, compass",
    "cycling": "bike lock, pannier, bike light, tyre pump, cycling gloves, helmet, saddle, repair stand, bell, "
    "child seat, bottle cage, mudguards",
    "sport": "yoga mat, dumbbells, skipping rope, running belt, swim goggles, tennis racket, football, foam roller, "
    "resistance bands, sports bag, table tennis set, climbing chalk",
    "desk": "desk lamp, notebook, fountain pen, monitor stand, office chair, pinboard, pencil case, planner, "
    "letter tray, footrest, whiteboard, document folder",
    "electronics": "headphones, phone charger, keyboard, webcam, speaker, power bank, e-reader, smart plug, router, "
    "microphone, game controller, radio",
    "home": "floor lamp, wool blanket, cushion, wall clock, laundry basket, curtain, doormat, bookshelf, mirror, "
    "candle holder, picture frame, bath towel",
    "music": "ukulele, guitar strings, music stand, record player, metronome, keyboard piano, harmonica, drum pad, "
    "songbook, tuner, audio cable, maracas",
    "travel": "suitcase, neck pillow, packing cubes, travel adapter, toiletry bag, passport wallet, luggage scale, "
    "day bag, sleep mask, phrasebook, travel mug, garment bag",
    "care": "hairbrush, hand cream, electric toothbrush, bath salts, razor, heating pad, nail kit, soap dish, "
    "massage ball, first-aid kit, humidifier, sun cream",
}
STYLES = [
    "Compact",
    "Classic",
    "Foldable",
    "Recycled",
    "Colourful",
    "Premium",
    "Everyday",
    "Handmade",
    "Lightweight",
    "Sturdy",
    "Quiet",
    "Vintage",
]

AUDIENCES = {
    "families": "toys kitchen outdoors",
    "students": "desk electronics kitchen",
    "seniors": "care home garden",
    "couples": "home travel kitchen",
    "commuters": "cycling electronics travel",
    "gardeners": "garden outdoors home",
    "cyclists": "cycling sport outdoors",
    "musicians": "music electronics desk",
    "cooks": "kitchen home garden",
    "hikers": "outdoors travel care",
    "runners": "sport care electronics",
    "gamers": "electronics desk music",
    "travellers": "travel care outdoors",
    "homeworkers": "desk home electronics",
    "newcomers": "home kitchen desk",
    "grandparents": "toys garden care",
    "teachers": "desk toys music",
    "athletes": "sport cycling care",
    "campers": "outdoors kitchen travel",
    "decorators": "home garden music",
    "parents": "toys care home",
    "pensioners": "travel garden music",
    "trainees": "electronics cycling desk",
    "weekenders": "outdoors cycling music",
    "collectors": "music toys desk",
}
CATEGORIES = list(PRODUCTS)
MOST_SEGMENTS = len(PLACES) * len(AUDIENCES)


@dataclass(frozen=True)
class Catalogue:
    """The items of a segment: by number their titles, and their positions in `CATEGORIES` and
    `STYLES`.
    """

    titles: list[str]
    categories: np.ndarray
    styles: np.ndarray


@dataclass(frozen=True)
class Recommender:
    """The content of a model.

    `factors` has a row for each item, and a last row of zeros for "nothing". The sum of the rows
    that a customer bought times `projection` gives that customer's factors.
    """

    titles: list[str]
    factors: np.ndarray
    projection: np.ndarray


# The shop: segments and who buys what in them


def segment_names(count: int) -> list[str]:
    """The first `count` segments; consecutive ones differ in location and in audience."""
    audiences = list(AUDIENCES)
    names = []
    for number in range(count):
        lap, place = divmod(number, len(PLACES))
        names.append(f"{PLACES[place]}-{audiences[(place + lap) % len(audiences)]}")
    return names


def category_tastes(audience: str, random: np.random.Generator) -> np.ndarray:
    """A segment's preference for each category: high for its audience's three favourites, random
    for the rest.
    """
    tastes = random.normal(0, 0.6, len(CATEGORIES))
    for lead, category in enumerate(reversed(AUDIENCES[audience].split())):
        tastes[CATEGORIES.index(category)] += 1.0 + 0.5 * lead
    return tastes


def make_catalogue(tastes: np.ndarray, random: np.random.Generator) -> Catalogue:
    """A selection of all products in all styles, with more of the segment's favourites."""
    offers = [
        (category, style, f"{STYLES[style]} {product}")
        for category, products in enumerate(PRODUCTS.values())
        for product in products.split(", ")
        for style in range(len(STYLES))
    ]
    weights = np.exp(0.5 * tastes)[[category for category, _, _ in offers]]
    size = int(random.integers(*ITEMS, endpoint=True))
    chosen = [offers[offer] for offer in random.choice(len(offers), size, replace=False, p=weights / weights.sum())]
    categories, styles, titles = zip(*chosen)
    return Catalogue(list(titles), np.array(categories), np.array(styles))


def make_purchases(catalogue: Catalogue, tastes: np.ndarray, random: np.random.Generator) -> np.ndarray:
    """The purchases as a matrix of ones and zeros [customers, items].

    A customer shares the segment's tastes, has two passions, and prefers some styles. Some items
    are popular with all customers.
    """
    items = len(catalogue.titles)
    own_tastes = 0.5 * tastes + random.normal(0, 0.5, (CUSTOMERS, len(CATEGORIES)))
    passions = random.random((CUSTOMERS, len(CATEGORIES))).argsort(axis=1)[:, :2]
    np.put_along_axis(own_tastes, passions, np.take_along_axis(own_tastes, passions, axis=1) + 3.5, axis=1)
    style_tastes = random.normal(0, 0.3, (CUSTOMERS, len(STYLES)))
    popularity = random.normal(0, 0.5, items)
    appeal = own_tastes[:, catalogue.categories] + style_tastes[:, catalogue.styles] + popularity
    ranks = (-(appeal + random.gumbel(size=appeal.shape))).argsort(axis=1).argsort(axis=1)
    counts = random.integers(*PURCHASES, size=(CUSTOMERS, 1), endpoint=True)
    return (ranks < counts).astype(np.float64)


# The model: factors fitted to the purchases


def solve_side(bought: np.ndarray, fixed: np.ndarray) -> np.ndarray:
    """The factors of each row of `bought` that fit best while the factors of its columns are
    `fixed`.
    """
    size = fixed.shape[1]
    products = np.einsum("if,ig->ifg", fixed, fixed).reshape(len(fixed), size * size)
    extra = CONFIDENCE * (bought @ products).reshape(-1, size, size)
    systems = fixed.T @ fixed + REGULARIZATION * np.eye(size) + extra
    targets = (1.0 + CONFIDENCE) * (bought @ fixed)
    return np.linalg.solve(systems, targets[:, :, np.newaxis])[:, :, 0]


def fit_items(purchases: np.ndarray, size: int, random: np.random.Generator) -> np.ndarray:
    """The item factors [items, size] after some rounds of alternating least squares."""
    items = random.normal(0, 0.1, (purchases.shape[1], size))
    for _ in range(ROUNDS):
        customers = solve_side(purchases, items)
        items = solve_side(purchases.T, customers)
    return items


def make_recommender(catalogue: Catalogue, purchases: np.ndarray, random: np.random.Generator) -> Recommender:
    """A recommender fitted to the purchases."""
    size = int(random.integers(*FACTORS, endpoint=True))
    items = fit_items(purchases, size, random)
    projection = np.linalg.inv(items.T @ items + REGULARIZATION * np.eye(size)) * (1.0 + CONFIDENCE)
    factors = np.vstack([items, np.zeros(size)])
    return Recommender(catalogue.titles, factors.astype(np.float32), projection.astype(np.float32))


def to_onnx(recommender: Recommender, name: str) -> ModelProto:
    """The recommender as an ONNX model."""
    int64, float32, string = TensorProto.INT64, TensorProto.FLOAT, TensorProto.STRING
    minus_infinity = helper.make_tensor("minus_infinity", float32, [1], [float("-inf")])
    nodes = [
        helper.make_node("Gather", ["factors", "bought"], ["bought_factors"], axis=0),
        helper.make_node("ReduceSum", ["bought_factors", "history_axis"], ["history"], keepdims=0),
        helper.make_node("MatMul", ["history", "projection"], ["customer"]),
        helper.make_node("Gemm", ["customer", "factors"], ["fits"], transB=1),
        helper.make_node("Shape", ["bought"], ["bought_shape"]),
        helper.make_node("ConstantOfShape", ["bought_shape"], ["never"], value=minus_infinity),
        helper.make_node("ScatterElements", ["fits", "bought", "never"], ["fits_not_bought"], axis=1),
        helper.make_node("Slice", ["fits_not_bought", "first", "nothing", "item_axis"], ["candidates"]),
        helper.make_node("TopK", ["candidates", "recommended"], ["scores", "items"], axis=1),
        helper.make_node("Gather", ["item_titles", "items"], ["titles"], axis=0),
    ]
    numbers = {"history_axis": 1, "first": 0, "nothing": NOTHING, "item_axis": 1, "recommended": RECOMMENDED}
    initializers = [
        numpy_helper.from_array(recommender.factors, "factors"),
        numpy_helper.from_array(recommender.projection, "projection"),
        numpy_helper.from_array(np.array(recommender.titles, dtype=object), "item_titles"),
    ] + [numpy_helper.from_array(np.array([number], np.int64), key) for key, number in numbers.items()]
    graph = helper.make_graph(
        nodes,
        name,
        [helper.make_tensor_value_info("bought", int64, ["batch", HISTORY])],
        [
            helper.make_tensor_value_info("items", int64, ["batch", RECOMMENDED]),
            helper.make_tensor_value_info("scores", float32, ["batch", RECOMMENDED]),
            helper.make_tensor_value_info("titles", string, ["batch", RECOMMENDED]),
        ],
        initializers,
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", OPSET)], ir_version=IR_VERSION)


# The reference: the right answers of a model


def rank_items(recommender: Recommender, bought: Sequence[int]) -> tuple[np.ndarray, np.ndarray]:
    """All items from best to worst for a customer, with their scores, computed without the ONNX
    model.
    """
    history = recommender.factors[list(bought)].sum(axis=0, dtype=np.float64)
    fits = recommender.factors[:-1] @ (history @ recommender.projection)
    fits[[item for item in bought if item != NOTHING]] = -np.inf
    order = np.argsort(-fits, kind="stable")
    return order, fits[order]


def make_sample(recommender: Recommender, purchases: np.ndarray, random: np.random.Generator) -> dict[str, Any]:
    """A request of one customer and its answer.

    The customer is one for whom the best items differ clearly, so that rounding cannot swap them.
    """
    for customer in random.permutation(len(purchases)):
        bought = random.choice(np.flatnonzero(purchases[customer]), HISTORY, replace=False).tolist()
        order, fits = rank_items(recommender, bought)
        if np.diff(-fits[: RECOMMENDED + 1]).min() > CLEAR_GAP:
            break
    else:
        raise ValueError("no customer has clearly different recommendations")
    items = order[:RECOMMENDED].tolist()
    return {
        "request": {"bought": [bought]},
        "bought_titles": [[recommender.titles[item] for item in bought]],
        "response": {
            "items": [items],
            "scores": [[round(float(fit), 6) for fit in fits[:RECOMMENDED]]],
            "titles": [[recommender.titles[item] for item in items]],
        },
    }


# Writing


def write_segment(directory: Path, name: str) -> dict[str, Any]:
    """Makes the model of a segment and returns its entry in `segments.json`."""
    random = np.random.default_rng(zlib.crc32(name.encode()))
    tastes = category_tastes(name.rpartition("-")[2], random)
    catalogue = make_catalogue(tastes, random)
    purchases = make_purchases(catalogue, tastes, random)
    recommender = make_recommender(catalogue, purchases, random)
    content = to_onnx(recommender, name).SerializeToString()
    directory.mkdir(parents=True, exist_ok=True)
    (directory / "model.onnx").write_bytes(content)
    facts = {"items": len(catalogue.titles), "factors": recommender.factors.shape[1], "bytes": len(content)}
    return facts | make_sample(recommender, purchases, random)


def write_segments(out: Path, count: int) -> int:
    """Makes `count` models and `segments.json` in `out`, and returns the models' size in bytes."""
    segments = {name: write_segment(out / name, name) for name in segment_names(count)}
    lines = [f"{json.dumps(name)}: {json.dumps(segment)}" for name, segment in segments.items()]
    (out / "segments.json").write_text("{\n" + ",\n".join(lines) + "\n}\n", encoding="utf-8")
    return sum(segment["bytes"] for segment in segments.values())


def parse_count(text: str) -> int:
    """Parses a number of segments, up to the number that exist."""
    count = int(text)
    if not 1 <= count <= MOST_SEGMENTS:
        raise argparse.ArgumentTypeError(f"expected a number from 1 to {MOST_SEGMENTS}")
    return count


def parse_arguments() -> argparse.Namespace:
    """Parses the command line."""
    parser = argparse.ArgumentParser(
        description="Makes product recommenders, one small ONNX model for each customer segment of a shop.",
        epilog=(
            "OUT/SEGMENT/model.onnx is the model of a segment, such as de-berlin-families: it takes the numbers of the "
            "last five items that a customer bought (bought, int64 [batch, 5], -1 for nothing) and answers the items, "
            "scores and titles of five to recommend. OUT/segments.json holds for each segment, one a line, a sample "
            "request and the response to it, worked out with NumPy alone; scores agree within 0.0001. The same segment "
            "is made the same each time, and files of an earlier run are overwritten."
        ),
    )
    parser.add_argument("out", metavar="OUT", type=Path, help="the directory to write to, created if it does not exist")
    parser.add_argument(
        "--count",
        metavar="N",
        type=parse_count,
        default=100,
        help=f"how many segments to make, from 1 to {MOST_SEGMENTS} (default: %(default)s)",
    )
    return parser.parse_args()


def main() -> int:
    """Makes the models and prints a summary."""
    arguments = parse_arguments()
    start = time.monotonic()
    size = write_segments(arguments.out, arguments.count)
    seconds = time.monotonic() - start
    print(f"{arguments.count} models, {size / 1024:.0f} KiB, written to {arguments.out} in {seconds:.1f} s")
    return 0


if __name__ == "__main__":
    sys.exit(main())
