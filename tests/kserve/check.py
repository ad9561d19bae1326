"""Checks the manifests of container/deploy/kserve against KServe's schemas, and prints them as one JSON array.

schemas.json is an excerpt of the custom resource definitions of KServe 0.20 (by the KServe authors, Apache-2.0), made by
excerpt.py.
"""

import json

import manifests as shared

FILES = ["runtime.yaml", "inference-services.yaml"]
MISTAKES = [
    ("ClusterServingRuntime", ["spec", "containers"], None),
    ("ClusterServingRuntime", ["spec", "containers", 0, "imagePulPolicy"], "Always"),
    ("ClusterServingRuntime", ["spec", "containers", 0, "ports", 0, "containerPort"], "8080"),
    ("ClusterServingRuntime", ["spec", "supportedModelFormats", 0, "version"], 1),
    ("InferenceService", ["spec", "predictor", "model", "modelFormat"], "onnx"),
    ("InferenceService", ["spec", "predictor", "model", "protocolVersions"], ["v2"]),
    ("InferenceService", ["spec", "predictor", "minReplicas"], "1"),
    ("InferenceService", ["apiVersion"], "serving.kserve.io/v1alpha1"),
]


def main():
    known = shared.validators("tests/kserve/schemas.json")
    manifests = []
    for name in FILES:
        manifests += shared.documents((shared.ROOT / "container/deploy/kserve" / name).read_text())
    shared.check(manifests, lambda manifest: shared.problems(known[manifest["kind"]], manifest), MISTAKES)
    print(json.dumps(manifests))


main()
