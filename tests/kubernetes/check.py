"""Checks the manifests of container/deploy/kubernetes against Kubernetes' schemas, offline, and prints
them as one JSON array.

    check.py             the files that the kustomizations list, with the component, and without the names
                         that Kustomize generates
    check.py plain       the manifests as kubectl's Kustomize renders them
    check.py component   the same, after the steps of the comment in kustomization.yaml: with the component

The package kubernetes-validate has the schemas of Kubernetes' own kinds. monitors.json is an excerpt of
those of the Prometheus operator 0.93 (by its authors, Apache-2.0), made by monitors.py.
"""

import json
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import kubernetes_validate

sys.path.append(str(Path(__file__).resolve().parents[1] / "kserve"))
import manifests as shared  # noqa: E402

FOLDER = shared.ROOT / "container/deploy/kubernetes"
COMPONENT = "# components: [autoscaling]\n"
# The oldest release that has all that the manifests use, and the newest one.
VERSIONS = ["1.30", "1.37"]
CONTAINER = ["spec", "template", "spec", "containers", 0]
MISTAKES = [
    ("StatefulSet", ["spec", "serviceNam"], "longshore"),
    ("StatefulSet", ["spec", "selector"], None),
    ("StatefulSet", [*CONTAINER, "imagePulPolicy"], "Always"),
    ("StatefulSet", [*CONTAINER, "lifecycle", "preStop", "sleep", "seconds"], "5s"),
    ("Deployment", [*CONTAINER, "ports", 0, "containerPort"], "8080"),
    ("PodDisruptionBudget", ["spec", "maxUnavailabl"], 1),
]
MISTAKES_OF_COMPONENT = [
    ("HorizontalPodAutoscaler", ["spec", "metrics", 0, "pods", "target", "averageUtilisation"], 1),
    ("ServiceMonitor", ["spec", "selector"], None),
    ("PodMonitor", ["spec", "podMetricsEndpoints", 0, "pat"], "/metrics"),
]


def listed(folder):
    """The manifests that a kustomization lists, and those that it generates, under their plain names."""
    [content] = shared.documents((folder / "kustomization.yaml").read_text())
    assert content["kind"] in ("Kustomization", "Component"), folder
    manifests = []
    for name in content.get("resources", []):
        path = folder / name
        manifests += listed(path.resolve()) if path.is_dir() else shared.documents(path.read_text())
    for generated in content.get("configMapGenerator", []):
        data = dict(pair.split("=", 1) for pair in generated.get("literals", []))
        data |= {name: (folder / name).read_text() for name in generated.get("files", [])}
        manifests.append({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": generated["name"]}, "data": data})
    return manifests


def rendered(with_component):
    with tempfile.TemporaryDirectory() as work:
        deploy = shutil.copytree(FOLDER.parent, Path(work) / "deploy")
        kustomization = deploy / FOLDER.name / "kustomization.yaml"
        text = kustomization.read_text()
        assert text.count(COMPONENT) == 1, f"{kustomization} does not have the line {COMPONENT!r}"
        if with_component:
            kustomization.write_text(text.replace(COMPONENT, COMPONENT.removeprefix("# ")))
        command = ["kubectl", "kustomize", str(kustomization.parent)]
        output = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
    return shared.documents(output.stdout)


def main():
    monitors = shared.validators("tests/kubernetes/monitors.json")

    def problems(manifest):
        kind = manifest.get("kind")
        if kind in monitors:
            return shared.problems(monitors[kind], manifest)
        found = []
        for version in VERSIONS:
            try:
                kubernetes_validate.validate(manifest, version, strict=True)
            except kubernetes_validate.ValidationError as error:
                path = ".".join(str(step) for step in error.path)
                found.append(f"{kind} in Kubernetes {version}: {path}: {error.message}")
        return found

    match sys.argv[1:]:
        case []:
            manifests = listed(FOLDER) + listed(FOLDER / "autoscaling")
        case ["plain" | "component" as which]:
            manifests = rendered(which == "component")
        case arguments:
            sys.exit(f"unknown arguments {arguments}: expected plain, component or none")
    has_component = sys.argv[1:] != ["plain"]
    shared.check(manifests, problems, MISTAKES + MISTAKES_OF_COMPONENT * has_component)
    print(json.dumps(manifests))


main()
