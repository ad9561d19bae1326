#!/usr/bin/env python3
"""Makes product recommenders, one ONNX model for each customer segment of a shop.

    python3 -m venv .venv && .venv/bin/pip install -r scripts/requirements.txt
    .venv/bin/python scripts/make_recommenders.py models --count 100

The models are relatives. The shop has one catalogue and one table of item factors, of 1.1 MB, which
each model contains. The rest of a model has 10 KB: the items that the segment sells, with their
titles, and the taste of its customers. A model computes the factors of a customer from the taste
and from that customer's purchases. The table has the largest singular vectors of the weighted
purchases of all customers, as in PureSVD (Cremonesi, Koren and Turrin, 2010).

The assortment and the customers of a segment come from a generator that is seeded with its name,
and the table always covers all segments. So a model does not depend on the number of models.

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
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
from onnx import ModelProto, TensorProto, helper, numpy_helper

OPSET = 17
IR_VERSION = 8
HISTORY = 5
RECOMMENDED = 5
NOTHING = -1

CUSTOMERS = 40
PURCHASES = (8, 24)
ASSORTMENT = (180, 270)
FACTORS = 32
ROUNDS = 6
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
    "Patterned",
    "Premium",
    "Everyday",
    "Handmade",
    "Lightweight",
    "Sturdy",
    "Quiet",
    "Vintage",
]
COLOURS = ["black", "blue", "green", "red", "white"]

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
    """All items of the shop: by number their titles, their positions in `CATEGORIES`, `STYLES` and
    `COLOURS`, and their popularity.
    """

    titles: list[str]
    categories: np.ndarray
    styles: np.ndarray
    colours: np.ndarray
    popularity: np.ndarray


@dataclass(frozen=True)
class Segment:
    """The numbers of the items that a segment sells, and the purchases as a matrix of ones and
    zeros [customers, items that it sells].
    """

    assortment: np.ndarray
    purchases: np.ndarray


@dataclass(frozen=True)
class Recommender:
    """The content of a model.

    `factors` is the same in all models. It has a row for each item of the catalogue, and a last row
    of zeros for "nothing". `taste` holds the factors of an average purchase in the segment. It and
    the rows that a customer bought add up to that customer's factors.
    """

    factors: np.ndarray
    taste: np.ndarray
    assortment: np.ndarray
    titles: list[str]


# The shop: segments and who buys what in them


def segment_names(count: int) -> list[str]:
    """The first `count` segments; consecutive ones differ in location and in audience."""
    audiences = list(AUDIENCES)
    names = []
    for number in range(count):
        lap, place = divmod(number, len(PLACES))
        names.append(f"{PLACES[place]}-{audiences[(place + lap) % len(audiences)]}")
    return names


def seeded(name: str) -> np.random.Generator:
    """A generator of random numbers that is seeded with a name."""
    return np.random.default_rng(zlib.crc32(name.encode()))


def make_catalogue() -> Catalogue:
    """Every product in every style and colour."""
    titles, kinds = [], []
    for category, products in enumerate(PRODUCTS.values()):
        for title, style, colour in product(products.split(", "), range(len(STYLES)), range(len(COLOURS))):
            titles.append(f"{STYLES[style]} {COLOURS[colour]} {title}")
            kinds.append((category, style, colour))
    return Catalogue(titles, *np.array(kinds).T, seeded("shop").normal(0, 0.5, len(titles)))


def category_tastes(audience: str, random: np.random.Generator) -> np.ndarray:
    """A segment's preference for each category: high for its audience's three favourites, random
    for the rest.
    """
    tastes = random.normal(0, 0.6, len(CATEGORIES))
    for lead, category in enumerate(reversed(AUDIENCES[audience].split())):
        tastes[CATEGORIES.index(category)] += 1.0 + 0.5 * lead
    return tastes


def make_segment(name: str, catalogue: Catalogue) -> Segment:
    """A segment that sells part of the catalogue, with more of its favourites."""
    random = seeded(name)
    tastes = category_tastes(name.rpartition("-")[2], random)
    weights = np.exp(0.5 * tastes)[catalogue.categories]
    size = random.integers(*ASSORTMENT, endpoint=True)
    assortment = random.choice(len(weights), size, replace=False, p=weights / weights.sum())
    assortment.sort()
    return Segment(assortment, make_purchases(catalogue, assortment, tastes, random))


def make_purchases(
    catalogue: Catalogue, assortment: np.ndarray, tastes: np.ndarray, random: np.random.Generator
) -> np.ndarray:
    """The purchases of a segment's customers.

    A customer shares the segment's tastes, has two passions, and prefers some styles and colours.
    Some items are popular with all customers of the shop.
    """
    own_tastes = 0.5 * tastes + random.normal(0, 0.5, (CUSTOMERS, len(CATEGORIES)))
    passions = random.random((CUSTOMERS, len(CATEGORIES))).argsort(axis=1)[:, :2]
    np.put_along_axis(own_tastes, passions, np.take_along_axis(own_tastes, passions, axis=1) + 3.5, axis=1)
    style_tastes = random.normal(0, 0.3, (CUSTOMERS, len(STYLES)))
    colour_tastes = random.normal(0, 0.3, (CUSTOMERS, len(COLOURS)))
    appeal = own_tastes[:, catalogue.categories[assortment]] + style_tastes[:, catalogue.styles[assortment]]
    appeal += colour_tastes[:, catalogue.colours[assortment]] + catalogue.popularity[assortment]
    ranks = (-(appeal + random.gumbel(size=appeal.shape))).argsort(axis=1).argsort(axis=1)
    counts = random.integers(*PURCHASES, size=(CUSTOMERS, 1), endpoint=True)
    return (ranks < counts).astype(np.float32)


# The models: factors fitted to the purchases


def fit_items(segments: Sequence[Segment], items: int) -> np.ndarray:
    """The item factors [items, FACTORS] that describe the purchases of all segments best.

    A purchase of a rare item weighs more, because it says more about the customer. Repeated
    multiplication with the purchases, whose matrix [customers, items] exists in parts only, turns
    any factors into the largest singular vectors. An average row has a length of 1.
    """
    counts = np.ones(items, np.float32)
    for segment in segments:
        counts[segment.assortment] += segment.purchases.sum(axis=0)
    parts = [(segment.assortment, segment.purchases / np.sqrt(counts[segment.assortment])) for segment in segments]
    factors = seeded("factors").normal(size=(items, FACTORS)).astype(np.float32)
    for _ in range(ROUNDS):
        sums = np.zeros_like(factors)
        for assortment, purchases in parts:
            sums[assortment] += purchases.T @ (purchases @ factors[assortment])
        factors, _ = np.linalg.qr(sums)
    return factors * np.float32(np.sqrt(items / FACTORS))


def make_recommender(segment: Segment, catalogue: Catalogue, factors: np.ndarray) -> Recommender:
    """The recommender of a segment. `factors` has the item factors and the row for "nothing"."""
    shares = segment.purchases.sum(axis=0) / segment.purchases.sum()
    titles = [catalogue.titles[item] for item in segment.assortment]
    return Recommender(factors, shares @ factors[segment.assortment], segment.assortment, titles)


def to_onnx(recommender: Recommender, name: str) -> ModelProto:
    """The recommender as an ONNX model.

    It only looks rows up in the table of factors, so ONNX Runtime reads the table where it is. For
    a matrix product with all items, it would make a copy.
    """
    int64, float32, string = TensorProto.INT64, TensorProto.FLOAT, TensorProto.STRING
    nodes = [
        helper.make_node("Gather", ["factors", "bought"], ["bought_factors"]),
        helper.make_node("ReduceSum", ["bought_factors", "axis_1"], ["history"], keepdims=1),
        helper.make_node("Add", ["history", "taste"], ["customer"]),
        # An item that the customer has bought is replaced by "nothing", the smallest number.
        helper.make_node("Unsqueeze", ["bought", "axis_1"], ["bought_by_item"]),
        helper.make_node("Equal", ["assortment", "bought_by_item"], ["is_same"]),
        helper.make_node("Where", ["is_same", "nothing", "assortment"], ["compared"]),
        helper.make_node("ReduceMin", ["compared"], ["offered"], axes=[2], keepdims=0),
        helper.make_node("Gather", ["factors", "offered"], ["offered_factors"]),
        helper.make_node("Mul", ["offered_factors", "customer"], ["products"]),
        helper.make_node("ReduceSum", ["products", "axis_2"], ["fits"], keepdims=0),
        helper.make_node("Equal", ["offered", "nothing"], ["is_nothing"]),
        helper.make_node("Where", ["is_nothing", "minus_infinity", "fits"], ["candidates"]),
        helper.make_node("TopK", ["candidates", "recommended"], ["scores", "places"]),
        helper.make_node("GatherElements", ["offered", "places"], ["items"], axis=1),
        helper.make_node("Gather", ["item_titles", "places"], ["titles"]),
    ]
    constants = {
        "factors": recommender.factors,
        "taste": recommender.taste,
        "assortment": recommender.assortment[:, np.newaxis],
        "item_titles": np.array(recommender.titles, dtype=object),
        "nothing": np.array(NOTHING, np.int64),
        "minus_infinity": np.array(-np.inf, np.float32),
        "recommended": np.array([RECOMMENDED], np.int64),
        "axis_1": np.array([1], np.int64),
        "axis_2": np.array([2], np.int64),
    }
    initializers = [numpy_helper.from_array(constant, key) for key, constant in constants.items()]
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
    """The places in the assortment from best to worst for a customer, with their scores, computed
    without the ONNX model.
    """
    customer = recommender.factors[list(bought)].sum(axis=0, dtype=np.float64) + recommender.taste
    fits = recommender.factors[recommender.assortment] @ customer
    fits[np.isin(recommender.assortment, bought)] = -np.inf
    order = np.argsort(-fits, kind="stable")
    return order, fits[order]


def make_sample(recommender: Recommender, purchases: np.ndarray, random: np.random.Generator) -> dict[str, Any]:
    """A request of one customer and its answer.

    The customer is one for whom the best items differ clearly, so that rounding cannot swap them.
    """
    for customer in random.permutation(len(purchases)):
        places = random.choice(np.flatnonzero(purchases[customer]), HISTORY, replace=False)
        bought = recommender.assortment[places].tolist()
        order, fits = rank_items(recommender, bought)
        if np.diff(-fits[: RECOMMENDED + 1]).min() > CLEAR_GAP:
            break
    else:
        raise ValueError("no customer has clearly different recommendations")
    best = order[:RECOMMENDED]
    return {
        "request": {"bought": [bought]},
        "bought_titles": [[recommender.titles[place] for place in places]],
        "response": {
            "items": [recommender.assortment[best].tolist()],
            "scores": [[round(float(fit), 6) for fit in fits[:RECOMMENDED]]],
            "titles": [[recommender.titles[place] for place in best]],
        },
    }


# Writing


def write_model(directory: Path, recommender: Recommender) -> int:
    """Writes the model of a segment, and returns its size in bytes."""
    content = to_onnx(recommender, directory.name).SerializeToString()
    directory.mkdir(parents=True, exist_ok=True)
    (directory / "model.onnx").write_bytes(content)
    return len(content)


def write_segments(out: Path, count: int) -> int:
    """Makes `count` models and `segments.json` in `out`, and returns the models' size in bytes."""
    catalogue = make_catalogue()
    segments = {name: make_segment(name, catalogue) for name in segment_names(MOST_SEGMENTS)}
    items = fit_items(list(segments.values()), len(catalogue.titles))
    factors = np.vstack([items, np.zeros_like(items[:1])])
    lines, size = [], 0
    for name in segment_names(count):
        recommender = make_recommender(segments[name], catalogue, factors)
        written = write_model(out / name, recommender)
        facts = {"items": len(recommender.titles), "factors": FACTORS, "bytes": written}
        facts |= make_sample(recommender, segments[name].purchases, seeded(f"sample of {name}"))
        lines.append(f"{json.dumps(name)}: {json.dumps(facts)}")
        size += written
    (out / "segments.json").write_text("{\n" + ",\n".join(lines) + "\n}\n", encoding="utf-8")
    return size


def parse_count(text: str) -> int:
    """Parses a number of segments, up to the number that exist."""
    count = int(text)
    if not 1 <= count <= MOST_SEGMENTS:
        raise argparse.ArgumentTypeError(f"expected a number from 1 to {MOST_SEGMENTS}")
    return count


def parse_arguments() -> argparse.Namespace:
    """Parses the command line."""
    parser = argparse.ArgumentParser(
        description="Makes product recommenders, one ONNX model for each customer segment of a shop.",
        epilog=(
            "OUT/SEGMENT/model.onnx, of 1.1 MB, is the model of a segment, such as de-berlin-families: it takes the "
            "numbers of the last five items that a customer bought (bought, int64 [batch, 5], -1 for nothing) and answers the items, "
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
