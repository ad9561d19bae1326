"""Requests predictions from models of real libraries in every suitable format and dialect, and
compares them with the libraries.

usage: check.py HOST:PORT FOLDER [--pending] [--only MODEL]

HOST:PORT is a server in multi-model mode that may load from FOLDER. Prints one line of JSON for
each model, format and dialect: `{"model": .., "kind": .., "direction": "request" or "reply",
"format": .., "dialect": .., "example": .., "outcome": ..}`. The outcome is `equal`, a status if
the refusal is right, or a description of the error. The program fails on any error. With
`--pending` it also tries the entries of PENDING, whose outcomes do not make it fail.
"""

import gzip
import http.client
import io
import json
import math
import struct
import sys
from pathlib import Path

import numpy as np

import make
from make import RECORDS, Export, plain

RELATIVE, ABSOLUTE = 1e-5, 1e-6

PENDING = set()
"""Formats that the server does not support yet."""
PENDING_KINDS = set()
"""Artifacts that the server does not serve correctly yet."""
PENDING_DIALECTS = set()
"""Dialects that the server does not answer for these kinds yet."""

REFUSED = {
    # A row of cells cannot express nested lists, or lists of any length.
    ("two targets", "reply", "text/csv", "*"): 406,
    ("detector", "reply", "text/csv", "*"): 406,
    ("state", "reply", "text/csv", "*"): 406,
}
"""Right refusals: the status by kind or model, direction, format and dialect; `*` matches any."""

# ----------------------------------------------------------------------------- dialects of requests

DIALECTS = []


def dialect(media_type: str, name: str):
    """Adds a way to write a request: a function from an export to a body, or to None if the export
    does not fit. It may return a tuple of content type, body, number of records if the body does
    not hold all of them, and further headers.
    """

    def add(function):
        DIALECTS.append((media_type, name, function))
        return function

    return add


def cell(value) -> str:
    """A cell of CSV."""
    if not isinstance(value, str):
        return repr(value)
    return '"' + value.replace('"', '""') + '"' if any(c in value for c in '",;|\t\n') else value


def csv(rows, delimiter=",", end="\n") -> bytes:
    return "".join(delimiter.join(map(cell, row)) + end for row in rows).encode()


def flat(export: Export):
    """The cells, also for a single input of any shape."""
    if export.cells is not None:
        return export.cells
    if export.kind == "fixed batch":
        return export.only.reshape(RECORDS, -1).tolist()
    return None


def header(export: Export):
    """The names of the columns as users know them, and their cells."""
    if export.frame is None or not export.names_known:
        return None
    return [list(export.frame.columns), *export.frame.values.tolist()]


def reverse(rows):
    return [list(reversed(row)) for row in rows]


@dialect("text/csv", "rows")
def _(export):
    return (rows := flat(export)) and csv(rows)


@dialect("text/csv", "rows, CRLF, no end of the last line")
def _(export):
    return (rows := flat(export)) and csv(rows, end="\r\n").rstrip()


for _name, _delimiter in (("semicolons", ";"), ("tabs", "\t"), ("bars", "|")):

    @dialect("text/csv", _name)
    def _(export, delimiter=_delimiter):
        rows = flat(export)
        return csv(rows, delimiter) if rows and len(rows[0]) > 1 else None


@dialect("text/csv", "`; delimiter=tab`")
def _(export):
    rows = flat(export)
    return ("text/csv; delimiter=tab", csv(rows, "\t")) if rows and len(rows[0]) > 1 else None


@dialect("text/csv", "header, seen")
def _(export):
    return (rows := header(export)) and csv(rows)


@dialect("text/csv", "header, columns in another order")
def _(export):
    rows = header(export)
    return csv(reverse(rows)) if rows and len(rows[0]) > 1 else None


@dialect("text/csv", "header, semicolons")
def _(export):
    rows = header(export)
    return csv(rows, ";") if rows and len(rows[0]) > 1 else None


@dialect("text/csv", "header, a column with a default left out")
def _(export):
    if not export.missing:
        return None
    frame = export.frame.drop(columns=export.missing)
    return csv([list(frame.columns), *frame.values.tolist()])


@dialect("text/csv", "header, an alias of a column, a column too many")
def _(export):
    if not export.aliases:
        return None
    frame = export.frame.rename(columns=export.aliases).assign(comment="no number")
    return csv([list(frame.columns), *frame.values.tolist()])


