"""Reads a CloudFormation template and works out what it asks for.

Of CloudFormation's language this knows what the templates beside this file use: parameters, conditions, Ref, Sub, GetAtt,
If, Equals, Not, And. What it does not know it refuses, so a template means the same here as there.
"""

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Iterator

import yaml

from trouble import Trouble


@dataclass(frozen=True)
class Function:
    """One of the template's expressions, e.g. `!Ref Bucket`."""

    name: str
    argument: Any


class Loader(yaml.SafeLoader):
    pass


def function(loader: yaml.SafeLoader, name: str, node: yaml.Node) -> Function:
    if isinstance(node, yaml.ScalarNode):
        return Function(name, loader.construct_scalar(node))
    return Function(name, loader.construct_sequence(node, deep=True))


Loader.add_multi_constructor("!", function)

NO_VALUE = object()
SUBSTITUTION = re.compile(r"\$\{([^}]+)\}")


class Stack:
    """A template with values for its parameters.

    `attributes` has what is known of the resources: whoever makes one enters it, and then those that refer to it can be
    worked out. `resources` gives them in an order in which that goes well.
    """

    def __init__(self, file: Path, name: str, given: dict[str, str], surroundings: dict[str, str]):
        self.name = name
        self.template = yaml.load(file.read_text(), Loader)
        unknown = sorted(given.keys() - self.template["Parameters"].keys())
        if unknown:
            known = ", ".join(self.template["Parameters"])
            raise Trouble(f"{unknown[0]} is no parameter of {file.name}, which has {known}")
        self.parameters = {
            key: parameter(key, about, given.get(key)) for key, about in self.template["Parameters"].items()
        }
        self.surroundings = surroundings | {"AWS::StackName": name}
        self.attributes: dict[str, dict[str, str]] = {}

    def resources(self) -> Iterator[tuple[str, str, bool]]:
        """Name, type, and whether it is wanted: those that others refer to come before these."""
        resources = self.template["Resources"]
        done: list[str] = []

        def visit(name: str) -> None:
            if name in done:
                return
            for other in sorted(references(resources[name]) & resources.keys()):
                visit(other)
            done.append(name)

        for name in resources:
            visit(name)
        for name in done:
            condition = resources[name].get("Condition")
            yield name, resources[name]["Type"], condition is None or self.holds(condition)

    def properties(self, resource: str) -> dict[str, Any]:
        return self.value(self.template["Resources"][resource]["Properties"])

    def outputs(self) -> dict[str, str]:
        return {name: self.value(output["Value"]) for name, output in self.template["Outputs"].items()}

    def holds(self, condition: str) -> bool:
        return self.value(self.template["Conditions"][condition])

    def value(self, of: Any) -> Any:
        """`of` with all functions worked out, and what has no value left out."""
        match of:
            case dict():
                values = {key: self.value(value) for key, value in of.items()}
                return {key: value for key, value in values.items() if value is not NO_VALUE}
            case list():
                return [value for value in map(self.value, of) if value is not NO_VALUE]
            case Function("Ref", name):
                return self.reference(name)
            case Function("GetAtt", path):
                return self.attribute(path)
            case Function("Sub", str(text)):
                return SUBSTITUTION.sub(lambda found: str(self.substitution(found[1])), text)
            case Function("If", [condition, then, otherwise]):
                return self.value(then if self.holds(condition) else otherwise)
            case Function("Equals", [left, right]):
                return self.value(left) == self.value(right)
            case Function("Not", [negated]):
                return not self.value(negated)
            case Function("And", list(all_of)):
                return all(map(self.value, all_of))
            case Function("Condition", condition):
                return self.holds(condition)
            case Function(name, _):
                raise Trouble(f"the template uses !{name}, which only CloudFormation knows")
            case _:
                return of

    def substitution(self, name: str) -> Any:
        return self.attribute(name) if "." in name else self.reference(name)

    def reference(self, name: str) -> Any:
        if name == "AWS::NoValue":
            return NO_VALUE
        for values in (self.parameters, self.surroundings):
            if name in values:
                return values[name]
        return self.attributes[name]["Ref"]

    def attribute(self, path: str) -> str:
        resource, name = path.split(".", 1)
        return self.attributes[resource][name]


def references(within: Any) -> set[str]:
    """What the functions in a resource name, resources among it."""
    match within:
        case dict():
            names = [references(value) for key, value in within.items() if key != "DependsOn"]
            depends = within.get("DependsOn", [])
            return set().union(*names, [depends] if isinstance(depends, str) else depends)
        case list():
            return set().union(*map(references, within))
        case Function("Ref", name):
            return {name}
        case Function("GetAtt", path):
            return {path.split(".")[0]}
        case Function("Sub", str(text)):
            return {name.split(".")[0] for name in SUBSTITUTION.findall(text)}
        case Function(_, argument):
            return references(argument)
        case _:
            return set()


def parameter(name: str, about: dict[str, Any], given: str | None) -> str | int | float:
    """A parameter's value, checked as CloudFormation does."""
    if given is None and "Default" not in about:
        raise Trouble(f"{name} is missing ({about['Description']}); give {name}=...")
    value = about["Default"] if given is None else given

    def refuse(why: str) -> Trouble:
        return Trouble(f"{name}={value}: {why}")

    if about["Type"] == "Number":
        try:
            number = float(value)
        except ValueError:
            raise refuse("that is no number") from None
        if number < about.get("MinValue", number):
            raise refuse(f"it is at least {about['MinValue']}")
        return int(number) if number.is_integer() else number
    if "AllowedValues" in about and value not in about["AllowedValues"]:
        raise refuse(f"it is one of {', '.join(about['AllowedValues'])}")
    if "AllowedPattern" in about and not re.fullmatch(about["AllowedPattern"], value):
        raise refuse(f"it has to match {about['AllowedPattern']}")
    if len(value) < about.get("MinLength", 0):
        raise refuse(f"it has at least {about['MinLength']} characters")
    return value
