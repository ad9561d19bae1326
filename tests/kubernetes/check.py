"""Checks the manifests of container/deploy/kubernetes against Kubernetes' schemas, offline, and prints
them as one JSON array.

The package kubernetes-validate has the schemas of Kubernetes' own kinds. monitors.json is an excerpt of
the Prometheus operator's (by its authors, Apache-2.0), made by monitors.py. Where kubectl is installed,
the manifests are those that its Kustomize renders. Elsewhere they are the files that the
kustomization lists, without the names that Kustomize generates.
"""

import json
import shutil
import subprocess
import sys
from pathlib import Path

import kubernetes_validate
import yaml
from jsonschema import Draft202012Validator

ROOT = Path(__file__).resolve().parents[2]
FOLDER = ROOT / "container/deploy/kubernetes"
# The oldest release that has all that the manifests use, and the newest one.
VERSIONS = ["1.30", "1.37"]


class Loader(yaml.SafeLoader):
    """Refuses duplicate keys. YAML's readers silently use the last one."""

    def construct_mapping(self, node, deep=False):
        keys = [self.construct_object(key, deep=deep) for key, _ in node.value]
        if len(set(keys)) < len(keys):
            raise yaml.constructor.ConstructorError(None, None, f"duplicate key: {keys}", node.start_mark)
        return super().construct_mapping(node, deep)


def documents(text):
    return list(yaml.load_all(text, Loader))


def listed(folder):
    """The manifests that a kustomization lists, and those that it generates, under their plain names."""
    kustomization = folder / "kustomization.yaml"
    [content] = documents(kustomization.read_text())
    assert content["kind"] == "Kustomization", kustomization
    manifests = []
    for name in content.get("resources", []):
        path = folder / name
        manifests += listed(path.resolve()) if path.is_dir() else documents(path.read_text())
    for generated in content.get("configMapGenerator", []):
        data = dict(pair.split("=", 1) for pair in generated.get("literals", []))
        data |= {name: (folder / name).read_text() for name in generated.get("files", [])}
        manifests.append({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": generated["name"]}, "data": data})
    return manifests


def rendered():
    output = subprocess.run(["kubectl", "kustomize", str(FOLDER)], check=True, capture_output=True, text=True)
    return documents(output.stdout)


def problems(monitors, manifest):
    kind = manifest.get("kind")
    if kind in monitors:
        return [f"{kind}: {error.json_path}: {error.message}" for error in monitors[kind].iter_errors(manifest)]
    found = []
    for version in VERSIONS:
        try:
            kubernetes_validate.validate(manifest, version, strict=True)
        except kubernetes_validate.ValidationError as error:
            path = ".".join(str(step) for step in error.path)
            found.append(f"{kind} in Kubernetes {version}: {path}: {error.message}")
    return found


def prove(monitors, manifests):
    """Proves that the schemas find mistakes: each of these must be refused."""
    container = ["spec", "template", "spec", "containers", 0]
    for kind, path, wrong in [
        ("StatefulSet", ["spec", "serviceNam"], "longshore"),
        ("StatefulSet", ["spec", "selector"], None),
        ("StatefulSet", [*container, "imagePulPolicy"], "Always"),
        ("StatefulSet", [*container, "lifecycle", "preStop", "sleep", "seconds"], "5s"),
        ("Deployment", [*container, "ports", 0, "containerPort"], "8080"),
        ("HorizontalPodAutoscaler", ["spec", "metrics", 0, "pods", "target", "averageUtilisation"], 1),
        ("PodDisruptionBudget", ["spec", "maxUnavailabl"], 1),
        ("ServiceMonitor", ["spec", "selector"], None),
        ("PodMonitor", ["spec", "podMetricsEndpoints", 0, "pat"], "/metrics"),
    ]:
        broken = json.loads(json.dumps(next(manifest for manifest in manifests if manifest["kind"] == kind)))
        at = broken
        for step in path[:-1]:
            at = at[step]
        if wrong is None:
            del at[path[-1]]
        else:
            at[path[-1]] = wrong
        assert problems(monitors, broken), f"the schema accepts {kind} with {path} = {wrong!r}"


def main():
    schemas = json.loads((ROOT / "tests/kubernetes/monitors.json").read_text())
    for schema in schemas.values():
        Draft202012Validator.check_schema(schema)
    monitors = {kind: Draft202012Validator(schema) for kind, schema in schemas.items()}
    manifests = listed(FOLDER)
    if shutil.which("kubectl"):
        plain, manifests = manifests, rendered()
        assert sorted(made["kind"] for made in plain) == sorted(made["kind"] for made in manifests)
    else:
        print("SKIPPED: kubectl is missing, so Kustomize does not render the manifests", file=sys.stderr)
    found = [problem for manifest in manifests for problem in problems(monitors, manifest)]
    if found:
        sys.exit("\n".join(found))
    prove(monitors, manifests)
    print(json.dumps(manifests))


main()