def with_holes(export: Export, hole):
    """Rows with another text for missing values."""
    if "missing" not in export.kind:
        return None
    return [[hole if math.isnan(value) else value for value in row] for row in export.cells]


@dialect("text/csv", "empty cells")
def _(export):
    return (rows := with_holes(export, "")) and csv(rows)


@dialect("text/csv", "`NA`, as `csv.missing` says")
def _(export):
    return (rows := with_holes(export, "NA")) and csv(rows)


@dialect("text/csv", "`; header=present`")
def _(export):
    if export.frame is None:
        return None
    return "text/csv; header=present", csv([list(export.frame.columns), *export.frame.values.tolist()])


@dialect("text/csv", "`; header=absent`")
def _(export):
    return (rows := flat(export)) and ("text/csv; header=absent", csv(rows))


@dialect("text/csv", "`; charset=latin-1`")
def _(export):
    return (rows := flat(export)) and ("text/csv; charset=iso-8859-1", csv(rows))


def js(value) -> bytes:
    return json.dumps(plain(value)).encode()


def lists(export: Export):
    """Each record without names: a list of cells, or the value of the only input."""
    if export.cells is not None:
        return export.cells
    return export.only.tolist() if export.only is not None else None


def bare(export: Export):
    """Each record as a single value, if it has only one."""
    cells = export.cells
    return [row[0] for row in cells] if cells and len(cells[0]) == 1 else None


def named_rows(export: Export):
    """Records by the names of users."""
    rows = header(export)
    return [dict(zip(rows[0], row)) for row in rows[1:]] if rows else None


@dialect("application/json", "`instances`, lists")
def _(export):
    return (rows := lists(export)) and js({"instances": rows})


@dialect("application/json", "`instances`, bare values")
def _(export):
    return (rows := bare(export)) and js({"instances": rows})


@dialect("application/json", "`instances`, objects by input")
def _(export):
    return (rows := export.records) and js({"instances": rows})


@dialect("application/json", "`instances`, objects by column")
def _(export):
    return (rows := named_rows(export)) and js({"instances": rows})


@dialect("application/json", "`instances`, a column with a default left out")
def _(export):
    rows = named_rows(export)
    if not export.missing:
        return None
    return js({"instances": [{name: row[name] for name in row if name not in export.missing} for row in rows]})


@dialect("application/json", "`instances`, an alias of a column, a column too many")
def _(export):
    if not export.aliases:
        return None
    frame = export.frame.rename(columns=export.aliases).assign(comment="no number")
    return js({"instances": frame.to_dict(orient="records")})


@dialect("application/json", "`instances`, `null`")
def _(export):
    return (rows := with_holes(export, None)) and js({"instances": rows})


@dialect("application/json", "`instances`, `{\"features\": [..]}`")
def _(export):
    return (rows := lists(export)) and js({"instances": [{"features": row} for row in rows]})


@dialect("application/json", "`instances`, `{\"data\": {\"features\": {\"values\": [..]}}}`")
def _(export):
    return (rows := flat(export)) and js({"instances": [{"data": {"features": {"values": row}}} for row in rows]})


@dialect("application/json", "`instances`, numbers as strings")
def _(export):
    rows = export.cells
    return js({"instances": [[str(value) for value in row] for row in rows]}) if rows else None


@dialect("application/json", "an array of lists")
def _(export):
    return (rows := lists(export)) and js(rows)


@dialect("application/json", "an array of objects")
def _(export):
    return (rows := named_rows(export) or export.records) and js(rows)


@dialect("application/json", "`inputs`, by name")
def _(export):
    return js({"inputs": export.inputs}) if export.whole else None


@dialect("application/json", "`inputs`, the only one")
def _(export):
    return js({"inputs": export.only}) if export.only is not None else None


@dialect("application/json", "`inputs`, lists of cells")
def _(export):
    return (rows := export.cells) and js({"inputs": rows})


@dialect("application/json", "columns without more around them")
def _(export):
    return js(export.frame.to_dict(orient="list")) if export.names_known else None


@dialect("application/json", "one record, an object")
def _(export):
    rows = named_rows(export)
    return ("application/json", js(rows[0]), 1) if rows else None


@dialect("application/json", "one record, a list")
def _(export):
    rows = export.cells
    return ("application/json", js(rows[0]), 1) if rows and len(rows[0]) > 1 else None


