#!/usr/bin/env python3
"""Makes the pictures and numbers that src/vision/tests.rs compares with.

    python3 -m venv venv
    venv/bin/pip install numpy==2.3.5 pillow==12.0.0 transformers==4.57.1
    venv/bin/python tests/vision/fixtures.py

It needs no network and no torch: the processors are those of transformers that work with Pillow
and NumPy. timm's transform needs torch, so `timm_eval` below computes with Pillow and NumPy the
result of timm.data.transforms_factory.transforms_imagenet_eval with torchvision's Resize and
CenterCrop. Ultralytics' LetterBox needs OpenCV, so `letterbox` below computes the same, including
cv2.INTER_LINEAR.

Writes pictures/ (files to read), reading.json (their pixels from Pillow), resizing.json (Pillow's
Image.resize) and processors.json (tensors).
"""

import base64
import io
import json
import math
import struct
import sys
import zlib
from pathlib import Path

import numpy as np
from PIL import Image, ImageOps

HERE = Path(__file__).parent
PICTURES = HERE / "pictures"


def noise(width, height, smooth=False):
    """The picture that tests.rs makes with the same formula."""
    y, x, c = np.meshgrid(np.arange(height), np.arange(width), np.arange(3), indexing="ij")
    if smooth:
        # A slope that turns around at black and white.
        v = (x * 255 // max(width - 1, 1) + y * 255 // max(height - 1, 1) * (c + 1)) % 511
        v = np.where(v > 255, 510 - v, v)
        return v.astype(np.uint8)
    v = (x * 73856093) ^ (y * 19349663) ^ (c * 83492791)
    v = (v * 2654435761) & 0xFFFFFFFF
    return ((v >> 13) & 0xFF).astype(np.uint8)


# ---------------------------------------------------------------- reading


def chunk(name, data):
    return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))


def png(width, height, depth, colour, rows, extra=b"", interlace=0):
    header = struct.pack(">IIBBBBB", width, height, depth, colour, 0, 0, interlace)
    body = chunk(b"IHDR", header) + extra + chunk(b"IDAT", zlib.compress(rows, 9)) + chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + body


def saved(image, **options):
    out = io.BytesIO()
    image.save(out, **options)
    return out.getvalue()


def exif_of(orientation):
    exif = Image.Exif()
    exif[0x0112] = orientation
    return exif


def interlaced(array):
    """Adam7: the rows of the seven passes, unfiltered."""
    height, width, _ = array.shape
    out = b""
    for x0, y0, dx, dy in [(0, 0, 8, 8), (4, 0, 8, 8), (0, 4, 4, 8), (2, 0, 4, 4), (0, 2, 2, 4), (1, 0, 2, 2), (0, 1, 1, 2)]:
        part = array[y0::dy, x0::dx]
        if part.size:
            for row in part:
                out += b"\0" + row.tobytes()
    return out


def bmp(width, height, bits, data, compression=0, palette=b"", masks=b"", top_down=False):
    offset = 14 + 40 + len(masks) + len(palette)
    header = struct.pack(
        "<IiiHHIIiiII", 40, width, -height if top_down else height, 1, bits, compression, len(data), 2835, 2835, len(palette) // 4, 0
    )
    return b"BM" + struct.pack("<IHHI", offset + len(data), 0, 0, offset) + header + masks + palette + data


def padded_rows(rows):
    return b"".join(row + b"\0" * (-len(row) % 4) for row in rows)


