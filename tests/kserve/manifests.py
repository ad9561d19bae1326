"""Reads manifests, checks them against JSON schemas, and proves that the schemas find mistakes.

For the checks of container/deploy/kserve and container/deploy/kubernetes. As a program, it prints the
documents of a YAML file as one JSON array:

    manifests.py FILE
"""

import json
import sys
from pathlib import Path

import yaml
from jsonschema import Draft202012Validator

ROOT = Path(__file__).resolve().parents[2]


class Loader(yaml.SafeLoader):
    """Refuses duplicate keys. YAML's readers silently use the last one."""

    def construct_mapping(self, node, deep=False):
        # A merge (`<<`) may name keys that the mapping has as well.
        keys = [self.construct_object(key, deep=deep) for key, _ in node.value if key.tag != "tag:yaml.org,2002:merge"]
        if len(set(keys)) < len(keys):
            raise yaml.constructor.ConstructorError(None, None, f"duplicate key: {keys}", node.start_mark)
        return super().construct_mapping(node, deep)


def documents(text):
    return list(yaml.load_all(text, Loader))


def validators(path):
    """The validators of a file of schemas, by kind."""
    schemas = json.loads((ROOT / path).read_text())
    for schema in schemas.values():
        Draft202012Validator.check_schema(schema)
    return {kind: Draft202012Validator(schema) for kind, schema in schemas.items()}


def problems(validator, manifest):
    return [f"{manifest['kind']}: {error.json_path}: {error.message}" for error in validator.iter_errors(manifest)]


def broken(manifest, path, wrong):
    """A copy of `manifest` with another value at `path`, or without one where `wrong` is None."""
    copy = json.loads(json.dumps(manifest))
    at = copy
    for step in path[:-1]:
        at = at[step]
    if wrong is None:
        del at[path[-1]]
    else:
        at[path[-1]] = wrong
    return copy


def check(manifests, problems, mistakes):
    """Ends with the problems of `manifests`, if there are any. Each mistake must be one: a kind, a path
    and a wrong value."""
    if found := [problem for manifest in manifests for problem in problems(manifest)]:
        sys.exit("\n".join(found))
    for kind, path, wrong in mistakes:
        manifest = next(manifest for manifest in manifests if manifest["kind"] == kind)
        assert problems(broken(manifest, path, wrong)), f"the schema accepts {kind} with {path} = {wrong!r}"


if __name__ == "__main__":
    print(json.dumps(documents(Path(sys.argv[1]).read_text())))