@dialect("application/json", "`{\"data\": [[..], ..]}`")
def _(export):
    return (rows := lists(export)) and js({"data": rows})


@dialect("application/json", "pandas `orient=\"split\"`")
def _(export):
    return export.frame.to_json(orient="split", double_precision=15).encode() if export.frame is not None else None


for _orient in ("records", "columns", "index", "table"):

    @dialect("application/json", f'pandas `orient="{_orient}"`')
    def _(export, orient=_orient):
        return export.frame.to_json(orient=orient, double_precision=15).encode() if export.names_known else None


@dialect("application/json", "pandas `orient=\"values\"`")
def _(export):
    return export.frame.to_json(orient="values", double_precision=15).encode() if export.frame is not None else None


@dialect("application/json", "MLflow `dataframe_split`")
def _(export):
    return js({"dataframe_split": export.frame.to_dict(orient="split")}) if export.frame is not None else None


@dialect("application/json", "MLflow `dataframe_records`")
def _(export):
    return js({"dataframe_records": export.frame.to_dict(orient="records")}) if export.names_known else None


@dialect("application/json", "MLflow `instances`")
def _(export):
    # As its documentation says: objects by column, or the rows of the only tensor.
    rows = named_rows(export) or lists(export)
    return js({"instances": rows, "params": {}}) if rows else None


@dialect("application/json", "MLflow `inputs`")
def _(export):
    if export.names_known:
        return js({"inputs": export.frame.to_dict(orient="list")})
    return js({"inputs": export.only}) if export.only is not None else None


@dialect("application/json", "`Content-Encoding: gzip`")
def _(export):
    rows = lists(export)
    body = js({"instances": rows if rows is not None else export.records})
    return "application/json", gzip.compress(body), RECORDS, {"Content_Encoding": "gzip"}


def lines(rows) -> bytes:
    return b"".join(js(row) + b"\n" for row in rows)


@dialect("application/jsonlines", "lists")
def _(export):
    return (rows := lists(export)) and lines(rows)


@dialect("application/jsonlines", "bare values")
def _(export):
    return (rows := bare(export)) and lines(rows)


@dialect("application/jsonlines", "objects by input")
def _(export):
    return (rows := export.records) and lines(rows)


@dialect("application/jsonlines", "objects by column")
def _(export):
    return (rows := named_rows(export)) and lines(rows)


@dialect("application/jsonlines", "`{\"features\": [..]}`")
def _(export):
    return (rows := lists(export)) and lines([{"features": row} for row in rows])


@dialect("application/jsonlines", "`{\"data\": {\"features\": {\"values\": [..]}}}`")
def _(export):
    return (rows := flat(export)) and lines([{"data": {"features": {"values": row}}} for row in rows])


def saved(save, *arrays, **named) -> bytes:
    file = io.BytesIO()
    save(file, *arrays, **named)
    return file.getvalue()


def typed(array: np.ndarray) -> np.ndarray:
    """NumPy's form without pickle: strings of a fixed width."""
    return array.astype(str) if array.dtype == object else array


@dialect("application/x-npy", "the model's type")
def _(export):
    return saved(np.save, typed(export.only)) if export.only is not None else None


@dialect("application/x-npy", "float64, Fortran order")
def _(export):
    only = export.only
    if only is None or only.dtype == object:
        return None
    return saved(np.save, np.asfortranarray(only.astype(np.float64)))


@dialect("application/x-npz", "`numpy.savez` by input")
def _(export):
    return saved(np.savez, **{name: typed(array) for name, array in export.inputs.items()}) if export.whole else None


@dialect("application/x-npz", "`numpy.savez_compressed`")
def _(export):
    if not export.whole:
        return None
    return saved(np.savez_compressed, **{name: typed(array) for name, array in export.inputs.items()})


@dialect("application/x-npz", "`numpy.savez` of one array")
def _(export):
    return saved(np.savez, typed(export.only)) if export.only is not None else None


for _layout in ("csr", "csc", "coo"):

    @dialect("application/x-npz", f"`scipy.sparse.save_npz`, {_layout}")
    def _(export, layout=_layout):
        import scipy.sparse

        if export.matrix is None:
            return None
        return saved(scipy.sparse.save_npz, scipy.sparse.coo_matrix(export.matrix).asformat(layout))


# RecordIO-protobuf, written by hand from its documentation: a record is a map from feature to
# tensor.


