"""Invalid and malicious bodies for each reader. Each must give a useful error, and the server must
survive within bounded memory.

usage: hostile.py HOST:PORT FOLDER PID [--pending]

HOST:PORT is a server in multi-model mode that may load from FOLDER. PID is the process that
serves. Each case names its accepted statuses. After each, the server must answer a valid request,
and its peak of resident memory must have grown by less than BOUND. Prints a line of JSON for each
case; fails if anything is wrong.
"""

import gzip
import io
import json
import struct
import sys
import warnings
import zipfile
import zlib
from pathlib import Path

import check
import make
import numpy as np
from check import js, member, record, varint
from make import Export

warnings.filterwarnings("ignore")

BOUND = 128 << 20
"""The most memory, in bytes, that an invalid body may take at any time. Bodies here have less than
5 MiB, and unpacked at most the 25 MiB of --max-body; they declare a GiB and more.
"""

BAD = {400, 413}
WIDTH = 13
GIB = 1 << 30


def npz(members: dict[str, bytes], method=zipfile.ZIP_STORED) -> bytes:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", method) as archive:
        for name, content in members.items():
            archive.writestr(name, content)
    return file.getvalue()


def npy(array) -> bytes:
    file = io.BytesIO()
    np.save(file, array)
    return file.getvalue()


def npy_header(shape, descr="'<f4'", content=b"") -> bytes:
    header = f"{{'descr': {descr}, 'fortran_order': False, 'shape': {shape}, }}"
    header += " " * (-(len(header) + 11) % 64) + "\n"
    return b"\x93NUMPY\x01\x00" + struct.pack("<H", len(header)) + header.encode() + content


def sparse(shape, data, indices, indptr, layout=b"csr", kind=np.int64) -> bytes:
    return npz(
        {
            "indices.npy": npy(np.array(indices, kind)),
            "indptr.npy": npy(np.array(indptr, kind)),
            "format.npy": npy(np.array(layout)),
            "shape.npy": npy(np.array(shape, np.int64)),
            "data.npy": npy(np.array(data, np.float32)),
        }
    )


def zeros(size: int) -> bytes:
    """`size` zeros, deflated."""
    compressor, out = zlib.compressobj(9, wbits=-15), b""
    chunk = bytes(1 << 20)
    for _ in range(size >> 20):
        out += compressor.compress(chunk)
    return out + compressor.flush()


def zip_bomb(deflated: bytes, declared: int, name=b"X.npy") -> bytes:
    """An archive with one deflated member, whose header declares this many bytes."""
    sizes = struct.pack("<III", 0, len(deflated), declared)
    local = b"PK\x03\x04" + struct.pack("<HHHHH", 20, 0, 8, 0, 0x21) + sizes + struct.pack("<HH", len(name), 0) + name
    central = (
        b"PK\x01\x02"
        + struct.pack("<HHHHHH", 20, 20, 0, 8, 0, 0x21)
        + sizes
        + struct.pack("<HHHHHII", len(name), 0, 0, 0, 0, 0, 0)
        + name
    )
    start = len(local) + len(deflated)
    end = b"PK\x05\x06" + struct.pack("<HHHHIIH", 0, 0, 1, 1, len(central), start, 0)
    return local + deflated + central + end


def zstd_bomb(size: int) -> bytes:
    """A frame with runs of zeros, each of 128 KiB in four bytes."""
    block = 128 << 10
    frame = b"\x28\xb5\x2f\xfd\x00\x38"
    count = size // block
    for index in range(count):
        frame += struct.pack("<I", int(index == count - 1) | 1 << 1 | block << 3)[:3] + b"\0"
    return frame