def gif(screen, frame_box, indices, palette, transparent=None, background=0, local=None, interlace=False):
    """A GIF whose LZW data is never compressed: a clear code before the table grows."""
    left, top, width, height = frame_box
    table = bytes(palette).ljust(12, b"\0")
    bits = max((len(table) // 3 - 1).bit_length(), 1)
    table = table.ljust(3 << bits, b"\0")
    out = b"GIF89a" + struct.pack("<HHBBB", *screen, 0x80 | 0x70 | (bits - 1), background, 0) + table
    if transparent is not None:
        out += b"!\xf9\x04" + bytes([1, 0, 0, transparent]) + b"\0"
    flags = 0x40 if interlace else 0
    if local is not None:
        local = bytes(local).ljust(3 << bits, b"\0")
        flags |= 0x80 | (bits - 1)
    out += b"," + struct.pack("<HHHHB", left, top, width, height, flags) + (local or b"")
    size = max(bits, 2)
    clear, stop, code_bits = 1 << size, (1 << size) + 1, size + 1
    stream = bit_count = 0
    codes = []
    for i, index in enumerate(indices):
        if i % (clear - 2) == 0:
            codes.append(clear)
        codes.append(index)
    codes.append(stop)
    data = bytearray()
    for code in codes:
        stream |= code << bit_count
        bit_count += code_bits
        while bit_count >= 8:
            data.append(stream & 255)
            stream >>= 8
            bit_count -= 8
    if bit_count:
        data.append(stream & 255)
    out += bytes([size])
    for at in range(0, len(data), 255):
        block = bytes(data[at : at + 255])
        out += bytes([len(block)]) + block
    return out + b"\0;"


def reading():
    """Files of every kind by name, each with the tolerance between a decoder and Pillow."""
    rgb = noise(23, 17)
    soft = noise(23, 17, smooth=True)
    grey = Image.fromarray(rgb[:, :, 0])
    alpha = np.dstack([rgb, noise(23, 17)[:, :, 1]])
    colour = Image.fromarray(rgb)
    gentle = Image.fromarray(soft)
    files = {}

    # PNG
    files["rgb.png"] = saved(colour, format="PNG")
    files["grey.png"] = saved(grey, format="PNG")
    files["rgba.png"] = saved(Image.fromarray(alpha, "RGBA"), format="PNG")
    files["grey-alpha.png"] = saved(Image.fromarray(alpha[:, :, :2].copy(), "LA"), format="PNG")
    files["bilevel.png"] = saved(grey.convert("1"), format="PNG")
    palette = colour.quantize(17)
    files["palette.png"] = saved(palette, format="PNG")
    files["palette-transparent.png"] = saved(palette, format="PNG", transparency=bytes([0, 128, 255]))
    files["palette-4.png"] = saved(colour.quantize(4), format="PNG", bits=2)
    files["rgb-transparent.png"] = saved(colour, format="PNG", transparency=tuple(int(v) for v in rgb[3, 3]))
    for depth in (2, 4):
        levels = rgb[:, :, 0] >> (8 - depth)
        rows = b""
        for row in levels:
            bits = "".join(f"{v:0{depth}b}" for v in row)
            bits += "0" * (-len(bits) % 8)
            rows += b"\0" + bytes(int(bits[i : i + 8], 2) for i in range(0, len(bits), 8))
        files[f"grey-{depth}-bit.png"] = png(23, 17, depth, 0, rows)
    wide = (rgb.astype(np.uint16) << 8) | noise(23, 17)[:, :, ::-1]
    rows = b"".join(b"\0" + row.astype(">u2").tobytes() for row in wide)
    files["rgb-16-bit.png"] = png(23, 17, 16, 2, rows)
    rows = b"".join(b"\0" + row.astype(">u2").tobytes() for row in np.dstack([wide, wide[:, :, :1]]))
    files["rgba-16-bit.png"] = png(23, 17, 16, 6, rows)
    rows = b"".join(b"\0" + row.astype(">u2").tobytes() for row in wide[:, :, :2])
    files["grey-alpha-16-bit.png"] = png(23, 17, 16, 4, rows)
    files["interlaced.png"] = png(23, 17, 8, 2, interlaced(rgb), interlace=1)
    files["interlaced-grey.png"] = png(23, 17, 8, 0, interlaced(rgb[:, :, :1]), interlace=1)
    files["one-pixel.png"] = saved(Image.fromarray(rgb[:1, :1].copy()), format="PNG")
    files["animated.png"] = saved(colour, format="PNG", save_all=True, append_images=[gentle], duration=100)
    for orientation in range(1, 9):
        files[f"orientation-{orientation}.png"] = saved(colour, format="PNG", exif=exif_of(orientation))
    xmp = b'<x:xmpmeta xmlns:x="adobe:ns:meta/"><rdf:Description tiff:Orientation="6"/></x:xmpmeta>'
    text = chunk(b"iTXt", b"XML:com.adobe.xmp\0\0\0\0\0" + xmp)
    rows = b"".join(b"\0" + row.tobytes() for row in rgb)
    files["orientation-xmp.png"] = png(23, 17, 8, 2, rows, extra=text)

    # GIF
    files["palette.gif"] = saved(palette, format="GIF")
    files["grey.gif"] = saved(grey, format="GIF")
    files["interlaced.gif"] = saved(palette, format="GIF", interlace=1)
    files["animated.gif"] = saved(palette, format="GIF", save_all=True, append_images=[gentle.quantize(8)], duration=50)
    colours = [10, 20, 30, 200, 100, 50, 0, 255, 0, 90, 91, 92]
    indices = [(x * 3 + y * 5) % 4 for y in range(5) for x in range(6)]
    files["transparent.gif"] = gif((6, 5), (0, 0, 6, 5), indices, colours, transparent=2)
    files["small-frame.gif"] = gif((11, 9), (3, 2, 6, 5), indices, colours, background=1)
    files["small-frame-transparent.gif"] = gif((11, 9), (3, 2, 6, 5), indices, colours, transparent=3)
    files["frame-beyond-screen.gif"] = gif((7, 6), (3, 2, 6, 5), indices, colours)
    files["local-palette.gif"] = gif((6, 5), (0, 0, 6, 5), indices, colours, local=colours[::-1])
    files["interlaced-small-frame.gif"] = gif((8, 8), (1, 1, 6, 5), indices, colours, interlace=True)

    # BMP
    files["rgb.bmp"] = saved(colour, format="BMP")
    files["grey.bmp"] = saved(grey, format="BMP")
    files["palette.bmp"] = saved(palette, format="BMP")
    files["bilevel.bmp"] = saved(grey.convert("1"), format="BMP")
    files["rgba.bmp"] = saved(Image.fromarray(alpha, "RGBA"), format="BMP")
    bgr = rgb[::-1, :, ::-1]
    files["top-down.bmp"] = bmp(23, 17, 24, padded_rows([row.tobytes() for row in rgb[:, :, ::-1]]), top_down=True)
    files["bgrx.bmp"] = bmp(23, 17, 32, np.dstack([bgr, alpha[::-1, :, 3]]).tobytes())
    five = (np.arange(23 * 17).reshape(17, 23) * 2311 & 0xFFFF).astype("<u2")
    files["555.bmp"] = bmp(23, 17, 16, padded_rows([row.tobytes() for row in five]))
    masks = struct.pack("<III", 0xF800, 0x7E0, 0x1F)
    files["565.bmp"] = bmp(23, 17, 16, padded_rows([row.tobytes() for row in five]), compression=3, masks=masks)
    masks = struct.pack("<III", 0xFF0000, 0xFF00, 0xFF)
    files["bitfields.bmp"] = bmp(23, 17, 32, np.dstack([bgr, alpha[::-1, :, 3]]).tobytes(), compression=3, masks=masks)
    table = b"".join(bytes([i * 15, 255 - i * 15, i * 7, 0]) for i in range(16))
    four = [bytes(((y * 3 + x) % 16) << 4 | (y + x * 2) % 16 for x in range(12)) for y in range(17)]
    files["16-colours.bmp"] = bmp(23, 17, 4, padded_rows(four), palette=table)
    runs = b""
    for y in range(17):
        runs += bytes([10, y % 16, 6, (y * 3) % 16, 0, 7]) + bytes((y + i) % 16 for i in range(7)) + b"\0" + b"\0\0"
    table = table.ljust(1024, b"\0")
    files["rle8.bmp"] = bmp(23, 17, 8, runs + b"\0\1", compression=1, palette=table)

    # TIFF
    for compression in (None, "tiff_lzw", "tiff_deflate", "packbits"):
        name = (compression or "raw").removeprefix("tiff_")
        files[f"{name}.tiff"] = saved(colour, format="TIFF", compression=compression)
    files["grey.tiff"] = saved(grey, format="TIFF")
    files["bilevel.tiff"] = saved(grey.convert("1"), format="TIFF")
    files["fax.tiff"] = saved(grey.convert("1"), format="TIFF", compression="group4")
    files["rgba.tiff"] = saved(Image.fromarray(alpha, "RGBA"), format="TIFF")
    files["grey-alpha.tiff"] = saved(Image.fromarray(alpha[:, :, :2].copy(), "LA"), format="TIFF")
    files["palette.tiff"] = saved(palette, format="TIFF")
    files["cmyk.tiff"] = saved(Image.fromarray(alpha, "CMYK"), format="TIFF")
    files["float.tiff"] = saved(Image.fromarray(rgb[:, :, 0].astype(np.float32) * 1.2 - 20), format="TIFF")
    files["big-endian.tiff"] = tiff_by_hand(">", rgb)
    files["planar.tiff"] = tiff_by_hand("<", rgb, planar=True)
    files["tiled.tiff"] = tiff_by_hand("<", rgb, tile=16)
    files["rgb-16-bit.tiff"] = tiff_by_hand("<", wide)
    files["white-is-zero.tiff"] = tiff_by_hand("<", rgb[:, :, :1], photometric=0)
    files["premultiplied.tiff"] = tiff_by_hand("<", alpha, extra=1)
    files["big.tiff"] = saved(colour, format="TIFF", big_tiff=True)
    files["jpeg.tiff"] = saved(Image.fromarray(noise(61, 43, smooth=True)), format="TIFF", compression="jpeg", quality=92)
    large = noise(61, 43, smooth=True)
    file = saved(Image.fromarray(large), format="JPEG", quality=92, subsampling=2)
    files["jpeg-420.tiff"] = tiff_by_hand("<", large, photometric=6, jpeg=file)
    files["jpeg-grey.tiff"] = saved(gentle.convert("L"), format="TIFF", compression="jpeg", quality=92)
    for orientation in (3, 6):
        files[f"orientation-{orientation}.tiff"] = saved(colour, format="TIFF", tiffinfo={274: orientation})

    # WebP
    files["lossless.webp"] = saved(colour, format="WEBP", lossless=True)
    files["lossless-alpha.webp"] = saved(Image.fromarray(alpha, "RGBA"), format="WEBP", lossless=True, exact=True)
    files["lossy.webp"] = saved(gentle, format="WEBP", quality=90)
    files["lossy-alpha.webp"] = saved(Image.fromarray(np.dstack([soft, alpha[:, :, 3]]), "RGBA"), format="WEBP", quality=90)
    files["animated.webp"] = saved(colour, format="WEBP", lossless=True, save_all=True, append_images=[gentle])
    for orientation in (5, 8):
        files[f"orientation-{orientation}.webp"] = saved(colour, format="WEBP", lossless=True, exif=exif_of(orientation))

    # JPEG
    for name, options in {
        "444": {"subsampling": 0},
        "422": {"subsampling": 1},
        "420": {"subsampling": 2},
        "progressive": {"progressive": True},
        "progressive-444": {"progressive": True, "subsampling": 0},
        "restarts": {"restart_marker_blocks": 1},
    }.items():
        files[f"{name}.jpg"] = saved(gentle, format="JPEG", quality=92, **options)
    files["grey.jpg"] = saved(gentle.convert("L"), format="JPEG", quality=92)
    files["grey-progressive.jpg"] = saved(gentle.convert("L"), format="JPEG", quality=92, progressive=True)
    files["keep-rgb.jpg"] = saved(gentle, format="JPEG", quality=92, keep_rgb=True)
    files["adobe-rgb.jpg"] = with_adobe(saved(gentle, format="JPEG", quality=92, keep_rgb=True), 0)
    files["cmyk.jpg"] = saved(Image.fromarray(np.dstack([soft, soft[:, :, 0] // 2]), "CMYK"), format="JPEG", quality=92)
    files["ycck.jpg"] = with_adobe(files["cmyk.jpg"], 2)
    large = Image.fromarray(noise(61, 43, smooth=True))
    files["large-420.jpg"] = saved(large, format="JPEG", quality=85)
    for orientation in range(1, 9):
        files[f"orientation-{orientation}.jpg"] = saved(gentle, format="JPEG", quality=92, exif=exif_of(orientation))
    files["trailing-bytes.jpg"] = files["444.jpg"] + b"PK\3\4 an archive follows"

    PICTURES.mkdir(exist_ok=True)
    for old in PICTURES.iterdir():
        old.unlink()
    expected = {}
    for name, data in sorted(files.items()):
        (PICTURES / name).write_bytes(data)
        image = ImageOps.exif_transpose(Image.open(io.BytesIO(data))).convert("RGB")
        expected[name] = {
            "width": image.width,
            "height": image.height,
            "rgb": base64.b64encode(image.tobytes()).decode(),
        }
    # 16-bit grey: Pillow clips at 255; here the upper eight bits count.
    rows = b"".join(b"\0" + row.astype(">u2").tobytes() for row in wide[:, :, 0])
    for name, data in {
        "grey-16-bit.png": png(23, 17, 16, 0, rows),
        "grey-16-bit.tiff": saved(Image.fromarray(wide[:, :, 0]), format="TIFF"),
    }.items():
        (PICTURES / name).write_bytes(data)
        high = np.repeat((wide[:, :, :1] >> 8).astype(np.uint8), 3, axis=2)
        expected[name] = {"width": 23, "height": 17, "rgb": base64.b64encode(high.tobytes()).decode()}
    dump("reading.json", expected)


def with_adobe(data, transform):
    """The JPEG with another colour transform in Adobe's segment, which is added if it is missing.
    """
    segment = b"\xff\xee\x00\x0eAdobe" + bytes([0, 100, 0, 0, 0, 0, transform])
    at = data.find(b"\xff\xee")
    if at < 0:
        # Replaces the JFIF segment, which would declare YCbCr.
        length = struct.unpack(">H", data[4:6])[0] if data[2:4] == b"\xff\xe0" else -2
        data = data[:2] + segment + data[4 + length :]
    else:
        data = data[:at] + segment + data[at + 2 + struct.unpack(">H", data[at + 2 : at + 4])[0] :]
    # Without the names R, G and B, which would declare RGB.
    return data


def tiff_by_hand(order, array, planar=False, tile=None, photometric=None, extra=None, jpeg=None):
    height, width, samples = array.shape
    kind = array.dtype.newbyteorder(order)
    if jpeg:
        chunks = [jpeg]
    elif tile:
        pad = np.zeros((-(-height // tile) * tile, -(-width // tile) * tile, samples), array.dtype)
        pad[:height, :width] = array
        chunks = [
            pad[y : y + tile, x : x + tile].astype(kind).tobytes()
            for y in range(0, pad.shape[0], tile)
            for x in range(0, pad.shape[1], tile)
        ]
    elif planar:
        chunks = [array[:, :, c].astype(kind).tobytes() for c in range(samples)]
    else:
        chunks = [array[y : y + 5].astype(kind).tobytes() for y in range(0, height, 5)]
    if photometric is None:
        photometric = 2 if samples >= 3 else 1
    entries = [(256, 4, [width]), (257, 4, [height]), (258, 3, [array.dtype.itemsize * 8] * samples)]
    entries += [(259, 3, [7 if jpeg else 1])]
    entries += [(262, 3, [photometric])]
    offsets_tag, counts_tag = (324, 325) if tile else (273, 279)
    entries += [(offsets_tag, 4, None), (counts_tag, 4, [len(c) for c in chunks]), (277, 3, [samples])]
    entries += [(284, 3, [2 if planar else 1])]
    entries += [(322, 4, [tile]), (323, 4, [tile])] if tile else [(278, 4, [height if planar or jpeg else 5])]
    if jpeg:
        entries += [(530, 3, [2, 2])]
    if extra is not None:
        entries += [(338, 3, [extra])]
    entries.sort()
    directory = 8
    after = directory + 2 + 12 * len(entries) + 4
    values = b""

    def write(offsets):
        nonlocal values
        values = b""
        out = struct.pack(order + "H", len(entries))
        for tag, kind, value in entries:
            value = offsets if value is None else value
            data = struct.pack(order + {3: "H", 4: "I"}[kind] * len(value), *value)
            if len(data) <= 4:
                field = data.ljust(4, b"\0")
            else:
                field = struct.pack(order + "I", after + len(values))
                values += data
            out += struct.pack(order + "HHI", tag, kind, len(value)) + field
        return out + struct.pack(order + "I", 0)

    write([0] * len(chunks))
    at = after + len(values)
    offsets = []
    for data in chunks:
        offsets.append(at)
        at += len(data)
    head = (b"II*\0" if order == "<" else b"MM\0*") + struct.pack(order + "I", directory)
    return head + write(offsets) + values + b"".join(chunks)


# ---------------------------------------------------------------- resizing

FILTERS = {0: "nearest", 1: "lanczos", 2: "bilinear", 3: "bicubic", 4: "box", 5: "hamming"}


def positions(count, total, seed):
    """Positions to compare, by the same formula as in tests.rs."""
    state = seed
    for _ in range(min(count, total)):
        state = (state * 6364136223846793005 + 1442695040888963407) & 0xFFFFFFFFFFFFFFFF
        yield (state >> 33) % total


def resizing():
    cases = []
    sizes = [
        ((37, 29), (224, 224)),
        ((640, 480), (224, 224)),
        ((333, 500), (256, 384)),
        ((500, 333), (17, 11)),
        ((64, 64), (64, 32)),
        ((64, 64), (31, 64)),
        ((1, 1), (7, 5)),
        ((1, 400), (3, 50)),
        ((2000, 3), (224, 2)),
        ((3, 2000), (6, 224)),
        ((255, 255), (256, 256)),
        ((256, 256), (255, 255)),
        ((101, 67), (1, 1)),
        ((1024, 1024), (64, 64)),
    ]
    for index, (source, target) in enumerate(sizes):
        for number in FILTERS:
            for smooth in (False, True):
                image = Image.fromarray(noise(*source, smooth=smooth))
                out = np.asarray(image.resize(target, resample=number)).reshape(-1)
                places = list(positions(400, out.size, index * 7 + number))
                cases.append(
                    {
                        "from": source,
                        "to": target,
                        "filter": number,
                        "smooth": smooth,
                        "seed": index * 7 + number,
                        "levels": base64.b64encode(bytes(int(out[p]) for p in places)).decode(),
                    }
                )
    dump("resizing.json", cases)


# ---------------------------------------------------------------- processors

WIDE, TALL, SMALL, SQUARE, LONG = (320, 240), (201, 333), (50, 40), (256, 256), (600, 77)
ALL = [WIDE, TALL, SMALL, SQUARE, LONG]


def transformers_cases():
    """(name of the class, arguments that differ from the defaults, pictures)."""
    half = {"image_mean": [0.5, 0.5, 0.5], "image_std": [0.5, 0.5, 0.5]}
    return [
        ("ViTImageProcessor", {}, ALL),
        ("ViTImageProcessor", {"size": 96, "resample": 3, "do_normalize": False}, [WIDE, TALL]),
        ("ViTImageProcessor", {"do_resize": False, "do_rescale": False, "do_normalize": False}, [SMALL]),
        ("CLIPImageProcessor", {}, ALL),
        ("CLIPImageProcessor", {"size": {"shortest_edge": 336}, "crop_size": {"height": 336, "width": 336}}, [TALL]),
        ("CLIPImageProcessor", {"size": {"shortest_edge": 100}, "crop_size": {"height": 131, "width": 90}}, [WIDE, LONG]),
        ("ChineseCLIPImageProcessor", {"size": {"height": 224, "width": 224}}, [WIDE]),
        ("BitImageProcessor", {"size": {"shortest_edge": 256}}, [WIDE, TALL]),
        ("SiglipImageProcessor", {}, [WIDE]),
        ("DeiTImageProcessor", {}, [WIDE, SMALL]),
        ("BeitImageProcessor", {"do_center_crop": False}, [TALL]),
        ("BlipImageProcessor", {}, [WIDE]),
        ("FlavaImageProcessor", {}, [WIDE]),
        ("PvtImageProcessor", {}, [WIDE]),
        ("SegformerImageProcessor", {"size": {"height": 128, "width": 160}}, [WIDE]),
        ("OwlViTImageProcessor", {"size": {"height": 200, "width": 200}}, [TALL]),
        ("ConvNextImageProcessor", {"size": {"shortest_edge": 224}}, ALL),
        ("ConvNextImageProcessor", {"size": {"shortest_edge": 224}, "crop_pct": 0.95, "resample": 3}, [WIDE]),
        ("ConvNextImageProcessor", {}, [SMALL]),
        ("LevitImageProcessor", {}, [WIDE, TALL]),
        ("EfficientNetImageProcessor", {"size": 128}, [WIDE, TALL]),
        ("EfficientNetImageProcessor", {"size": 128, "rescale_offset": True, "rescale_factor": 1 / 127.5, "include_top": False, **half}, [WIDE]),
        ("EfficientNetImageProcessor", {"size": 150, "do_center_crop": True, "crop_size": 101, "resample": 2}, [TALL]),
        ("MobileNetV1ImageProcessor", {}, [WIDE]),
        ("MobileNetV2ImageProcessor", {}, [TALL, LONG]),
        ("MobileViTImageProcessor", {}, [WIDE, SMALL]),
        ("PoolFormerImageProcessor", {}, [WIDE, TALL]),
        ("PoolFormerImageProcessor", {"size": {"height": 160, "width": 160}, "crop_pct": 0.8, "crop_size": 160}, [WIDE]),
        ("PerceiverImageProcessor", {}, [WIDE, TALL]),
        ("DPTImageProcessor", {}, [WIDE]),
        ("DPTImageProcessor", {"size": {"height": 140, "width": 140}, "keep_aspect_ratio": True, "ensure_multiple_of": 14}, ALL),
        ("DPTImageProcessor", {"size": {"height": 100, "width": 90}, "do_pad": True, "size_divisor": 32}, [WIDE]),
        ("GLPNImageProcessor", {}, [WIDE, TALL]),
        ("TextNetImageProcessor", {"size": {"shortest_edge": 160}}, [WIDE, LONG]),
        ("DetrImageProcessor", {"size": {"shortest_edge": 100, "longest_edge": 166}}, ALL),
        ("DetrImageProcessor", {"size": {"max_height": 90, "max_width": 120}}, [WIDE, TALL]),
        ("DetrImageProcessor", {"size": {"shortest_edge": 80, "longest_edge": 133}, "pad_size": {"height": 140, "width": 140}}, [TALL]),
        ("ConditionalDetrImageProcessor", {"size": {"shortest_edge": 100, "longest_edge": 166}}, [WIDE]),
        ("GroundingDinoImageProcessor", {"size": {"shortest_edge": 100, "longest_edge": 166}}, [LONG]),
        ("RTDetrImageProcessor", {"size": {"height": 160, "width": 160}}, [WIDE]),
        ("YolosImageProcessor", {"size": {"shortest_edge": 100, "longest_edge": 166}}, ALL),
        ("MaskFormerImageProcessor", {"size": {"shortest_edge": 90, "longest_edge": 150}}, ALL),
        ("Mask2FormerImageProcessor", {"size": {"shortest_edge": 90, "longest_edge": 150}}, [TALL]),
        ("ViltImageProcessor", {"size": {"shortest_edge": 120}}, ALL[:4]),
        ("BridgeTowerImageProcessor", {"size": {"shortest_edge": 96}}, [WIDE, TALL]),
        ("SamImageProcessor", {"size": {"longest_edge": 160}, "pad_size": {"height": 160, "width": 160}}, [WIDE, TALL]),
    ]


def sampled(tensor, seed):
    flat = np.asarray(tensor, dtype=np.float32).reshape(-1)
    return [float(flat[p]) for p in positions(120, flat.size, seed)]


def processors():
    import transformers

    cases = []
    for number, (name, options, pictures) in enumerate(transformers_cases()):
        processor = getattr(transformers, name)(**options)
        config = processor.to_dict()
        config["image_processor_type"] = name
        rows = []
        for index, size in enumerate(pictures):
            # Noise shows every mistake; smooth pictures show how much filters differ.
            smooth = (number + index) % 2 == 1
            image = Image.fromarray(noise(*size, smooth=smooth))
            tensor = processor(images=image, return_tensors="np")["pixel_values"]
            rows.append(
                {
                    "picture": size,
                    "smooth": smooth,
                    "shape": list(tensor.shape),
                    "seed": number * 31 + index,
                    "samples": sampled(tensor, number * 31 + index),
                }
            )
        cases.append({"config": json.loads(json.dumps(config, default=str)), "rows": rows})
    for number, (config, pictures) in enumerate(timm_cases()):
        rows = []
        for index, size in enumerate(pictures):
            smooth = (number + index) % 2 == 1
            tensor = timm_eval(Image.fromarray(noise(*size, smooth=smooth)), config)
            seed = 10_000 + number * 31 + index
            rows.append(
                {"picture": size, "smooth": smooth, "shape": list(tensor.shape), "seed": seed, "samples": sampled(tensor, seed)}
            )
        cases.append({"config": {"architecture": "any", "pretrained_cfg": config}, "rows": rows})
    for number, (config, pictures) in enumerate(manifest_cases()):
        rows = []
        for index, size in enumerate(pictures):
            smooth = (number + index) % 2 == 1
            tensor = manifest(noise(*size, smooth=smooth), config)
            seed = 20_000 + number * 31 + index
            rows.append(
                {"picture": size, "smooth": smooth, "shape": list(tensor.shape), "seed": seed, "samples": sampled(tensor, seed)}
            )
        cases.append({"manifest": config, "rows": rows})
    dump("processors.json", cases)


def timm_cases():
    imagenet = {"mean": [0.485, 0.456, 0.406], "std": [0.229, 0.224, 0.225]}
    return [
        ({"input_size": [3, 224, 224], "interpolation": "bicubic", "crop_pct": 0.875, **imagenet}, ALL),
        ({"input_size": [3, 160, 160], "interpolation": "bilinear", "crop_pct": 0.95, "crop_mode": "center", **imagenet}, [WIDE, TALL]),
        ({"input_size": [3, 128, 128], "interpolation": "bicubic", "crop_pct": 0.9, "crop_mode": "squash", **imagenet}, [TALL]),
        ({"input_size": [3, 128, 128], "interpolation": "bicubic", "crop_pct": 0.9, "crop_mode": "border", **imagenet}, [WIDE, LONG]),
        ({"input_size": [3, 96, 128], "interpolation": "bicubic", "crop_pct": 1.0, **imagenet}, [WIDE, SMALL]),
    ]


def timm_eval(image, config):
    filters = {"bilinear": Image.BILINEAR, "bicubic": Image.BICUBIC}
    resample = filters[config["interpolation"]]
    _, height, width = config["input_size"]
    scale = [math.floor(x / config["crop_pct"]) for x in (height, width)]
    mode = config.get("crop_mode", "center")
    fill = (0, 0, 0)
    if mode == "squash":
        image = image.resize((scale[1], scale[0]), resample)
    elif mode == "border":
        fill = tuple(round(255 * v) for v in config["mean"])
        image = keep_ratio(image, scale, 1.0, resample)
    elif scale[0] == scale[1]:
        w, h = image.size
        short, long = (w, h) if w <= h else (h, w)
        new_short, new_long = scale[0], int(scale[0] * long / short)
        image = image.resize((new_short, new_long) if w <= h else (new_long, new_short), resample)
    else:
        image = keep_ratio(image, scale, 0.0, resample)
    w, h = image.size
    if width > w or height > h:
        left, top = max((width - w) // 2, 0), max((height - h) // 2, 0)
        right, bottom = max((width - w + 1) // 2, 0), max((height - h + 1) // 2, 0)
        canvas = Image.new("RGB", (w + left + right, h + top + bottom), fill)
        canvas.paste(image, (left, top))
        image = canvas
        w, h = image.size
    top, left = int(round((h - height) / 2.0)), int(round((w - width) / 2.0))
    image = image.crop((left, top, left + width, top + height))
    levels = np.asarray(image).astype(np.float32) / np.float32(255)
    levels = (levels - np.array(config["mean"], np.float32)) / np.array(config["std"], np.float32)
    return levels.transpose(2, 0, 1)[None]


def keep_ratio(image, size, longest, resample):
    w, h = image.size
    ratio_h, ratio_w = h / size[0], w / size[1]
    ratio = max(ratio_h, ratio_w) * longest + min(ratio_h, ratio_w) * (1.0 - longest)
    return image.resize((round(w / ratio), round(h / ratio)), resample)


def manifest_cases():
    return [
        ({"letterbox": True, "size": 160}, ALL),
        ({"letterbox": True, "size": {"height": 96, "width": 160}, "pad_value": 0}, [WIDE, TALL]),
        ({"size": 64, "antialias": False}, [WIDE, SMALL]),
        ({"size": 64, "channel_order": "BGR", "do_rescale": False, "image_mean": [103.939, 116.779, 123.68]}, [WIDE]),
    ]


def manifest(array, config):
    height, width = (lambda s: (s, s) if isinstance(s, int) else (s["height"], s["width"]))(config["size"])
    if config.get("letterbox"):
        h, w = array.shape[:2]
        r = min(height / h, width / w)
        new = int(round(w * r)), int(round(h * r))
        dw, dh = (width - new[0]) / 2, (height - new[1]) / 2
        if (w, h) != new:
            array = linear(array, new)
        top, left = int(round(dh - 0.1)), int(round(dw - 0.1))
        canvas = np.full((height, width, 3), config.get("pad_value", 114), np.uint8)
        canvas[top : top + new[1], left : left + new[0]] = array
        array = canvas
    elif config.get("antialias") is False:
        array = linear(array, (width, height))
    else:
        array = np.asarray(Image.fromarray(array).resize((width, height), Image.BILINEAR))
    levels = array.astype(np.float32)
    if config.get("channel_order") == "BGR":
        levels = levels[:, :, ::-1]
    if config.get("do_rescale", True):
        levels = (levels.astype(np.float64) / 255).astype(np.float32)
    levels = levels - np.array(config.get("image_mean", [0, 0, 0]), np.float32)
    return levels.transpose(2, 0, 1)[None]


def linear(array, size):
    """cv2.resize(array, size, interpolation=cv2.INTER_LINEAR), rounded once."""

    def taps(count, source):
        at = (np.arange(count) + 0.5) * source / count - 0.5
        low = np.floor(at)
        weight = at - low
        weight = np.where(low < 0, 0.0, np.where(low >= source - 1, 0.0, weight))
        low = np.clip(low, 0, source - 1).astype(int)
        return low, np.minimum(low + 1, source - 1), weight

    x0, x1, wx = taps(size[0], array.shape[1])
    y0, y1, wy = taps(size[1], array.shape[0])
    a = array.astype(np.float64)
    wx, wy = wx[None, :, None], wy[:, None, None]
    top = a[y0][:, x0] * (1 - wx) + a[y0][:, x1] * wx
    bottom = a[y1][:, x0] * (1 - wx) + a[y1][:, x1] * wx
    return np.clip(np.floor(top * (1 - wy) + bottom * wy + 0.5), 0, 255).astype(np.uint8)


def dump(name, value):
    text = json.dumps(value, indent=None, separators=(",", ":"))
    (HERE / name).write_text(text.replace("},{", "},\n{").replace("},\"", "},\n\"") + "\n")


if __name__ == "__main__":
    parts = {"reading": reading, "resizing": resizing, "processors": processors}
    for part in sys.argv[1:] or parts:
        parts[part]()