def varint(value: int) -> bytes:
    out = b""
    while value >= 0x80:
        out += bytes([value & 0x7F | 0x80])
        value >>= 7
    return out + bytes([value])


def member(number: int, content: bytes) -> bytes:
    return varint(number << 3 | 2) + varint(len(content)) + content


def record(fields: dict[int, bytes], name=b"values", label: bytes = b"") -> bytes:
    """A framed record with one feature, whose tensor has these members."""
    [(kind, tensor)] = fields.items()
    message = member(1, member(1, name) + member(2, member(kind, tensor))) + label
    return struct.pack("<II", 0xCED7230A, len(message)) + message + b"\0" * (-len(message) % 4)


FLOAT32, FLOAT64, INT32 = 2, 3, 7


@dialect("application/x-recordio-protobuf", "dense float32")
def _(export):
    rows = numeric(export)
    return rows and b"".join(record({FLOAT32: member(1, np.float32(row).tobytes())}) for row in rows)


@dialect("application/x-recordio-protobuf", "dense float64, with labels")
def _(export):
    label = member(2, member(1, b"values") + member(2, member(FLOAT32, member(1, np.float32([1]).tobytes()))))
    rows = numeric(export)
    return rows and b"".join(record({FLOAT64: member(1, np.float64(row).tobytes())}, label=label) for row in rows)


@dialect("application/x-recordio-protobuf", "sparse float32")
def _(export):
    if export.matrix is None:
        return None
    out = b""
    for row in export.matrix:
        [keys] = np.nonzero(row)
        keys, shape = b"".join(varint(int(key)) for key in keys), varint(len(row))
        out += record({FLOAT32: member(1, row[np.nonzero(row)].tobytes()) + member(2, keys) + member(3, shape)})
    return out


def numeric(export: Export):
    return flat(export) if export.only is not None and export.only.dtype != object else None


def svm(matrix, base: int) -> bytes:
    """The form of `sklearn.datasets.dump_svmlight_file`."""
    import sklearn.datasets

    if np.isnan(matrix).any():
        return b""
    file = io.BytesIO()
    sklearn.datasets.dump_svmlight_file(matrix.astype(np.float64), [0] * len(matrix), file, zero_based=base == 0)
    return file.getvalue()


for _type in ("text/libsvm", "text/x-libsvm"):

    @dialect(_type, "from 0")
    def _(export):
        return svm(export.matrix, 0) if export.matrix is not None else None

    @dialect(_type, "from 1")
    def _(export):
        return svm(export.matrix, 1) if export.matrix is not None else None


DATATYPES = {"float32": "FP32", "float64": "FP64", "int64": "INT64", "object": "BYTES"}


def tensors(export: Export, binary: bool) -> tuple[bytes, bytes]:
    """A request of the Open Inference Protocol: the document, and the binary data after it."""
    described, tail = [], b""
    for name, array in export.inputs.items():
        tensor = {"name": name, "shape": list(array.shape), "datatype": DATATYPES[str(array.dtype)]}
        if binary:
            content = array.tobytes()
            if array.dtype == object:
                texts = [text.encode() for text in array.ravel()]
                content = b"".join(struct.pack("<I", len(text)) + text for text in texts)
            tensor["parameters"] = {"binary_data_size": len(content)}
            tail += content
        else:
            tensor["data"] = array.ravel().tolist()
        described.append(tensor)
    document = {"inputs": described}
    if set(export.tensors) != set(export.whole):
        document["outputs"] = [{"name": name} for name in export.tensors]
    return json.dumps(document).encode(), tail


@dialect("application/json", "Open Inference Protocol")
def _(export):
    return tensors(export, binary=False)[0] if export.tensors and export.whole else None


@dialect("application/vnd.sagemaker-triton.binary+json", "`;json-header-size=N`")
def _(export):
    if not export.tensors or not export.whole:
        return None
    document, tail = tensors(export, binary=True)
    return f"application/vnd.sagemaker-triton.binary+json;json-header-size={len(document)}", document + tail


@dialect("application/octet-stream", "the only input's bytes")
def _(export):
    # Records of any length leave two axes open, and the number of elements does not determine
    # them.
    is_plain = export.only is not None and export.only.dtype != object and not export.kind.startswith("state")
    return export.only.tobytes() if is_plain else None


