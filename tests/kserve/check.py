"""Checks the manifests of container/deploy/kserve against KServe's schemas, and prints them as one JSON array.

schemas.json is an excerpt of the custom resource definitions of KServe 0.20 (by the KServe authors, Apache-2.0), made by
excerpt.py.
"""

import json
import sys
from pathlib import Path

import yaml
from jsonschema import Draft202012Validator

ROOT = Path(__file__).resolve().parents[2]
FILES = ["runtime.yaml", "inference-services.yaml"]


class Loader(yaml.SafeLoader):
    """Refuses duplicate keys. YAML's readers silently use the last one."""

    def construct_mapping(self, node, deep=False):
        keys = [self.construct_object(key, deep=deep) for key, _ in node.value]
        if len(set(keys)) < len(keys):
            raise yaml.constructor.ConstructorError(None, None, f"duplicate key: {keys}", node.start_mark)
        return super().construct_mapping(node, deep)


def validators():
    schemas = json.loads((ROOT / "tests/kserve/schemas.json").read_text())
    for schema in schemas.values():
        Draft202012Validator.check_schema(schema)
    return {kind: Draft202012Validator(schema) for kind, schema in schemas.items()}


def problems(validator, manifest):
    return [f"{error.json_path}: {error.message}" for error in validator.iter_errors(manifest)]


def prove(known, manifests):
    """Proves that the schemas find mistakes: each of these must be refused."""
    runtime, service = manifests[0], manifests[1]
    for manifest, path, wrong in [
        (runtime, ["spec", "containers"], None),
        (runtime, ["spec", "containers", 0, "imagePulPolicy"], "Always"),
        (runtime, ["spec", "containers", 0, "ports", 0, "containerPort"], "8080"),
        (runtime, ["spec", "supportedModelFormats", 0, "version"], 1),
        (service, ["spec", "predictor", "model", "modelFormat"], "onnx"),
        (service, ["spec", "predictor", "model", "protocolVersions"], ["v2"]),
        (service, ["spec", "predictor", "minReplicas"], "1"),
        (service, ["apiVersion"], "serving.kserve.io/v1alpha1"),
    ]:
        broken = json.loads(json.dumps(manifest))
        at = broken
        for step in path[:-1]:
            at = at[step]
        if wrong is None:
            del at[path[-1]]
        else:
            at[path[-1]] = wrong
        assert problems(known[manifest["kind"]], broken), f"the schema accepts {path} = {wrong!r}"


def main():
    known = validators()
    manifests = []
    for name in FILES:
        text = (ROOT / "container/deploy/kserve" / name).read_text()
        manifests.extend(yaml.load_all(text, Loader))
    found = [problem for manifest in manifests for problem in problems(known[manifest["kind"]], manifest)]
    if found:
        sys.exit("\n".join(found))
    prove(known, manifests)
    print(json.dumps(manifests))


main()
