"""The inputs of the networks: pictures, sentences, sounds and files. All are made here, from fixed
seeds.
"""

from __future__ import annotations

import io
import wave

import numpy as np
from PIL import Image, ImageDraw, ImageFont

# Pictures


def photo(seed: int, width: int, height: int) -> Image.Image:
    """A picture like a photograph: light, soft and hard edges, skin and sky colours, grain."""
    random = np.random.default_rng(seed)
    small = random.uniform(40, 215, (5, 7, 3)).astype(np.uint8)
    picture = Image.fromarray(small).resize((width, height), Image.BICUBIC)
    draw = ImageDraw.Draw(picture)
    colours = [(224, 172, 138), (141, 85, 54), (90, 140, 210), (60, 110, 50), (235, 230, 220), (30, 30, 40)]
    for _ in range(12):
        x, y = random.uniform(-0.1, 0.9, 2) * (width, height)
        w, h = random.uniform(0.1, 0.5, 2) * (width, height)
        colour = tuple(np.clip(random.normal(colours[random.integers(len(colours))], 12), 0, 255).astype(int))
        (draw.ellipse if random.random() < 0.7 else draw.rectangle)([x, y, x + w, y + h], fill=colour)
    grain = np.asarray(picture, dtype=np.float32) + random.normal(0, 6, (height, width, 3))
    return Image.fromarray(np.clip(grain, 0, 255).astype(np.uint8))


LINES = [
    "Longshore harbour office",
    "Invoice 2024-0817",
    "Total: 1,284.50 EUR",
    "Please keep this receipt",
    "Opening hours 8:30 to 17:00",
    "No swimming beyond the pier",
]


def line(text: str, width: int, height: int, ink: int = 20, paper: int = 240) -> Image.Image:
    """A line of text that fills the height."""
    picture = Image.new("RGB", (width, height), (paper, paper, paper - 8))
    size = height * 0.72
    font = ImageFont.load_default(size)
    while font.getlength(text) > width - 8:
        size *= 0.95
        font = ImageFont.load_default(size)
    ImageDraw.Draw(picture).text((4, height / 2), text, font=font, fill=(ink, ink, ink + 20), anchor="lm")
    return picture


def page(width: int, height: int, lines: list[str], seed: int = 0) -> Image.Image:
    """A page with some lines of text, and a little dirt."""
    random = np.random.default_rng(seed)
    picture = Image.new("RGB", (width, height), (246, 244, 236))
    draw = ImageDraw.Draw(picture)
    step = height // (len(lines) + 1)
    for number, text in enumerate(lines):
        font = ImageFont.load_default(step * (0.45 if number else 0.6))
        draw.text((width * 0.06, step * (number + 0.6)), text, font=font, fill=(25, 25, 45))
    dirt = np.asarray(picture, dtype=np.float32) + random.normal(0, 3, (height, width, 1))
    return Image.fromarray(np.clip(dirt, 0, 255).astype(np.uint8))


def encoded(picture: Image.Image, kind: str, **options) -> bytes:
    """The bytes of a file."""
    buffer = io.BytesIO()
    picture.save(buffer, format=kind, **options)
    return buffer.getvalue()


def png(picture: Image.Image) -> bytes:
    return encoded(picture, "PNG")


# Sentences

SENTENCES = [
    "The ferry leaves the harbour at half past eight.",
    "A boat departs from the port at 8:30.",
    "I have never been so disappointed by a toaster.",
    "It's a well-known fact, isn't it? Don't answer.",
    "",
    " ",
    "word",
    "UPPER CASE, lower case, MiXeD",
    "Ça coûte 20 € à Besançon - déjà vu, naïve façade.",
    "Der Straßenbahnführer aß größtenteils Brötchen.",
    "Быстрая коричневая лиса прыгает через ленивую собаку.",
    "مرحبا بالعالم، كيف حالك اليوم؟",
    "שלום עולם (1234) mixed עם English",
    "我喜欢在海边散步。 東京タワーは高い。",
    "สวัสดีชาวโลก",
    "👩‍👩‍👧‍👦 family, 🏳️‍🌈 flag, 👍🏽 thumb",
    "zero\u200bwidth\u200djoin\ufeffmark and soft\u00adhyphen",
    "e\u0301 is not é, and ﬁ is a ligature",
    "tab\tnew\nline\r\nand\u00a0no-break\u3000wide",
    "http://example.org/a?b=c&d=%20#frag user@example.org",
    "3.14159 -42 1e-10 0x7f 1,000,000",
    "supercalifragilisticexpialidocious pneumonoultramicroscopicsilicovolcanoconiosis",
    "a" * 150,
    "[CLS] special [SEP] tokens [MASK] in text <s> </s>",
    "Many words make a long text. " * 90,
]