# ------------------------------------------------------------------------------------------ replies


def read_npy(body: bytes):
    return np.load(io.BytesIO(body), allow_pickle=False)


def cells_of(body: bytes):
    import csv as reader

    return list(reader.reader(io.StringIO(body.decode())))


def whole_of(export: Export, names) -> dict:
    return {name: export.whole[name] for name in names}


def single(export: Export):
    """The name of the only output."""
    return next(iter(export.rows[0])) if len(export.rows[0]) == 1 else None


def reply_json(export, answer):
    compare(predictions(export, json.loads(answer.body)), export.rows)


def reply_lines(export, answer):
    got = [json.loads(line) for line in answer.body.splitlines()]
    compare([wrapped(export, row) for row in got], export.rows)


def leaves(value) -> list:
    if isinstance(value, dict):
        return [leaf for item in value.values() for leaf in leaves(item)]
    if isinstance(value, list):
        return [leaf for item in value for leaf in leaves(item)]
    return [value]


def reply_csv(export, answer):
    rows = cells_of(answer.body)
    flattened = []
    for got, expected in zip(rows, export.rows, strict=True):
        values = []
        # Maps are one cell of JSON, or their values.
        for text in got:
            try:
                values += leaves(json.loads(text))
            except ValueError:
                values.append(text)
        flattened.append((values, leaves(expected)))
    compare([values for values, _ in flattened], [expected for _, expected in flattened])


def reply_npy(name):
    def read(export, answer):
        chosen = name or next(iter(export.whole))
        compare(plain(read_npy(answer.body)), export.whole[chosen])

    return read


def reply_npz(export, answer):
    with np.load(io.BytesIO(answer.body), allow_pickle=False) as arrays:
        compare({name: plain(arrays[name]) for name in arrays.files}, export.whole)


def read_recordio(body: bytes) -> list[dict]:
    """The tensors of each record, by output."""
    rows, at = [], 0
    while at < len(body):
        magic, size = struct.unpack_from("<II", body, at)
        assert magic == 0xCED7230A, hex(magic)
        rows.append(dict(entries(body[at + 8 : at + 8 + size])))
        at += 8 + size + -size % 4
    assert at == len(body)
    return rows


def numbers(message: bytes) -> list[int]:
    """Numbers of any length, one after the other."""
    out, value, shift = [], 0, 0
    for byte in message:
        value |= (byte & 0x7F) << shift
        shift += 7
        if byte < 0x80:
            out.append(value)
            value = shift = 0
    assert shift == 0, message
    return out


def fields(message: bytes):
    """The members of a message, each with its length."""
    at = 0

    def number() -> int:
        nonlocal at
        start = at
        while message[at] >= 0x80:
            at += 1
        at += 1
        return numbers(message[start:at])[0]

    while at < len(message):
        tag = number()
        assert tag & 7 == 2, tag
        size = number()
        assert at + size <= len(message), size
        yield tag >> 3, message[at : at + size]
        at += size


def entries(message: bytes):
    """The labels of a record: names and values."""
    for map_of, entry in fields(message):
        assert map_of == 2, map_of
        parts = dict(fields(entry))
        [(kind, tensor)] = fields(parts[2])
        values = dict(fields(tensor)).get(1, b"")
        if kind == INT32:
            # A negative number is written as if it had 64 bits.
            yield parts[1].decode(), [value - (value >> 63 << 64) for value in numbers(values)]
        else:
            yield parts[1].decode(), np.frombuffer(values, {FLOAT32: "<f4", FLOAT64: "<f8"}[kind]).tolist()


def reply_recordio(export, answer):
    expected = [{name: leaves(value) for name, value in row.items()} for row in export.rows]
    compare(read_recordio(answer.body), expected)


def reply_tensors(export, answer):
    compare(open_inference(answer), whole_of(export, export.tensors))


