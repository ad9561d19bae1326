"""Makes schemas.json, an excerpt of KServe's custom resource definitions with the parts that the
manifests could use.

usage: excerpt.py CLUSTERSERVINGRUNTIMES.yaml INFERENCESERVICES.yaml > schemas.json

Both files are in config/crd/full of the KServe project (Apache-2.0).

The check must refuse what the API server would drop or refuse, so objects allow no other
properties than the named ones. Descriptions are left out, and so are large parts that pods have
and models do not need.
"""

import json
import sys

import yaml

# Below spec of the first file, and below spec.predictor of the second.
RUNTIME_LEFT_OUT = {"affinity", "builtInAdapter", "workerSpec"}
PREDICTOR_KEPT = {
    "annotations",
    "canaryTrafficPercent",
    "containerConcurrency",
    "labels",
    "maxReplicas",
    "minReplicas",
    "model",
    "nodeSelector",
    "scaleMetric",
    "scaleTarget",
    "serviceAccountName",
    "timeout",
    "tolerations",
}
CONTAINER_LEFT_OUT = {"envFrom", "lifecycle", "restartPolicyRules", "volumeDevices"}
VOLUMES_KEPT = {"configMap", "emptyDir", "name"}
METADATA = {
    "type": "object",
    "properties": {
        "name": {"type": "string", "pattern": "^[a-z0-9]([-a-z0-9]*[a-z0-9])?$", "maxLength": 63},
        "namespace": {"type": "string"},
        "labels": {"type": "object", "additionalProperties": {"type": "string"}},
        "annotations": {"type": "object", "additionalProperties": {"type": "string"}},
    },
    "required": ["name"],
    "additionalProperties": False,
}


def strict(schema):
    """Converts a schema to JSON Schema, without descriptions and Kubernetes' own keywords. Objects
    allow only named properties.
    """
    made = {}
    for key, value in schema.items():
        if key in ("description", "format", "default") or key.startswith("x-kubernetes"):
            continue
        if key == "properties":
            made[key] = {name: strict(of) for name, of in value.items()}
        elif isinstance(value, dict):
            made[key] = strict(value)
        elif isinstance(value, list):
            made[key] = [strict(item) if isinstance(item, dict) else item for item in value]
        else:
            made[key] = value
    if "properties" in made:
        made.setdefault("additionalProperties", False)
    return made


def only(schema, keep):
    schema["properties"] = {name: of for name, of in schema["properties"].items() if keep(name)}
    schema["required"] = [name for name in schema.get("required", []) if name in schema["properties"]]


def excerpt(path, version):
    with open(path) as file:
        definition = yaml.safe_load(file)["spec"]
    [found] = [entry for entry in definition["versions"] if entry["name"] == version]
    schema = strict(found["schema"]["openAPIV3Schema"])
    only(schema, lambda name: name != "status")
    schema["properties"]["metadata"] = METADATA
    schema["properties"]["apiVersion"] = {"const": f"{definition['group']}/{version}"}
    schema["properties"]["kind"] = {"const": definition["names"]["kind"]}
    schema["required"] = ["apiVersion", "kind", "metadata", "spec"]
    return schema


def main():
    runtime = excerpt(sys.argv[1], "v1alpha1")
    spec = runtime["properties"]["spec"]
    only(spec, lambda name: name not in RUNTIME_LEFT_OUT)
    only(spec["properties"]["containers"]["items"], lambda name: name not in CONTAINER_LEFT_OUT)
    only(spec["properties"]["volumes"]["items"], lambda name: name in VOLUMES_KEPT)

    service = excerpt(sys.argv[2], "v1beta1")
    only(service["properties"]["spec"], lambda name: name == "predictor")
    predictor = service["properties"]["spec"]["properties"]["predictor"]
    only(predictor, lambda name: name in PREDICTOR_KEPT)
    only(predictor["properties"]["model"], lambda name: name not in CONTAINER_LEFT_OUT)

    schemas = {"ClusterServingRuntime": runtime, "InferenceService": service}
    lines = [f"{json.dumps(kind)}: {json.dumps(schema)}" for kind, schema in schemas.items()]
    print("{\n" + ",\n".join(lines) + "\n}")


if __name__ == "__main__":
    main()
