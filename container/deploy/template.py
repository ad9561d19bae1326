"""The parameters that a template declares. CloudFormation evaluates everything else in it."""

from pathlib import Path
from typing import Any

import yaml

from errors import DeployError


class Loader(yaml.SafeLoader):
    """Reads a template and leaves its functions (`!Ref`, `!If`) out."""


Loader.add_multi_constructor("!", lambda loader, name, node: None)


def declared_parameters(template: Path) -> dict[str, dict[str, Any]]:
    """The section `Parameters` of a template."""
    return yaml.load(template.read_text(), Loader)["Parameters"]


def parameter_values(template: Path, words: list[str]) -> dict[str, str]:
    """The values of all parameters: those given as NAME=VALUE, and the template's defaults.

    A run states the whole of what it wants, so a parameter that is left out has its default, not
    the value of the last deployment. CloudFormation checks the rest, e.g. patterns and limits.
    """
    declared = declared_parameters(template)
    values = {name: str(about["Default"]) for name, about in declared.items() if "Default" in about}
    for word in words:
        name, equals, value = word.partition("=")
        if not equals:
            raise DeployError(f'invalid parameter "{word}": expected NAME=VALUE')
        if name not in declared:
            raise DeployError(f"{name} is not a parameter of {template.name}, which has {', '.join(declared)}")
        allowed = declared[name].get("AllowedValues", [value])
        if value not in allowed:
            raise DeployError(f"invalid parameter {name}={value}: expected one of {', '.join(allowed)}")
        values[name] = value
    return values


def describe_parameters(template: Path) -> str:
    """The parameters as a part of the help: name, description, choices and default."""
    lines = ["parameters:"]
    for name, about in declared_parameters(template).items():
        choices = f" ({', '.join(about['AllowedValues'])})" if "AllowedValues" in about else ""
        default = f" [{about['Default']}]" if about.get("Default", "") != "" else ""
        lines.append(f"  {name:<24}{about['Description']}{choices}{default}")
    return "\n".join(lines)