REPLIES = [
    ("application/json", "`predictions`", "application/json", lambda export: True, reply_json),
    ("application/jsonlines", "a line for each record", "application/jsonlines", lambda export: True, reply_lines),
    ("text/csv", "a line for each record", "text/csv", lambda export: True, reply_csv),
    (
        "application/x-npy",
        "the only output",
        "application/x-npy",
        lambda export: single(export) in export.tensors,
        reply_npy(None),
    ),
    (
        "application/x-npy",
        "the first output",
        "application/x-npy",
        lambda export: single(export) is None and export.whole and next(iter(export.whole)) in export.tensors,
        reply_npy(None),
    ),
    (
        "application/x-npy",
        "`; output=probabilities`",
        "application/x-npy; output=probabilities",
        lambda export: "probabilities" in export.tensors,
        reply_npy("probabilities"),
    ),
    (
        "application/x-npz",
        "all outputs by name",
        "application/x-npz",
        lambda export: export.whole and set(export.tensors) == set(export.whole),
        reply_npz,
    ),
    (
        "application/x-recordio-protobuf",
        "a record for each",
        "application/x-recordio-protobuf",
        lambda export: export.whole
        and set(export.tensors) == set(export.whole)
        and all(not isinstance(leaf, str) for leaf in leaves(export.whole)),
        reply_recordio,
    ),
]
PENDING_REPLIES = set()

# --------------------------------------------------------------------------------------- comparison


class Different(Exception):
    """The server's answer differs from the library's."""


def compare(got, expected, at="") -> None:
    if isinstance(expected, dict):
        if not isinstance(got, dict) or set(got) != set(expected):
            raise Different(f"{at or 'answer'}: {str(got)[:200]} instead of {str(expected)[:200]}")
        for key in expected:
            compare(got[key], expected[key], f"{at}.{key}")
    elif isinstance(expected, list):
        if not isinstance(got, list) or len(got) != len(expected):
            raise Different(f"{at or 'answer'}: {str(got)[:200]} instead of {str(expected)[:200]}")
        for index, (one, other) in enumerate(zip(got, expected)):
            compare(one, other, f"{at}[{index}]")
    elif isinstance(expected, str):
        if got != expected:
            raise Different(f"{at}: {got!r} instead of {expected!r}")
    else:
        try:
            close = not isinstance(got, str) and math.isclose(got, expected, rel_tol=RELATIVE, abs_tol=ABSOLUTE)
        except TypeError:
            close = False
        if not close:
            raise Different(f"{at}: {got!r} instead of {expected!r}")


def wrapped(export: Export, row):
    """A prediction by the names of outputs."""
    name = single(export)
    return row if name is None else {name: row}


def predictions(export: Export, document):
    return [wrapped(export, row) for row in document["predictions"]]


def open_inference(answer) -> dict:
    """The tensors of a response of the Open Inference Protocol, by name."""
    prefix = "application/vnd.sagemaker-triton.binary+json;json-header-size="
    size = int(answer.content_type[len(prefix) :]) if answer.content_type.startswith(prefix) else len(answer.body)
    tail, out = io.BytesIO(answer.body[size:]), {}
    numpy_types = {"FP32": "<f4", "FP64": "<f8", "INT64": "<i8", "INT32": "<i4"}
    for tensor in json.loads(answer.body[:size])["outputs"]:
        data = tensor.get("data")
        if data is None:
            content = tail.read(tensor["parameters"]["binary_data_size"])
            if tensor["datatype"] == "BYTES":
                data, at = [], 0
                while at < len(content):
                    [length] = struct.unpack_from("<I", content, at)
                    data.append(content[at + 4 : at + 4 + length].decode())
                    at += 4 + length
            else:
                data = np.frombuffer(content, numpy_types[tensor["datatype"]])
        out[tensor["name"]] = np.array(data).reshape(tensor["shape"]).tolist()
    return out


def assert_right(export: Export, answer, count=RECORDS) -> None:
    """Compares a response for this many records, in any form that suits the request."""
    document = json.loads(answer.body) if answer.content_type == "application/json" else {}
    if "predictions" in document:
        compare(predictions(export, document), export.rows[:count])
    elif isinstance(document.get("outputs"), list) and "model_name" in document or not document:
        compare(open_inference(answer), whole_of(export, export.tensors))
    else:
        outputs, name = document["outputs"], single(export)
        compare(outputs if name is None else {name: outputs}, export.whole)


# --------------------------------------------------------------------------------------- the server


class Answer:
    def __init__(self, response):
        self.status = response.status
        self.content_type = response.getheader("Content-Type", "")
        self.body = response.read()

    @property
    def message(self) -> str:
        try:
            return str(json.loads(self.body)["message"])
        except (ValueError, KeyError, TypeError):
            return self.body[:200].decode(errors="replace")


