"""Writes cases.json: outputs of models and the libraries' answers for them.

The answers are computed here with NumPy only, by the rules of transformers 4.57 (the `postprocess`
of its pipelines, `post_process_object_detection`, `post_process_semantic_segmentation`),
sentence-transformers 5.1 (Pooling, Normalize, cos_sim), text-embeddings-inference 1.8 (rerank),
and the post-processing of YOLOv5, v8 and v10. They were compared once with transformers 4.57.3,
sentence-transformers 5.1.2 and torchvision's nms.

Run: python tests/task/fixtures.py
Made with Python 3.11 and numpy==2.3.5.
"""

import json
import pathlib

import numpy as np

HERE = pathlib.Path(__file__).parent
CASES = []


def case(name, task, outputs, expected, *, labels=(), settings=None, records=1, form="list", **context):
    CASES.append(
        {
            "name": name,
            "task": task,
            "labels": list(labels),
            "settings": settings or {},
            "outputs": [tensor(key, value) for key, value in outputs.items()],
            "records": records,
            "form": form,
            "expected": plain(expected),
            **plain(context),
        }
    )


def tensor(name, value):
    return {"name": name, "type": str(value.dtype), "shape": list(value.shape), "data": plain(value.ravel())}


def plain(value):
    if isinstance(value, dict):
        return {key: plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [plain(item) for item in value]
    if isinstance(value, np.ndarray):
        return plain(value.tolist())
    if isinstance(value, np.generic):
        return plain(value.item())
    if isinstance(value, float):
        return float(f"{value:.9g}")
    return value


def random(seed, *shape, scale=3.0):
    numbers = np.random.default_rng(seed).normal(size=shape) * scale
    return np.round(numbers, 3).astype(np.float32)


def softmax(x):
    shifted = np.exp(x - np.max(x, axis=-1, keepdims=True))
    return shifted / shifted.sum(axis=-1, keepdims=True)


def sigmoid(x):
    return 1.0 / (1.0 + np.exp(-x))


# Classification: TextClassificationPipeline, ImageClassificationPipeline,
# AudioClassificationPipeline.


def label(labels, number):
    return labels[number] if number < len(labels) else f"LABEL_{number}"


def classified(scores, labels, top_k):
    scored = [{"label": label(labels, i), "score": score} for i, score in enumerate(scores)]
    scored.sort(key=lambda entry: entry["score"], reverse=True)
    return scored[:top_k]


def classification():
    names = ["NEGATIVE", "NEUTRAL", "POSITIVE"]
    logits = random(1, 4, 3)
    scores = softmax(logits)
    best = [classified(row, names, 1)[0] for row in scores]
    case(
        "a text has one label, and no list around it",
        "text-classification",
        {"logits": logits},
        best,
        labels=names,
        records=4,
    )
    case(
        "one text has a list around its label",
        "text-classification",
        {"logits": logits[:1]},
        best[:1],
        labels=names,
        form="one",
    )
    case(
        "texts have lists of labels where top_k is given",
        "text-classification",
        {"logits": logits},
        [classified(row, names, 2) for row in scores],
        labels=names,
        records=4,
        settings={"top_k": 2},
    )
    case(
        "one text has one list of all labels",
        "text-classification",
        {"logits": logits[:1]},
        classified(scores[0], names, None),
        labels=names,
        settings={"top_k": None},
        form="one",
    )
    case(
        "classes without names are numbered",
        "text-classification",
        {"logits": logits[:1]},
        classified(scores[0], [], None),
        settings={"top_k": None},
        form="one",
    )
    case(
        "several labels of a text have sigmoids",
        "text-classification",
        {"logits": logits},
        [classified(sigmoid(row), names, None) for row in logits],
        labels=names,
        records=4,
        settings={"problem_type": "multi_label_classification", "top_k": None},
    )
    case(
        "a regression is as it is",
        "text-classification",
        {"logits": logits[:, :1]},
        [classified(row, [], 1)[0] for row in logits[:, :1]],
        records=4,
        settings={"problem_type": "regression"},
    )
    case(
        "a single logit has a sigmoid",
        "text-classification",
        {"logits": logits[:, :1]},
        [classified(sigmoid(row), [], 1)[0] for row in logits[:, :1]],
        records=4,
    )
    case(
        "float16 is read",
        "text-classification",
        {"logits": logits.astype(np.float16)},
        [classified(row, names, 1)[0] for row in softmax(logits.astype(np.float16).astype(np.float32))],
        labels=names,
        records=4,
    )
    case(
        "float64 is read",
        "text-classification",
        {"logits": logits.astype(np.float64)},
        best,
        labels=names,
        records=4,
    )
    many = random(2, 2, 12)
    names = [f"animal {i}" for i in range(12)]
    scores = softmax(many)
    case(
        "a picture has five labels",
        "image-classification",
        {"logits": many},
        [classified(row, names, 5) for row in scores],
        labels=names,
        records=2,
    )
    case(
        "one picture has one list",
        "image-classification",
        {"logits": many[:1]},
        classified(scores[0], names, 5),
        labels=names,
        form="one",
    )
    case(
        "axes of size 1 count for nothing",
        "image-classification",
        {"output": many[:, :, None, None]},
        [classified(row, names, 5) for row in scores],
        labels=names,
        records=2,
    )
    case(
        "probabilities stay",
        "image-classification",
        {"probabilities": scores.astype(np.float32)},
        [classified(row, names, 5) for row in scores.astype(np.float32)],
        labels=names,
        records=2,
    )
    case(
        "a function is applied that is asked for",
        "image-classification",
        {"logits": many},
        [classified(sigmoid(row), names, 5) for row in many],
        labels=names,
        records=2,
        settings={"function_to_apply": "sigmoid"},
    )
    equal = np.array([[1, 2, 2, 0, 2]], np.float32)
    case(
        "the first one of equals comes first",
        "image-classification",
        {"logits": equal},
        classified(softmax(equal)[0], [], 5),
        form="one",
    )
    case(
        "a sound has softmax and five labels",
        "audio-classification",
        {"logits": many},
        [classified(row, names, 5) for row in scores],
        labels=names,
        records=2,
        settings={"problem_type": "multi_label_classification"},
    )


# Embeddings: Pooling, Normalize, truncate_dim, cos_sim of sentence-transformers.


def pooled(tokens, mask, modes):
    expanded = mask[:, :, None].astype(np.float32)
    parts = []
    for mode in ["cls", "max", "mean", "mean_sqrt_len_tokens", "weightedmean", "lasttoken"]:
        if mode not in modes:
            continue
        if mode == "cls":
            parts.append(tokens[:, 0])
        elif mode == "max":
            parts.append(np.where(expanded == 0, -1e9, tokens).max(1))
        elif mode in ("mean", "mean_sqrt_len_tokens"):
            total = np.clip(expanded.sum(1), 1e-9, None)
            parts.append((tokens * expanded).sum(1) / (total if mode == "mean" else np.sqrt(total)))
        elif mode == "weightedmean":
            weights = expanded * np.arange(1, tokens.shape[1] + 1)[None, :, None]
            parts.append((tokens * weights).sum(1) / np.clip(weights.sum(1), 1e-9, None))
        else:
            last = tokens.shape[1] - np.argmax(mask[:, ::-1], axis=1) - 1
            parts.append(tokens[np.arange(len(tokens)), last])
    return np.concatenate(parts, 1)


def normalized(vectors):
    return vectors / np.clip(np.linalg.norm(vectors, axis=-1, keepdims=True), 1e-12, None)


def embeddings():
    tokens = random(3, 3, 5, 8)
    mask = np.array([[1, 1, 1, 1, 1], [1, 1, 1, 0, 0], [1, 0, 0, 0, 0]])
    rows = [{"attention": row} for row in mask]
    outputs = {"last_hidden_state": tokens}
    for mode in ["cls", "max", "mean", "mean_sqrt_len_tokens", "weightedmean", "lasttoken"]:
        case(
            f"pooling {mode}",
            "sentence-similarity",
            outputs,
            pooled(tokens, mask, [mode]),
            records=3,
            tokens=rows,
            settings={"pooling": mode},
        )
    case(
        "poolings side by side, in the library's order",
        "sentence-similarity",
        outputs,
        pooled(tokens, mask, ["mean", "cls"]),
        records=3,
        tokens=rows,
        settings={"pooling": ["mean", "cls"]},
    )
    case(
        "the mean is the usual pooling",
        "sentence-similarity",
        outputs,
        pooled(tokens, mask, ["mean"]),
        records=3,
        tokens=rows,
    )
    case(
        "embeddings are normalised",
        "sentence-similarity",
        outputs,
        normalized(pooled(tokens, mask, ["mean"])),
        records=3,
        tokens=rows,
        settings={"normalize": True},
    )
    case(
        "embeddings are cut, and normalised after it",
        "sentence-similarity",
        outputs,
        normalized(pooled(tokens, mask, ["mean"])[:, :3]),
        records=3,
        tokens=rows,
        settings={"normalize": True, "dimensions": 3},
    )
    left = np.array([[0, 0, 1, 1, 1], [0, 1, 1, 1, 1], [1, 1, 1, 1, 1]])
    case(
        "the last token with the padding at the left",
        "sentence-similarity",
        outputs,
        pooled(tokens, left, ["lasttoken"]),
        records=3,
        tokens=[{"attention": row} for row in left],
        settings={"pooling": "lasttoken"},
    )
    ready = random(4, 3, 8)
    case(
        "an output that is pooled is taken as it is",
        "sentence-similarity",
        {"token_embeddings": tokens, "sentence_embedding": ready},
        ready,
        records=3,
        tokens=rows,
    )
    case(
        "one sentence has one embedding",
        "sentence-similarity",
        {"sentence_embedding": ready[:1]},
        ready[0],
        form="one",
    )
    mean = pooled(tokens, mask, ["mean"])
    near = normalized(mean)
    case(
        "a sentence is compared with the others",
        "sentence-similarity",
        outputs,
        near[1:] @ near[0],
        records=3,
        tokens=rows,
        question="similarity",
    )
    # FeatureExtractionPipeline runs each text alone, so no text has padding.
    expected = [[row[keep == 1]] for row, keep in zip(tokens, mask)]
    case("features have no padding", "feature-extraction", outputs, expected, records=3, tokens=rows)
    case(
        "features of one text",
        "feature-extraction",
        {"last_hidden_state": tokens[:1]},
        tokens[:1],
        tokens=rows[:1],
        form="one",
    )
    case("features of pictures", "feature-extraction", {"pooler_output": ready}, ready[:, None], records=3)


def ranking():
    logits = random(5, 5, 1)
    scores = sigmoid(logits[:, 0])
    order = sorted(range(5), key=lambda i: -scores[i])
    texts = [f"text {i}" for i in range(5)]
    case(
        "texts are ranked",
        "text-ranking",
        {"logits": logits},
        [{"index": i, "score": scores[i]} for i in order],
        records=5,
        question={"ranking": texts},
    )
    case(
        "a ranking repeats its texts",
        "text-ranking",
        {"logits": logits},
        [{"index": i, "score": scores[i], "text": texts[i]} for i in order[:2]],
        records=5,
        question={"ranking": texts},
        settings={"return_text": True, "top_k": 2},
    )
    case(
        "scores are raw where they are asked for",
        "text-ranking",
        {"logits": logits},
        [{"index": i, "score": logits[i, 0]} for i in order],
        records=5,
        question={"ranking": texts},
        settings={"raw_scores": True},
    )
    case("pairs have their scores in order", "text-ranking", {"logits": logits}, scores, records=5)


# TokenClassificationPipeline.

WORDS = [
    "[PAD]",
    "[UNK]",
    "[CLS]",
    "[SEP]",
    "[MASK]",
    "Wolf",
    "##gang",
    "lives",
    "in",
    "New",
    "York",
    "##shire",
    ",",
    "near",
    "Bo",
    "##chum",
    ".",
]


def join(tokens):
    text = ""
    for i, token in enumerate(tokens):
        part = token
        if i:
            part = token[2:] if token.startswith("##") else " " + token
        for mark in [".", "?", "!", ","]:
            part = part.replace(" " + mark, mark)
        text += part
    return text


def entities(text, words, ids, offsets, special, scores, labels, strategy, ignore, marks, unk=1):
    pieces = []
    for index, row in enumerate(scores):
        if special[index]:
            continue
        word, (start, end) = words[ids[index]], offsets[index]
        reference = text[start:end]
        if marks:
            is_subword = len(word) != len(reference)
        else:
            is_subword = start > 0 and " " not in text[start - 1 : start + 1]
        if ids[index] == unk:
            word, is_subword = reference, False
        pieces.append(
            {
                "word": word,
                "scores": row,
                "start": start,
                "end": end,
                "index": index,
                "is_subword": is_subword,
            }
        )
    if strategy in ("none", "simple"):
        tagged = []
        for piece in pieces:
            best = piece["scores"].argmax()
            tagged.append(
                {
                    "entity": labels[best],
                    "score": piece["scores"][best],
                    "index": piece["index"],
                    "word": piece["word"],
                    "start": piece["start"],
                    "end": piece["end"],
                }
            )
    else:
        groups = []
        for piece in pieces:
            if groups and piece["is_subword"]:
                groups[-1].append(piece)
            else:
                groups.append([piece])
        tagged = [whole_word(group, labels, strategy) for group in groups]
    if strategy != "none":
        tagged = grouped(tagged)
    return [
        entity
        for entity in tagged
        if entity.get("entity") not in ignore and entity.get("entity_group") not in ignore
    ]


def whole_word(group, labels, strategy):
    if strategy == "first":
        scores = group[0]["scores"]
    elif strategy == "max":
        scores = max(group, key=lambda piece: piece["scores"].max())["scores"]
    else:
        scores = np.nanmean(np.stack([piece["scores"] for piece in group]), axis=0)
    best = scores.argmax()
    return {
        "entity": labels[best],
        "score": scores[best],
        "word": join([piece["word"] for piece in group]),
        "start": group[0]["start"],
        "end": group[-1]["end"],
    }


def grouped(tagged):
    def tag(name):
        return (name[0], name[2:]) if name[:2] in ("B-", "I-") else ("I", name)

    groups = []
    for entity in tagged:
        begin, own = tag(entity["entity"])
        if groups and own == tag(groups[-1][-1]["entity"])[1] and begin != "B":
            groups[-1].append(entity)
        else:
            groups.append([entity])
    return [
        {
            "entity_group": group[0]["entity"].split("-")[-1],
            "score": np.mean([entity["score"] for entity in group]),
            "word": join([entity["word"] for entity in group]),
            "start": group[0]["start"],
            "end": group[-1]["end"],
        }
        for group in groups
    ]


def token_classification():
    labels = ["O", "B-PER", "I-PER", "B-LOC", "I-LOC"]
    text = "Wolfgang lives in New Yorkshire, near Bochum é東."
    ids = [2, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15, 1, 16, 3]
    offsets = [
        (0, 0),
        (0, 4),
        (4, 8),
        (9, 14),
        (15, 17),
        (18, 21),
        (22, 26),
        (26, 31),
        (31, 32),
        (33, 37),
        (38, 40),
        (40, 44),
        (45, 47),
        (47, 48),
        (0, 0),
    ]
    special = [1] + [0] * 13 + [1]
    logits = random(6, len(ids), 5, scale=1.0)
    for index, tag in [(1, 1), (2, 2), (5, 3), (6, 4), (7, 3), (10, 3), (11, 3), (12, 4)]:
        logits[index, tag] += 3
    scores = softmax(logits)
    pad = 3
    padded = np.concatenate([logits, random(7, pad, 5)])[None]
    row = {
        "text": text,
        "ids": ids + [0] * pad,
        "attention": [1] * len(ids) + [0] * pad,
        "special": special + [1] * pad,
        "offsets": offsets + [(0, 0)] * pad,
    }
    vocabulary = {"tokens": WORDS, "unknown": 1, "mask": 4, "padding": 0, "beginning": 2, "marks": True}
    for strategy in ["none", "simple", "first", "average", "max"]:
        expected = entities(text, WORDS, ids, offsets, special, scores, labels, strategy, ["O"], True)
        case(
            f"entities, {strategy}",
            "token-classification",
            {"logits": padded},
            expected,
            labels=labels,
            settings={"aggregation_strategy": strategy},
            tokens=[row],
            vocabulary=vocabulary,
            form="one",
        )
        expected = entities(text, WORDS, ids, offsets, special, scores, labels, strategy, [], False)
        case(
            f"entities without marks in words, {strategy}",
            "token-classification",
            {"logits": padded},
            [expected],
            labels=labels,
            settings={"aggregation_strategy": strategy, "ignore_labels": []},
            tokens=[row],
            vocabulary={**vocabulary, "marks": False},
        )
    left = np.concatenate([random(7, pad, 5), logits])[None]
    row = {
        "text": text,
        "ids": [0] * pad + ids,
        "attention": [0] * pad + [1] * len(ids),
        "special": [1] * pad + special,
        "offsets": [(0, 0)] * pad + offsets,
    }
    expected = entities(text, WORDS, ids, offsets, special, scores, labels, "none", ["O"], True)
    case(
        "entities with the padding at the left",
        "token-classification",
        {"logits": left},
        [expected],
        labels=labels,
        tokens=[row],
        vocabulary=vocabulary,
    )


# Object detection.


def detections(found, labels):
    return [
        {
            "score": score,
            "label": label(labels, number),
            "box": dict(zip(["xmin", "ymin", "xmax", "ymax"], [int(x) for x in box])),
        }
        for score, number, box in found
    ]


def corners(boxes):
    x, y, w, h = np.moveaxis(boxes, -1, 0)
    return np.stack([x - 0.5 * w, y - 0.5 * h, x + 0.5 * w, y + 0.5 * h], -1)


def overlap(a, b):
    width = max(0, min(a[2], b[2]) - max(a[0], b[0]))
    height = max(0, min(a[3], b[3]) - max(a[1], b[1]))
    area = lambda box: (box[2] - box[0]) * (box[3] - box[1])
    return width * height / (area(a) + area(b) - width * height)


def suppressed(found, bound):
    kept = []
    for score, number, box in sorted(found, key=lambda entry: -entry[0]):
        if all(other != number or overlap(box, other_box) <= bound for _, other, other_box in kept):
            kept.append((score, number, box))
    return kept


def placed(found, size, content):
    left, top, right, bottom = content
    scale = np.array([size[0] / (right - left), size[1] / (bottom - top)] * 2)
    limit = np.array(list(size) * 2)
    return [
        (score, number, np.clip((box - [left, top, left, top]) * scale, 0, limit))
        for score, number, box in found
    ]


def detr():
    labels = ["cat", "dog", "N/A"]
    logits, boxes = random(8, 2, 12, 4), np.round(
        np.random.default_rng(9).uniform(0.05, 0.6, (2, 12, 4)), 3
    ).astype(np.float32)
    sizes = [(640, 480), (333, 500)]
    pictures = [{"size": size, "input": (800, 800)} for size in sizes]
    outputs = {"logits": logits, "pred_boxes": boxes}
    for name, settings, threshold in [("", {}, 0.5), (" with a low threshold", {"threshold": 0.2}, 0.2)]:
        expected = []
        for row, own, size in zip(softmax(logits)[:, :, :-1], boxes, sizes):
            box = corners(own) * np.array(list(size) * 2, np.float32)
            expected.append(
                detections(
                    [(row[i].max(), row[i].argmax(), box[i]) for i in range(12) if row[i].max() > threshold],
                    labels,
                )
            )
        case(
            "boxes of DETR" + name,
            "object-detection",
            outputs,
            expected,
            labels=labels,
            records=2,
            pictures=pictures,
            settings=settings,
        )
    labels = ["cat", "dog", "bird", "cow"]
    expected = []
    for row, own, size in zip(sigmoid(logits), boxes, sizes):
        box = corners(own) * np.array(list(size) * 2, np.float32)
        best = np.argsort(-row.ravel(), kind="stable")[:12]
        expected.append(
            detections([(row.ravel()[i], i % 4, box[i // 4]) for i in best if row.ravel()[i] > 0.5], labels)
        )
    case(
        "boxes of RT-DETR", "object-detection", outputs, expected, labels=labels, records=2, pictures=pictures
    )


def yolo_boxes(seed, count):
    rng = np.random.default_rng(seed)
    centres = rng.choice([120.0, 300.0, 500.0], (count, 2)) + rng.normal(size=(count, 2)) * 9
    return np.round(np.concatenate([centres, rng.uniform(60, 150, (count, 2))], 1), 2).astype(np.float32)


def yolo():
    labels, count = ["person", "car", "bus"], 60
    boxes = yolo_boxes(10, count)
    scores = np.round(np.random.default_rng(11).uniform(0, 0.9, (count, 3)), 3).astype(np.float32)
    objectness = np.round(np.random.default_rng(12).uniform(0, 1, (count, 1)), 3).astype(np.float32)
    size, content = (1280, 720), [0, 140, 640, 500]
    pictures = [{"size": size, "input": (640, 640), "content": content}]
    box = corners(boxes)
    found = [(scores[i].max(), scores[i].argmax(), box[i]) for i in range(count) if scores[i].max() > 0.25]
    columns = np.concatenate([boxes, scores], 1).T[None]
    expected = detections(placed(suppressed(found, 0.7), size, content), labels)
    case(
        "boxes of YOLOv8, recognised by the labels",
        "object-detection",
        {"output0": columns},
        expected,
        labels=labels,
        pictures=pictures,
        form="one",
    )
    expected = detections(placed(suppressed(found, 0.3), size, content)[:5], labels)
    case(
        "boxes of YOLOv8 with bounds",
        "object-detection",
        {"output0": columns},
        expected,
        labels=labels,
        pictures=pictures,
        form="one",
        settings={"iou_threshold": 0.3, "top_k": 5},
    )
    expected = detections(placed(suppressed(found, 0.7), size, content), [])
    case(
        "boxes of YOLOv8, recognised by their number",
        "object-detection",
        {"output0": columns},
        expected,
        pictures=pictures,
        form="one",
    )
    masks = np.concatenate([columns, random(13, 1, 32, count)], 1)
    expected = detections(placed(suppressed(found, 0.7), size, content), labels)
    case(
        "boxes of YOLOv8 with masks after them",
        "object-detection",
        {"output0": masks, "output1": random(14, 1, 2, 2, 2)},
        expected,
        labels=labels,
        pictures=pictures,
        form="one",
    )
    rows = np.concatenate([boxes, objectness, scores], 1)[None]
    both = scores * objectness
    found = [
        (both[i].max(), both[i].argmax(), box[i])
        for i in range(count)
        if objectness[i, 0] > 0.25 and both[i].max() > 0.25
    ]
    expected = detections(placed(suppressed(found, 0.45), size, content), labels)
    case(
        "boxes of YOLOv5",
        "object-detection",
        {"output0": rows},
        expected,
        labels=labels,
        pictures=pictures,
        form="one",
    )
    finished = np.concatenate(
        [box, scores[:, :1], np.random.default_rng(15).integers(0, 3, (count, 1)).astype(np.float32)], 1
    )[None].astype(np.float32)
    found = [(row[4], int(row[5]), row[:4]) for row in finished[0] if row[4] > 0.25]
    expected = detections(placed(found, size, content), labels)
    case(
        "boxes that were suppressed in the graph",
        "object-detection",
        {"output0": finished},
        expected,
        labels=labels,
        pictures=pictures,
        form="one",
    )


def separate():
    labels, count = ["background", "person", "car"], 9
    box = np.round(corners(yolo_boxes(16, count)), 2).astype(np.float32)
    scores = np.round(np.sort(np.random.default_rng(17).uniform(0.2, 1, count))[::-1], 3).astype(np.float32)
    classes = np.random.default_rng(18).integers(1, 3, count)
    size, content = (320, 320), [0, 0, 640, 640]
    pictures = [{"size": size, "input": (640, 640)}]
    found = [(scores[i], classes[i], box[i]) for i in range(count) if scores[i] > 0.5]
    expected = detections(placed(found, size, content), labels)
    case(
        "boxes of torchvision",
        "object-detection",
        {"boxes": box, "labels": classes, "scores": scores},
        expected,
        labels=labels,
        pictures=pictures,
        form="one",
    )
    turned = (box / 640)[:, [1, 0, 3, 2]].astype(np.float32)[None]
    outputs = {
        "num_detections:0": np.array([4], np.float32),
        "detection_boxes:0": turned,
        "detection_scores:0": scores[None],
        "detection_classes:0": classes.astype(np.float32)[None],
    }
    expected = detections(
        placed([(scores[i], classes[i], turned[0, i][[1, 0, 3, 2]] * 640) for i in range(4)], size, content),
        labels,
    )
    case(
        "boxes of TensorFlow",
        "object-detection",
        outputs,
        expected,
        labels=labels,
        pictures=pictures,
        form="one",
        settings={"threshold": 0.1},
    )


# Semantic segmentation: bilinear interpolation like torch.nn.functional.interpolate, then argmax.


def enlarged(plane, height, width):
    def axis(size, length):
        at = np.maximum(
            (np.arange(size, dtype=np.float32) + np.float32(0.5)) * np.float32(length / size)
            - np.float32(0.5),
            0,
        )
        first = at.astype(int)
        return first, np.minimum(first + 1, length - 1), (at - first).astype(np.float32)

    top, bottom, down = axis(height, plane.shape[-2])
    left, right, across = axis(width, plane.shape[-1])
    down, across = down[:, None], across[None]
    upper = plane[..., top, :][..., left] * (1 - across) + plane[..., top, :][..., right] * across
    lower = plane[..., bottom, :][..., left] * (1 - across) + plane[..., bottom, :][..., right] * across
    return upper * (1 - down) + lower * down


def segmentation():
    labels = ["wall", "floor", "sky"]
    logits = random(19, 2, 3, 6, 5)
    sizes = [(23, 17), (4, 3)]
    pictures = [{"size": size, "input": (20, 24)} for size in sizes]
    expected = [enlarged(plane, size[1], size[0]).argmax(0) for plane, size in zip(logits, sizes)]
    case(
        "classes of pixels",
        "image-segmentation",
        {"logits": logits},
        expected,
        labels=labels,
        records=2,
        pictures=pictures,
    )
    single = random(20, 1, 1, 6, 5)
    case(
        "one channel is a yes or no",
        "image-segmentation",
        {"logits": single},
        [(enlarged(single[0, 0], 17, 23) > 0).astype(int)],
        labels=labels,
        pictures=pictures[:1],
    )
    ready = np.random.default_rng(21).integers(0, 3, (1, 6, 5))
    rows, columns = (np.arange(17) * 6 / 17).astype(int), (np.arange(23) * 5 / 23).astype(int)
    case(
        "a map of classes is enlarged",
        "image-segmentation",
        {"output": ready},
        [ready[0][rows][:, columns]],
        labels=labels,
        pictures=pictures[:1],
    )
    inner = logits[:1, :, 1:5]
    bordered = np.concatenate(
        [np.full((1, 3, 1, 5), -9, np.float32), inner, np.full((1, 3, 1, 5), -9, np.float32)], 2
    )
    case(
        "the border of a picture is left out",
        "image-segmentation",
        {"logits": bordered},
        [bordered_map(bordered[0])],
        labels=labels,
        pictures=[{"size": (20, 16), "input": (20, 24), "content": [0, 4, 20, 20]}],
    )


def bordered_map(planes):
    """Twenty by sixteen pixels from twenty by twenty-four, at a quarter of the size."""
    return enlarged(planes, 24, 20)[:, 4:20].argmax(0)


# FillMaskPipeline, ZeroShotClassificationPipeline, QuestionAnsweringPipeline.


def decode(ids, skip):
    return join([WORDS[i] for i in ids if not (skip and i < 5)])


def fill_mask():
    ids = [2, 5, 6, 7, 8, 4, 16, 3, 0, 0]
    logits = random(22, 2, len(ids), len(WORDS), scale=1.0)
    several = [2, 4, 6, 7, 8, 4, 16, 3, 0, 0]
    vocabulary = {"tokens": WORDS, "unknown": 1, "mask": 4, "padding": 0, "beginning": 2, "marks": True}
    rows = [
        {
            "text": "",
            "ids": row,
            "attention": [int(i != 0) for i in row],
            "special": [0] * 10,
            "offsets": [(0, 0)] * 10,
        }
        for row in (ids, several)
    ]

    def filled(row, scores, place, single, top_k, targets=None):
        choices = targets if targets is not None else range(len(WORDS))
        best = sorted(choices, key=lambda i: -scores[i])[:top_k]
        answer = []
        for token in best:
            tokens = list(row)
            tokens[place] = token
            tokens = [i for i in tokens if i != 0]
            answer.append(
                {
                    "score": scores[token],
                    "token": token,
                    "token_str": decode([token], False),
                    "sequence": decode(tokens, single),
                }
            )
        return answer

    first = filled(ids, softmax(logits[0, 5]), 5, True, 5)
    second = [filled(several, softmax(logits[1, place]), place, False, 5) for place in (1, 5)]
    case(
        "masks are filled",
        "fill-mask",
        {"logits": logits},
        [first, second],
        records=2,
        tokens=rows,
        vocabulary=vocabulary,
    )
    targets = filled(ids, softmax(logits[0, 5]), 5, True, 2, [9, 10])
    case(
        "masks are filled with targets",
        "fill-mask",
        {"logits": logits[:1]},
        targets,
        tokens=rows[:1],
        vocabulary=vocabulary,
        form="one",
        settings={"targets": ["New", "York"]},
    )


def zero_shot():
    logits, names = random(23, 6, 3), ["contradiction", "neutral", "entailment"]
    candidates, texts = ["sport", "politics", "science"], ["first", "second"]
    shaped = logits.reshape(2, 3, 3)

    def answers(scores):
        order = [list(reversed(row.argsort())) for row in scores]
        return [
            {"sequence": text, "labels": [candidates[i] for i in best], "scores": row[best]}
            for text, row, best in zip(texts, scores, order)
        ]

    case(
        "one label of several",
        "zero-shot-classification",
        {"logits": logits},
        answers(softmax(shaped[:, :, 2])),
        labels=names,
        records=6,
        question={"zero_shot": texts},
        settings={"candidate_labels": candidates},
    )
    each = softmax(shaped[:, :, [0, 2]])[:, :, 1]
    case(
        "each label by itself",
        "zero-shot-classification",
        {"logits": logits},
        answers(each),
        labels=names,
        records=6,
        question={"zero_shot": texts},
        settings={"candidate_labels": candidates, "multi_label": True},
    )
    case(
        "one text",
        "zero-shot-classification",
        {"logits": logits[:3]},
        answers(softmax(shaped[:1, :, 2]))[0],
        labels=names,
        records=3,
        question={"zero_shot": texts[:1]},
        settings={"candidate_labels": "sport, politics,science"},
        form="one",
    )


def question_answering():
    text = "Wolfgang lives in New Yorkshire, near Bochum é東."
    ids = [2, 5, 6, 3, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15, 1, 16, 3, 0]
    offsets = [
        (0, 0),
        (0, 4),
        (4, 8),
        (0, 0),
        (0, 4),
        (4, 8),
        (9, 14),
        (15, 17),
        (18, 21),
        (22, 26),
        (26, 31),
        (31, 32),
        (33, 37),
        (38, 40),
        (40, 44),
        (45, 47),
        (47, 48),
        (0, 0),
        (0, 0),
    ]
    words = [None, 0, 0, None, 0, 0, 1, 2, 3, 4, 4, 5, 6, 7, 7, 8, 9, None, None]
    sequences = [None, 0, 0, None] + [1] * 13 + [None, None]
    attention = [1] * 18 + [0]
    row = {
        "text": text,
        "ids": ids,
        "attention": attention,
        "special": [0] * 19,
        "offsets": offsets,
        "words": words,
        "sequences": sequences,
    }
    start, end = random(24, 2, 19), random(25, 2, 19)
    vocabulary = {"tokens": WORDS, "unknown": 1, "mask": 4, "padding": 0, "beginning": 2, "marks": True}

    def answers(top_k, longest, align, impossible, count=1):
        found, null = [], 1000000
        for i in range(count):
            null = min(null, collect(found, start[i], end[i], top_k, longest, align))
        if impossible:
            found.append({"score": null, "start": 0, "end": 0, "answer": ""})
        return sorted(found, key=lambda entry: -entry["score"])[:top_k]

    def collect(found, start, end, top_k, longest, align):
        allowed = np.array([(s == 1 or i == 2) and a for s, i, a in zip(sequences, ids, attention)])
        first, last = (softmax(np.where(allowed, x, np.float32(-10000))) for x in (start, end))
        null = first[0] * last[0]
        first[0] = last[0] = 0
        table = np.tril(np.triu(np.outer(first, last)), longest - 1)
        for flat in np.argsort(-table.ravel(), kind="stable")[: top_k * 2 + 10 if align else top_k]:
            s, e = divmod(int(flat), 19)
            if not (allowed[s] and allowed[e]):
                continue
            begin, finish = offsets[s][0], offsets[e][1]
            if align and words[s] is not None and words[e] is not None:
                begin = min(o[0] for o, w, q in zip(offsets, words, sequences) if q == 1 and w == words[s])
                finish = max(o[1] for o, w, q in zip(offsets, words, sequences) if q == 1 and w == words[e])
            same = [entry for entry in found if entry["answer"].lower() == text[begin:finish].lower()]
            if same:
                same[0]["score"] += table[s, e]
            else:
                found.append(
                    {"score": table[s, e], "start": begin, "end": finish, "answer": text[begin:finish]}
                )
        return null

    outputs = {"start_logits": start[:1], "end_logits": end[:1]}
    shared = {"tokens": [row], "vocabulary": vocabulary, "form": "one"}
    case(
        "a part of the text answers the question",
        "question-answering",
        outputs,
        answers(1, 15, True, False)[0],
        **shared,
    )
    case(
        "several answers",
        "question-answering",
        outputs,
        answers(4, 15, True, False),
        settings={"top_k": 4},
        **shared,
    )
    case(
        "answers in tokens",
        "question-answering",
        outputs,
        answers(4, 3, False, False),
        settings={"top_k": 4, "max_answer_len": 3, "align_to_words": False},
        **shared,
    )
    case(
        "answers that may be none",
        "question-answering",
        outputs,
        answers(4, 15, True, True),
        settings={"top_k": 4, "handle_impossible_answer": True},
        **shared,
    )
    outputs = {"start_logits": start, "end_logits": end}
    case(
        "answers of a text in several rows",
        "question-answering",
        outputs,
        answers(4, 15, True, True, 2),
        settings={"top_k": 4, "handle_impossible_answer": True},
        question={"spans": [2]},
        **{**shared, "tokens": [row, row]},
    )


if __name__ == "__main__":
    classification()
    embeddings()
    ranking()
    token_classification()
    detr()
    yolo()
    separate()
    segmentation()
    fill_mask()
    zero_shot()
    question_answering()
    lines = ",\n".join(json.dumps(entry, ensure_ascii=False, separators=(",", ":")) for entry in CASES)
    (HERE / "cases.json").write_text(f"[\n{lines}\n]\n", encoding="utf-8")
