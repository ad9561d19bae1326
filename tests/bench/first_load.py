"""Loads a model with ONNX Runtime in Python, and prints the seconds that it takes."""

import sys
import time

import onnxruntime

options = onnxruntime.SessionOptions()
options.log_severity_level = 4
started = time.perf_counter()
onnxruntime.InferenceSession(sys.argv[1], options)
print(time.perf_counter() - started)