class Server:
    def __init__(self, address: str):
        self.connection = http.client.HTTPConnection(address, timeout=120)

    def ask(self, path: str, body: bytes, **headers: str) -> Answer:
        self.connection.request("POST", path, body, {name.replace("_", "-"): value for name, value in headers.items()})
        return Answer(self.connection.getresponse())

    def load(self, export: Export, folder: Path) -> None:
        request = {"model_name": export.name, "url": str(export.write(folder))}
        answer = self.ask("/models", js(request), Content_Type="application/json")
        if answer.status != 200:
            raise Different(f"load: {answer.status} {answer.message}")

    def invoke(self, export: Export, content_type: str, body: bytes, accept: str, **headers: str) -> Answer:
        return self.ask(f"/models/{export.name}/invoke", body, Content_Type=content_type, Accept=accept, **headers)


def request_body(export: Export, media_type: str, write):
    """The content type, body, number of records, and headers; None if the export does not fit."""
    made = write(export)
    if not made:
        return None
    made = made if isinstance(made, tuple) else (media_type, made)
    return made + (RECORDS, {})[len(made) - 2 :]


def right_refusal(export: Export, direction: str, media_type: str, name: str):
    for kind in (export.kind, export.name, "*"):
        for form in (name, "*"):
            if (status := REFUSED.get((kind, direction, media_type, form))) is not None:
                return status
    return None


def judge(answer: Answer, expected_status, check) -> str:
    if expected_status is not None:
        if answer.status == expected_status:
            return str(answer.status)
        return f"wrong: status {answer.status}, expected {expected_status}: {answer.message}"
    if answer.status != 200:
        return f"wrong: {answer.status} {answer.message}"
    try:
        check(answer)
    except (Different, ValueError, KeyError, AssertionError) as error:
        return f"wrong: {type(error).__name__} {error}"
    return "equal"


def requests(server: Server, export: Export):
    for media_type, name, write in DIALECTS:
        made = request_body(export, media_type, write)
        if made is None:
            continue
        content_type, body, count, headers = made
        is_pending = media_type in PENDING or (export.kind, name) in PENDING_DIALECTS or ("*", name) in PENDING_DIALECTS
        answer = server.invoke(export, content_type, body, "application/json", **headers)
        outcome = judge(
            answer,
            right_refusal(export, "request", media_type, name),
            lambda answer: assert_right(export, answer, count),
        )
        yield "request", media_type, name, body, outcome, is_pending


def replies(server: Server, export: Export):
    rows = lists(export)
    body = js({"instances": rows if rows is not None else export.records})
    for media_type, name, accept, fits, check in REPLIES:
        if not fits(export):
            continue
        is_pending = not PENDING_REPLIES.isdisjoint({media_type, (media_type, name), (export.kind, media_type)})
        answer = server.invoke(export, "application/json", body, accept)
        outcome = judge(
            answer, right_refusal(export, "reply", media_type, name), lambda answer: check(export, answer)
        )
        if outcome == "equal" and answer.content_type.split(";")[0] != media_type:
            outcome = f"wrong: the response is {answer.content_type}"
        yield "reply", media_type, name, answer.body, outcome, is_pending


def main() -> int:
    arguments = [argument for argument in sys.argv[1:] if not argument.startswith("--")]
    address, folder = arguments[:2]
    only, asks_pending = arguments[2:], "--pending" in sys.argv
    server, failed = Server(address), 0
    for export in make.exports():
        if only and export.name not in only:
            continue
        is_pending_kind = export.kind in PENDING_KINDS
        if is_pending_kind and not asks_pending:
            continue
        try:
            server.load(export, Path(folder))
        except Different as error:
            print(json.dumps({"model": export.name, "outcome": f"wrong: {error}"}))
            failed += not is_pending_kind
            continue
        for rows in (requests(server, export), replies(server, export)):
            for direction, media_type, name, body, outcome, is_pending in rows:
                is_pending |= is_pending_kind
                if is_pending and not asks_pending:
                    continue
                row = {
                    "model": export.name,
                    "kind": export.kind,
                    "direction": direction,
                    "format": media_type,
                    "dialect": name,
                    "outcome": ("pending, " if is_pending else "") + outcome,
                }
                print(json.dumps(row))
                failed += outcome.startswith("wrong") and not is_pending
    if failed:
        print(f"{failed} outcomes are wrong", file=sys.stderr)
    return min(failed, 1)


if __name__ == "__main__":
    sys.exit(main())
