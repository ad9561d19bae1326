"""boto3: a container ends during a request. This is a ModelError, and the next request is served.

LONGSHORE_PROCESS is the id of the process of `longshore endpoint --fault by-rule:kill=model@1/3`.
"""

import os
import signal
import time
import unittest
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from local_endpoint import Bucket, ask, container, deploy, invoke, model, multi_model, refusal, scale

# A body for which the model `spin` computes for minutes.
LONG = {"inputs": 1 << 26}


def containers(process: int) -> list[int]:
    """The processes below `process` that serve; a process comes before those that it started."""
    children = []
    for task in Path(f"/proc/{process}/task").glob("*/children"):
        children += [int(child) for child in task.read_text().split()]
    commands = {child: Path(f"/proc/{child}/cmdline").read_bytes().split(b"\0") for child in children}
    serving = [child for child, words in commands.items() if words[1] in (b"serve", b"worker")]
    return serving + [below for child in children for below in containers(child)]


def cpu_ticks(process: int) -> int:
    fields = Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()
    return int(fields[11]) + int(fields[12])


class Killed(unittest.TestCase):
    def assert_cut_off(self, endpoint, failure):
        self.assertEqual((failure["type"], failure["status"], failure["OriginalStatusCode"]), ("ModelError", 424, 0))
        self.assertIn('Received server error (0) from model with message "', failure["message"])
        self.assertIn(f"could not get a response from the {endpoint} endpoint", failure["OriginalMessage"])

    def kill_while_it_works(self, endpoint, which, **target):
        """Kills one of the endpoint's processes during a request."""
        processes = containers(int(os.environ["LONGSHORE_PROCESS"]))
        works = processes[-1]
        before = cpu_ticks(works)
        with ThreadPoolExecutor() as pool:
            cut_off = pool.submit(refusal, invoke, endpoint, LONG, **target)
            # A quarter of a second of computing.
            while cpu_ticks(works) < before + 25:
                self.assertFalse(cut_off.done(), cut_off)
                time.sleep(0.01)
            os.kill(processes[which], signal.SIGKILL)
            self.assert_cut_off(endpoint, cut_off.result())

    def test_a_killed_container_fails_only_its_requests_in_flight(self):
        bucket = Bucket()
        bucket.put_model("spin.tar.gz", model("spin"))
        bucket.put_model("scale.tar.gz", scale(2))
        deploy("killed", PrimaryContainer=multi_model(f"s3://{bucket.name}/"))
        # First the whole container, then only the worker in it.
        for which in (0, -1):
            self.assertEqual(invoke("killed", {"inputs": 100}, TargetModel="spin.tar.gz")["Body"], {"outputs": 36.0})
            self.assertEqual(ask("killed", [4], TargetModel="scale.tar.gz"), [8.0])
            self.kill_while_it_works("killed", which, TargetModel="spin.tar.gz")
            self.assertEqual(ask("killed", [5], TargetModel="scale.tar.gz"), [10.0])

    def test_one_killed_by_a_fault_rule_fails_only_its_requests(self):
        deploy("by-rule", PrimaryContainer=container(Bucket().put_model("model.tar.gz", scale(2))))
        for _ in range(3):
            for number in (1, 2):
                self.assertEqual(ask("by-rule", [number]), [2.0 * number])
            self.assert_cut_off("by-rule", refusal(ask, "by-rule", [3]))


if __name__ == "__main__":
    unittest.main()
