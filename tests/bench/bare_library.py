"""Runs a model with ONNX Runtime's Python library alone, for comparison with a server.

    python bare_library.py model.onnx

Reads lines `SETTING CALLERS SECONDS` from standard input and answers each with a line: runs per second, the median
time of a run in seconds, and the CPU time of a run in seconds. Settings: `all` is one session whose runs use all cores
(the library's default), `single` one session whose runs use one thread each. All callers share the session.
"""

import sys
import threading
import time

import numpy as np
import onnxruntime as ort

def open_session(path, setting):
    options = ort.SessionOptions()
    options.log_severity_level = 3
    if setting == "single":
        options.intra_op_num_threads = 1
    return ort.InferenceSession(path, options, providers=["CPUExecutionProvider"])


def array(spec):
    """One row of data for an input; open axes after the first have 32 entries, as tokens have."""
    shape = [dim if isinstance(dim, int) else (1 if axis == 0 else 32) for axis, dim in enumerate(spec.shape)]
    numbers = np.arange(np.prod(shape))
    if spec.type == "tensor(int64)":
        return (numbers * 337 % 11_000).astype(np.int64).reshape(shape)
    return ((numbers % 13) / 13).astype(np.float32).reshape(shape)


def measure(session, inputs, callers, seconds):
    times = [[] for _ in range(callers)]
    end = time.perf_counter() + seconds

    def call(own):
        before = time.perf_counter()
        while before < end:
            session.run(None, inputs)
            after = time.perf_counter()
            own.append(after - before)
            before = after

    threads = [threading.Thread(target=call, args=(own,)) for own in times]
    started, cpu = time.perf_counter(), time.process_time()
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    taken, cpu = time.perf_counter() - started, time.process_time() - cpu
    merged = sorted(sum(times, []))
    return len(merged) / taken, merged[len(merged) // 2], cpu / len(merged)


def main():
    sessions = {setting: open_session(sys.argv[1], setting) for setting in ("all", "single")}
    inputs = {spec.name: array(spec) for spec in sessions["all"].get_inputs()}
    for line in sys.stdin:
        setting, callers, seconds = line.split()
        measure(sessions[setting], inputs, int(callers), float(seconds) / 8)
        print(*measure(sessions[setting], inputs, int(callers), float(seconds)), flush=True)


main()
