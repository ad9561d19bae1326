"""Writes small WAV files, and the results of the reference libraries for sounds.

    python -m venv venv
    venv/bin/pip install numpy==2.4.6 scipy==1.17.1 soundfile==0.14.0 transformers==5.24.0
    venv/bin/python tests/audio/fixtures.py

Writes tests/audio/*.wav and tests/audio/expected.json. Arrays are float32 in base64.
"""

import base64
import json
import os
import struct
from math import gcd
from pathlib import Path

os.environ["HF_HUB_OFFLINE"] = "1"

import numpy
import scipy.signal
import soundfile

HERE = Path(__file__).parent
RATE = 16000


def text(values):
    return base64.b64encode(numpy.asarray(values, dtype="<f4").tobytes()).decode()


def tone(frames, channels, seed):
    """Tones with noise, different in each channel."""
    generator = numpy.random.default_rng(seed)
    time = numpy.arange(frames)[:, None] / RATE
    pitch = 200.0 * (1 + numpy.arange(channels))[None, :]
    sound = 0.6 * numpy.sin(2 * numpy.pi * pitch * time) + 0.2 * generator.standard_normal((frames, channels))
    return numpy.clip(sound, -1, 1 - 2**-15)


FORMATS = {
    "u8": ("PCM_U8", "WAV", 1),
    "i16": ("PCM_16", "WAV", 1),
    "i16_stereo": ("PCM_16", "WAV", 2),
    "i24": ("PCM_24", "WAV", 1),
    "i24_6_channels": ("PCM_24", "WAVEX", 6),
    "i32": ("PCM_32", "WAV", 1),
    "f32_stereo": ("FLOAT", "WAV", 2),
    "f32_extensible": ("FLOAT", "WAVEX", 1),
    "f64": ("DOUBLE", "WAV", 1),
    "a_law": ("ALAW", "WAV", 1),
    "mu_law_stereo": ("ULAW", "WAV", 2),
}


def chunk(name, body):
    return name + struct.pack("<I", len(body)) + body + b"\0" * (len(body) % 2)


def by_hand():
    """Files that the library cannot write."""
    samples = (tone(60, 1, 9) * 32767).astype("<i2").tobytes()
    fmt = struct.pack("<HHIIHH", 1, 1, RATE, RATE * 2, 2, 16)
    # Each sample uses 20 of its 24 bits.
    guid = struct.pack("<HHIIHHHHI", 0xFFFE, 1, RATE, RATE * 3, 3, 24, 22, 20, 4) + struct.pack("<H", 1) + bytes.fromhex(
        "000000001000800000aa00389b71"
    )
    loud = (tone(60, 1, 10) * 2**19).astype("<i4") << 4
    loud = b"".join(int(value).to_bytes(3, "little", signed=True) for value in loud[:, 0])
    return {
        # A chunk of odd length before the samples, and one after them.
        "odd_chunks": b"WAVE" + chunk(b"LIST", b"abc") + chunk(b"fmt ", fmt) + chunk(b"data", samples) + chunk(b"id3 ", b"x"),
        # A recorder that writes into a pipe gives no length.
        "piped": b"WAVE" + chunk(b"fmt ", fmt + b"\0\0") + b"data" + b"\xff" * 4 + samples,
        "valid_bits": b"WAVE" + chunk(b"fmt ", guid) + chunk(b"data", loud),
    }


def main():
    expected = {"formats": {}, "resampled": [], "extractor": []}
    for number, (name, (subtype, container, channels)) in enumerate(FORMATS.items()):
        path = HERE / f"{name}.wav"
        soundfile.write(path, tone(80, channels, number), RATE, subtype=subtype, format=container)
        sound, _ = soundfile.read(path, dtype="float32", always_2d=True)
        expected["formats"][name] = text(sound.mean(axis=1))
    for name, body in by_hand().items():
        path = HERE / f"{name}.wav"
        length = 0xFFFFFFFF if name == "piped" else len(body)
        path.write_bytes(b"RIFF" + struct.pack("<I", length) + body)
        sound, _ = soundfile.read(path, dtype="float32", always_2d=True)
        expected["formats"][name] = text(sound.mean(axis=1))

    sound = tone(700, 1, 99)[:, 0].astype("float32")
    expected["sound"] = text(sound)
    pairs = [
        (44100, 16000),
        (48000, 16000),
        (8000, 16000),
        (22050, 16000),
        (11025, 16000),
        (16000, 44100),
        (16000, 8000),
        (96000, 16000),
        (44100, 48000),
        (7919, 8009),
    ]
    for old, new in pairs:
        common = gcd(old, new)
        # Computed in double precision, and rounded once at the end.
        resampled = scipy.signal.resample_poly(sound.astype("float64"), new // common, old // common)
        expected["resampled"].append({"from": old, "to": new, "samples": text(resampled)})
    # Sounds that are shorter than the filter.
    for length in (1, 2, 19):
        resampled = scipy.signal.resample_poly(sound[:length].astype("float64"), 160, 441)
        expected["resampled"].append({"from": 44100, "to": 16000, "length": length, "samples": text(resampled)})

    from transformers import Wav2Vec2FeatureExtractor

    for normalize in (True, False):
        extractor = Wav2Vec2FeatureExtractor(do_normalize=normalize, return_attention_mask=True)
        sounds = [sound[:300], sound[100:220] * 0.01]
        features = extractor(sounds, sampling_rate=RATE, padding=True, return_tensors="np")
        expected["extractor"].append(
            {
                "config": extractor.to_json_string(),
                "input_values": [text(row) for row in features["input_values"]],
                "attention_mask": ["".join(map(str, row)) for row in features["attention_mask"].tolist()],
            }
        )
    (HERE / "expected.json").write_text(json.dumps(expected, indent=0) + "\n")


if __name__ == "__main__":
    main()