# Sounds

RATE = 16000


def speech(seed: int, seconds: float) -> np.ndarray:
    """A sound between a voice and a buzzer: a pitch with formants, in syllables with pauses."""
    random = np.random.default_rng(seed)
    time = np.arange(int(seconds * RATE)) / RATE
    pitch = 120 + 25 * np.sin(2 * np.pi * 0.7 * time + seed) + 8 * np.sin(2 * np.pi * 5 * time)
    phase = 2 * np.pi * np.cumsum(pitch) / RATE
    vowels = [(730, 1090, 2440), (270, 2290, 3010), (300, 870, 2240), (530, 1840, 2480)]
    syllable = 0.22
    sound = np.zeros_like(time)
    for number in range(int(seconds / syllable)):
        formants = vowels[random.integers(len(vowels))]
        mask = (time >= number * syllable) & (time < (number + 1) * syllable)
        within = (time[mask] / syllable) % 1
        envelope = np.sin(np.pi * within) ** 0.6
        # A pause every fifth syllable.
        if number % 5 == 4:
            continue
        for harmonic in range(1, 30):
            frequency = harmonic * pitch[mask]
            gain = sum(1 / (1 + ((frequency - formant) / (60 + formant * 0.06)) ** 2) for formant in formants)
            sound[mask] += envelope * gain / harmonic**0.5 * np.sin(harmonic * phase[mask])
    sound += random.normal(0, 0.01, len(sound))
    return (0.5 * sound / np.abs(sound).max()).astype(np.float32)


def noise(seed: int, seconds: float) -> np.ndarray:
    return np.random.default_rng(seed).normal(0, 0.05, int(seconds * RATE)).astype(np.float32)


def tone(frequency: float, seconds: float) -> np.ndarray:
    return (0.3 * np.sin(2 * np.pi * frequency * np.arange(int(seconds * RATE)) / RATE)).astype(np.float32)


def wav(samples: np.ndarray, channels: int = 1) -> tuple[bytes, np.ndarray]:
    """A file of 16 bits, and its samples."""
    whole = np.clip(np.round(samples * 32767), -32768, 32767).astype("<i2")
    buffer = io.BytesIO()
    with wave.open(buffer, "wb") as file:
        file.setnchannels(channels)
        file.setsampwidth(2)
        file.setframerate(RATE)
        file.writeframes(np.repeat(whole, channels).tobytes())
    return buffer.getvalue(), whole.astype(np.float32) / 32768


# Files


def files() -> dict[str, bytes]:
    """Small files of many types."""
    picture = photo(1, 160, 120)
    return {
        "python": b"import sys\n\n\ndef main(arguments):\n    for name in arguments:\n        print(f'hello {name}')\n\n\n"
        b"if __name__ == '__main__':\n    main(sys.argv[1:])\n",
        "rust": b"use std::collections::HashMap;\n\nfn main() {\n    let mut seen: HashMap<String, u32> = HashMap::new();\n"
        b"    for word in std::env::args() {\n        *seen.entry(word).or_default() += 1;\n    }\n    println!(\"{seen:?}\");\n}\n",
        "json": b'{"name": "longshore", "ports": [8080, 8081], "nested": {"a": null, "b": true}, "text": "quoted"}\n' * 3,
        "csv": b"id,name,price\n" + b"".join(b"%d,item %d,%d.50\n" % (n, n, n * 3) for n in range(40)),
        "html": b"<!DOCTYPE html>\n<html><head><title>Pier</title></head><body><h1>Pier</h1><p>Text.</p></body></html>\n",
        "shell": b"#!/usr/bin/env bash\nset -euo pipefail\nfor file in *.txt; do\n  wc -l \"$file\"\ndone\n",
        "prose": b"It was a quiet morning on the long shore, and the boats lay still. Nobody had thought of the tide. " * 5,  # words: quoted
        "png": png(picture),
        "jpeg": encoded(picture, "JPEG"),
        "webp": encoded(picture, "WEBP"),
        "gif": encoded(picture, "GIF"),
        "wav": wav(tone(440, 0.3))[0],
        "zeros": bytes(5000),
        "bytes": np.random.default_rng(0).bytes(5000),
    }
