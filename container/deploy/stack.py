"""A CloudFormation stack, changed by change sets only.

CloudFormation checks the parameters when it makes a change set, and the change set shows the
changes before they happen. So the order is: propose, show, build the image that the change needs,
execute.
"""

import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from aws import Aws
from errors import DeployError

POLL_SECONDS = 2.0
# A stack in one of these states has no resources yet.
NOT_CREATED = {"REVIEW_IN_PROGRESS", "DELETE_COMPLETE"}
# The state after a failed creation: the resources are gone, and the stack can only be deleted.
CREATION_FAILED = "ROLLBACK_COMPLETE"
# A stack in one of these states has resources left, and can only be deleted.
ONLY_DELETE = {"CREATE_FAILED", "ROLLBACK_FAILED", "DELETE_FAILED"}
# CloudFormation's reasons for a change set that would change nothing.
NO_CHANGE = ("didn't contain changes", "No updates are to be performed")


@dataclass(frozen=True)
class ChangeSet:
    """A change set that waits for its execution."""

    id: str
    stack_id: str
    creates: bool


class Stack:
    """One stack by its name, whether it exists or not."""

    def __init__(self, aws: Aws, name: str, ask: bool):
        """With `ask`, the user confirms each change set at the terminal."""
        self.aws = aws
        self.name = name
        self.ask = ask

    def describe(self, name_or_id: str) -> dict[str, Any]:
        """The description of a stack; empty when there is none."""
        found = self.aws.find("cloudformation", "DescribeStacks", StackName=name_or_id)
        return found["Stacks"][0] if found else {}

    def parameters(self) -> dict[str, str]:
        """The parameters of the current deployment; empty when there is none."""
        found = self.describe(self.name)
        if found.get("StackStatus") in NOT_CREATED | {CREATION_FAILED}:
            return {}
        return {parameter["ParameterKey"]: parameter["ParameterValue"] for parameter in found.get("Parameters", [])}

    def outputs(self) -> dict[str, str]:
        """The outputs of the template."""
        found = self.describe(self.name).get("Outputs", [])
        return {output["OutputKey"]: output["OutputValue"] for output in found}

    def prepare(self) -> bool:
        """Checks that a change set can start now; returns whether it creates the stack."""
        status = self.describe(self.name).get("StackStatus", "DELETE_COMPLETE")
        if status == CREATION_FAILED:
            self.aws.report(f"stack {self.name}: its creation failed; deleting it and creating it again")
            self.delete()
            return True
        if status in ONLY_DELETE:
            raise DeployError(f"stack {self.name} is in state {status}; delete it first with --delete")
        if status.endswith("_IN_PROGRESS") and status not in NOT_CREATED:
            raise DeployError(f"stack {self.name} is in state {status}; wait until that has ended")
        return status in NOT_CREATED

    def propose(self, template: Path, parameters: dict[str, str]) -> ChangeSet | None:
        """Makes a change set that the user sees and confirms; None when nothing would change."""
        creates = self.prepare()
        name = time.strftime("deploy-%Y%m%d-%H%M%S", time.gmtime())
        created = self.aws.call(
            "cloudformation",
            "CreateChangeSet",
            StackName=self.name,
            ChangeSetName=name,
            ChangeSetType="CREATE" if creates else "UPDATE",
            TemplateBody=template.read_text(),
            Parameters=[{"ParameterKey": key, "ParameterValue": value} for key, value in parameters.items()],
            Capabilities=["CAPABILITY_IAM"],
        )
        change_set = ChangeSet(created.get("Id", name), created.get("StackId", self.name), creates)
        described = self.settled_change_set(change_set)
        if described.get("Status") == "FAILED":
            self.discard(change_set)
            reason = described.get("StatusReason", "CloudFormation gives no reason")
            if any(text in reason for text in NO_CHANGE):
                self.aws.report(f"stack {self.name}: nothing to change")
                return None
            raise DeployError(f"stack {self.name}: CloudFormation refuses the change: {reason}")
        self.show(described, creates)
        if self.ask and input("Execute these changes? [y/N] ").strip().lower() not in ("y", "yes"):
            self.discard(change_set)
            raise DeployError("the change set was not executed")
        return change_set

    def settled_change_set(self, change_set: ChangeSet) -> dict[str, Any]:
        """The description of a change set once CloudFormation has worked it out."""
        while True:
            described = self.aws.call(
                "cloudformation", "DescribeChangeSet", StackName=change_set.stack_id, ChangeSetName=change_set.id
            )
            if not described.get("Status", "").endswith(("_PENDING", "_IN_PROGRESS")):
                return described
            time.sleep(POLL_SECONDS)

    def show(self, described: dict[str, Any], creates: bool) -> None:
        """Prints the changes of a change set."""
        self.aws.report(f"stack {self.name}: {'to be created' if creates else 'to be updated'}")
        for change in described.get("Changes", []):
            resource = change["ResourceChange"]
            replaced = " (replaced)" if resource.get("Replacement") == "True" else ""
            self.aws.report(
                f"  {resource['Action']:<8}{resource['ResourceType']:<44}{resource['LogicalResourceId']}{replaced}"
            )

    def execute(self, change_set: ChangeSet) -> None:
        """Executes a change set and waits until the stack has changed; prints the outputs."""
        seen = {event["EventId"] for event in self.events(change_set.stack_id)}
        self.aws.call("cloudformation", "ExecuteChangeSet", StackName=change_set.stack_id, ChangeSetName=change_set.id)
        self.wait(change_set.stack_id, seen, {"CREATE_COMPLETE", "UPDATE_COMPLETE"})
        for name, value in self.outputs().items():
            print(f"{name}: {value}")

    def discard(self, change_set: ChangeSet) -> None:
        """Deletes a change set, and the empty stack that CloudFormation made for it."""
        self.aws.call("cloudformation", "DeleteChangeSet", StackName=change_set.stack_id, ChangeSetName=change_set.id)
        if change_set.creates:
            self.aws.call("cloudformation", "DeleteStack", StackName=change_set.stack_id)

    def delete(self) -> None:
        """Deletes the stack and waits until it is gone."""
        found = self.describe(self.name)
        if not found and not self.aws.dry_run:
            print(f"stack {self.name}: there is none")
            return
        stack_id = found.get("StackId", self.name)
        seen = {event["EventId"] for event in self.events(stack_id)}
        self.aws.call("cloudformation", "DeleteStack", StackName=stack_id)
        self.wait(stack_id, seen, {"DELETE_COMPLETE"})

    def events(self, stack_id: str) -> list[dict[str, Any]]:
        """The newest events of the stack, the oldest of them first."""
        answer = self.aws.call("cloudformation", "DescribeStackEvents", StackName=stack_id)
        return answer.get("StackEvents", [])[::-1]

    def wait(self, stack_id: str, seen: set[str], success: set[str]) -> None:
        """Prints events until the stack has settled; a failure raises an error with all reasons."""
        failures = []
        while True:
            # In this order, so that the last events are there when the status is final.
            status = self.describe(stack_id).get("StackStatus", "")
            for event in self.events(stack_id):
                if event["EventId"] in seen:
                    continue
                seen.add(event["EventId"])
                reason = event.get("ResourceStatusReason", "")
                line = f"{event['LogicalResourceId']} ({event['ResourceType']})"
                self.aws.report(f"  {event['ResourceStatus']:<28}{line}{': ' if reason else ''}{reason}")
                # When one resource fails, CloudFormation cancels the others.
                if event["ResourceStatus"].endswith("_FAILED") and "cancelled" not in reason:
                    failures.append(f"\n  {line}: {reason or 'no reason given'}")
            if not status.endswith("_IN_PROGRESS"):
                break
            time.sleep(POLL_SECONDS)
        if status not in success and not self.aws.dry_run:
            raise DeployError(f"stack {self.name} failed and is in state {status}:{''.join(failures)}")