def cases():
    """Name, content type, body, accepted statuses, and further headers."""
    row = np.ones((1, WIDTH), np.float32)

    good = npz({"X.npy": npy(row)})
    yield "npz: empty", "application/x-npz", b"", BAD
    yield "npz: no archive", "application/x-npz", b"PK\x03\x04" + b"x" * 500, BAD
    yield "npz: truncated", "application/x-npz", good[: len(good) // 2], BAD
    yield "npz: without the directory's end", "application/x-npz", good[:-30], BAD
    yield "npz: no member", "application/x-npz", npz({}), BAD
    yield "npz: no array", "application/x-npz", npz({"X.npy": b"no array at all"}), BAD
    yield "npz: a checksum that is wrong", "application/x-npz", good.replace(row.tobytes(), bytes(row.nbytes)), BAD
    yield "npz: an array that declares a larger size", "application/x-npz", npz({"X.npy": npy_header((10**9, WIDTH))}), BAD
    yield "npz: pickled objects", "application/x-npz", npz({"X.npy": npy_header((1,), "'|O'", b"\x80\x04N.")}), BAD
    yield "npz: lzma", "application/x-npz", npz({"X.npy": npy(row)}, zipfile.ZIP_LZMA), BAD
    twice = npz({"X.npy": npy(row), "Y.npy": npy(row)}).replace(b"Y.npy", b"X.npy")
    yield "npz: one name twice", "application/x-npz", twice, BAD
    yield "npz: many members", "application/x-npz", npz({f"{number}.npy": b"" for number in range(20_000)}), BAD
    bomb = zeros(GIB)
    yield "npz: a bomb that declares its size", "application/x-npz", zip_bomb(bomb, GIB), BAD
    yield "npz: a bomb that declares 1 KiB", "application/x-npz", zip_bomb(bomb, 1024), BAD
    yield "npz: a bomb that declares 4 GiB", "application/x-npz", zip_bomb(bomb, 0xFFFF_FFFE), BAD
    inner = zip_bomb(bomb, GIB)
    yield "npz: a bomb inside", "application/x-npz", npz({"X.npy": inner}, zipfile.ZIP_DEFLATED), BAD

    yield "sparse: 10^9 columns", "application/x-npz", sparse((1, 10**9), [1], [0], [0, 1]), BAD
    yield "sparse: 10^9 rows", "application/x-npz", sparse((10**9, WIDTH), [1], [0], [0, 1]), BAD
    yield "sparse: 10^9 rows, coo", "application/x-npz", sparse_coo((10**9, WIDTH)), BAD
    yield "sparse: a size that overflows", "application/x-npz", sparse((2**62, 2**62), [1], [0], [0, 1]), BAD
    yield "sparse: a negative size", "application/x-npz", sparse((-1, WIDTH), [1], [0], [0, 1]), BAD
    yield "sparse: a column outside", "application/x-npz", sparse((1, WIDTH), [1], [WIDTH], [0, 1]), BAD
    yield "sparse: a negative column", "application/x-npz", sparse((1, WIDTH), [1], [-1], [0, 1]), BAD
    yield "sparse: rows that go back", "application/x-npz", sparse((2, WIDTH), [1, 1], [0, 1], [0, 2, 1]), BAD
    yield "sparse: rows beyond the values", "application/x-npz", sparse((1, WIDTH), [1], [0], [0, 10**9]), BAD
    yield "sparse: fewer rows than declared", "application/x-npz", sparse((3, WIDTH), [1], [0], [0, 1]), BAD
    yield "sparse: fewer columns than values", "application/x-npz", sparse((1, WIDTH), [1, 2], [0], [0, 2]), BAD
    yield "sparse: an unknown layout", "application/x-npz", sparse((1, WIDTH), [1], [0], [0, 1], b"xyz"), BAD
    yield "sparse: places that are floats", "application/x-npz", sparse((1, WIDTH), [1], [0], [0, 1], kind=float), BAD

    recordio = "application/x-recordio-protobuf"
    floats = np.ones(WIDTH, np.float32).tobytes()
    whole = record({2: member(1, floats)})
    framed = lambda message: struct.pack("<II", 0xCED7230A, len(message)) + message + b"\0" * (-len(message) % 4)
    yield "recordio: empty", recordio, b"", BAD
    yield "recordio: a wrong magic number", recordio, b"\0" + whole[1:], BAD
    yield "recordio: half a frame's head", recordio, whole[:6], BAD
    yield "recordio: truncated", recordio, whole[:-8], BAD
    yield "recordio: a length beyond the body", recordio, struct.pack("<II", 0xCED7230A, 1 << 28) + whole[8:], BAD
    yield "recordio: a length of 2^32 - 1", recordio, struct.pack("<II", 0xCED7230A, 2**32 - 1) + whole[8:], BAD
    yield "recordio: a part of a record", recordio, struct.pack("<II", 0xCED7230A, 1 << 29 | len(whole) - 8) + whole[8:], BAD
    yield "recordio: no message", recordio, framed(b"\xff" * 40), BAD
    yield "recordio: a number without an end", recordio, framed(b"\x0a" + b"\x80" * 12), BAD
    yield "recordio: a member beyond the message", recordio, framed(b"\x0a\xff\xff\xff\xff\x0f"), BAD
    yield "recordio: no features", recordio, framed(b""), BAD
    yield "recordio: half a float", recordio, record({2: member(1, floats[:-2])}), BAD
    yield "recordio: too few values", recordio, record({2: member(1, floats[:-4])}), BAD
    yield "recordio: bytes", recordio, record({9: member(1, b"bytes")}), BAD
    # As protobuf requires, unknown fields are ignored.
    yield "recordio: unknown fields", recordio, framed(member(200, b"?") + varint(201 << 3) + b"\x05" + whole[8:][: len_of(whole)]), {200, 400}
    keys = lambda *columns: member(2, b"".join(map(varint, columns)))
    shape = lambda *sizes: member(3, b"".join(map(varint, sizes)))
    one = member(1, np.ones(1, np.float32).tobytes())
    yield "recordio: sparse, 10^9 columns", recordio, record({2: one + keys(5) + shape(10**9)}), BAD
    yield "recordio: sparse, a column outside", recordio, record({2: one + keys(10**9) + shape(WIDTH)}), BAD
    yield "recordio: sparse, 2^64 - 1", recordio, record({2: one + keys(2**64 - 1) + shape(2**64 - 1)}), BAD
    yield "recordio: sparse, a size that overflows", recordio, record({2: one + keys(0) + shape(2**40, 2**40)}), BAD
    yield "recordio: sparse, more columns than values", recordio, record({2: one + keys(0, 1) + shape(WIDTH)}), BAD
    yield "recordio: sparse, one column twice", recordio, record({2: member(1, floats[:8]) + keys(3, 3) + shape(WIDTH)}), BAD
    groups = framed(b"\x0b" * 100_000)
    yield "recordio: groups in groups", recordio, groups, BAD

    for libsvm in ("text/libsvm", "text/x-libsvm"):
        yield f"{libsvm}: empty", libsvm, b"", BAD
        yield f"{libsvm}: 10^9 columns", libsvm, b"0 1:1 1000000000:1\n", BAD
        yield f"{libsvm}: 2^64", libsvm, b"0 1:1 18446744073709551616:1\n", BAD
        yield f"{libsvm}: a negative column", libsvm, b"0 -1:1\n", BAD
        yield f"{libsvm}: no colon", libsvm, b"0 1 2 3\n", BAD
        yield f"{libsvm}: no number", libsvm, b"0 1:one\n", BAD
        yield f"{libsvm}: one column twice", libsvm, b"0 1:1 1:2\n", BAD
        yield f"{libsvm}: no UTF-8", libsvm, b"0 1:1 \xff\xfe:2\n", BAD

    octets = "application/octet-stream"
    yield "octets: empty", octets, b"", BAD
    yield "octets: a part of a number", octets, b"\0" * (4 * WIDTH - 1), BAD
    yield "octets: a part of a row", octets, b"\0" * (4 * WIDTH - 4), BAD

    yield "npy: an array that declares a larger size", "application/x-npy", npy_header((10**9, WIDTH)), BAD
    yield "npy: a size that overflows", "application/x-npy", npy_header((2**62, 2**62)), BAD
    yield "npy: truncated", "application/x-npy", npy(row)[:-5], BAD

    yield "csv: a quote without an end", "text/csv", b'"1,2,3\n' + b"1," * 100_000, BAD
    yield "csv: a header twice", "text/csv", b"alcohol,alcohol\n1,2\n", BAD
    yield "csv: a million columns", "text/csv", b"1," * 1_000_000 + b"1\n", BAD
    yield "csv: a million names", "text/csv; header=present", b"a," * 1_000_000 + b"a\n1\n", BAD
    yield "csv: a header alone", "text/csv; header=present", b"alcohol\n", BAD
    yield "csv: an unknown delimiter", "text/csv; delimiter=x", b"1x2\n", {400, 415}
    yield "json: rows of other lengths in a table", "application/json", js({"columns": ["a"], "data": [[1, 2]]}), BAD
    yield "json: a million columns in a table", "application/json", js({"columns": ["a"] * 10**6, "data": [[1]]}), BAD
    yield "json: columns of other rows", "application/json", js({"a": {"0": 1}, "b": {"1": 1}}), BAD
    yield "json: deep", "application/json", b'{"dataframe_split":' + b"[" * 100_000, BAD
    yield "json: deep rows", "application/json", b'{"predictions":' + b'[{"a":' * 50_000, BAD
    yield "json: many members", "application/json", js({f"c{number}": [1] for number in range(100_000)}), BAD
    yield "json: half a table", "application/json", b'{"columns": ["a"], "data": [[1', BAD

    encoded = lambda encoding: {"Content_Encoding": encoding}
    rows = js({"instances": row.tolist()})
    yield "gzip: a bomb", "application/json", gzip_bomb(bomb), BAD, encoded("gzip")
    yield "gzip: a bomb of NPY", "application/x-npy", gzip_bomb(bomb), BAD, encoded("gzip")
    yield "gzip: no gzip", "application/json", rows, BAD, encoded("gzip")
    yield "gzip: truncated", "application/json", gzip.compress(rows)[:-10], BAD, encoded("gzip")
    yield "gzip: a checksum that is wrong", "application/json", gzip.compress(rows)[:-8] + b"\0" * 8, BAD, encoded("gzip")
    yield "gzip: empty", "application/json", b"", BAD, encoded("gzip")
    yield "zstd: a bomb", "application/json", zstd_bomb(GIB), BAD, encoded("zstd")
    yield "zstd: no zstd", "application/json", rows, BAD, encoded("zstd")
    yield "an unknown encoding", "application/json", rows, {400, 415}, encoded("br, x")


def len_of(framed: bytes) -> int:
    return struct.unpack_from("<I", framed, 4)[0]


def gzip_bomb(deflated: bytes) -> bytes:
    head = b"\x1f\x8b\x08\0\0\0\0\0\0\xff"
    return head + deflated + struct.pack("<II", zlib.crc32(b""), GIB & 0xFFFF_FFFF)


def sparse_coo(shape) -> bytes:
    return npz(
        {
            "row.npy": npy(np.array([0], np.int64)),
            "col.npy": npy(np.array([0], np.int64)),
            "format.npy": npy(np.array(b"coo")),
            "shape.npy": npy(np.array(shape, np.int64)),
            "data.npy": npy(np.array([1], np.float32)),
        }
    )


PENDING = set()
"""Readers that the server does not support yet."""


class Process:
    """Facts about the serving process, from /proc."""

    def __init__(self, pid: str):
        self.folder = f"/proc/{pid}"

    def reset_peak(self) -> int:
        """Resets the peak to the current resident memory."""
        with open(f"{self.folder}/clear_refs", "w") as file:
            file.write("5")
        return self.peak()

    def peak(self) -> int:
        with open(f"{self.folder}/status") as file:
            [line] = [line for line in file if line.startswith("VmHWM:")]
        return int(line.split()[1]) << 10


def main() -> int:
    address, folder, pid = sys.argv[1:4]
    process, server, failed = Process(pid), check.Server(address), 0
    _, x, _ = make.wine()
    [export] = [export for export in make.scikit_learn_numbers() if export.name == "sklearn_arrays"]
    server.load(export, Path(folder))
    body = js({"instances": x.tolist()})

    def answers(export: Export) -> None:
        check.assert_right(export, server.invoke(export, "application/json", body, "application/json"))

    answers(export)
    for name, content_type, bad, statuses, *headers in cases():
        is_pending = name.split(":")[0] in PENDING
        if is_pending and "--pending" not in sys.argv:
            continue
        before = process.reset_peak()
        more = headers[0] if headers else {}
        answer = server.ask(
            f"/models/{export.name}/invoke", bad, Content_Type=content_type, Accept="application/json", **more
        )
        grown = process.peak() - before
        problems = []
        if answer.status not in statuses:
            problems.append(f"{answer.status} instead of {sorted(statuses)}")
        if answer.status != 200 and len(answer.message) < 20:
            problems.append("the error message is too short")
        if grown >= BOUND:
            problems.append(f"took {grown >> 20} MiB")
        try:
            answers(export)
        except check.Different as error:
            problems.append(f"a valid request afterwards: {error}")
        outcome = f"wrong: {'; '.join(problems)}" if problems else str(answer.status)
        row = {"case": name, "outcome": outcome, "message": answer.message[:200], "grown_kib": grown >> 10}
        print(json.dumps(row))
        failed += bool(problems) and not is_pending
    return min(failed, 1)


if __name__ == "__main__":
    sys.exit(main())
