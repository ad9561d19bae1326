"""Makes monitors.json, an excerpt of the custom resource definitions of the Prometheus operator 0.93 with the
parts that the manifests could use.

usage: monitors.py SERVICEMONITORS.yaml PODMONITORS.yaml > monitors.json

Both files are in example/prometheus-operator-crd of the Prometheus operator 0.93 (Apache-2.0).
"""

import json
import pathlib
import sys

sys.path.append(str(pathlib.Path(__file__).resolve().parents[1] / "kserve"))
from excerpt import excerpt, only  # noqa: E402

SPEC_KEPT = {"endpoints", "jobLabel", "namespaceSelector", "podMetricsEndpoints", "podTargetLabels", "selector",
             "targetLabels"}
ENDPOINT_KEPT = {"honorLabels", "interval", "metricRelabelings", "path", "port", "relabelings", "scheme",
                 "scrapeTimeout"}


def main():
    schemas = {}
    for path, kind, endpoints in [
        (sys.argv[1], "ServiceMonitor", "endpoints"),
        (sys.argv[2], "PodMonitor", "podMetricsEndpoints"),
    ]:
        schema = excerpt(path, "v1")
        spec = schema["properties"]["spec"]
        only(spec, lambda name: name in SPEC_KEPT)
        only(spec["properties"][endpoints]["items"], lambda name: name in ENDPOINT_KEPT)
        schemas[kind] = schema
    lines = [f"{json.dumps(kind)}: {json.dumps(schema)}" for kind, schema in schemas.items()]
    print("{\n" + ",\n".join(lines) + "\n}")


main()
