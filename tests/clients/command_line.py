"""The AWS command line, from the creation of a model to an answer and to the deletion of
everything.
"""

import json
import subprocess
import sys
import tempfile
import unittest
from pathlib import Path

from local_endpoint import ROLE, Bucket, multi_model, scale, variant

AWS = Path(sys.executable).with_name("aws")


def aws(*words: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([AWS, *words], capture_output=True, text=True)


class CommandLine(unittest.TestCase):
    def run_well(self, *words):
        """Runs the command and returns its output."""
        done = aws(*words)
        self.assertEqual(done.returncode, 0, done.stderr)
        return json.loads(done.stdout or "null")

    def test_creates_invokes_and_deletes_an_endpoint(self):
        bucket = Bucket()
        bucket.put_model("models/team/a.tar.gz", scale(2))
        folder = Path(self.enterContext(tempfile.TemporaryDirectory()))
        request = {
            "ModelName": "by-hand",
            "ExecutionRoleArn": ROLE,
            "PrimaryContainer": multi_model(f"s3://{bucket.name}/models/"),
        }
        (folder / "model.json").write_text(json.dumps(request))
        made = self.run_well("sagemaker", "create-model", "--cli-input-json", f"file://{folder}/model.json")
        self.assertTrue(made["ModelArn"].endswith(":model/by-hand"))
        variants = json.dumps([variant("by-hand")])
        names = ("--endpoint-config-name", "by-hand")
        self.run_well("sagemaker", "create-endpoint-config", *names, "--production-variants", variants)
        self.run_well("sagemaker", "create-endpoint", "--endpoint-name", "by-hand", *names)
        self.run_well("sagemaker", "wait", "endpoint-in-service", "--endpoint-name", "by-hand")

        (folder / "in.csv").write_text("4\n5\n")
        ask = ("sagemaker-runtime", "invoke-endpoint", "--endpoint-name", "by-hand", "--content-type", "text/csv")
        ask += ("--accept", "text/csv", "--custom-attributes", "trace=1", "--body", f"fileb://{folder}/in.csv")
        failure = self.run_well(*ask, "--target-model", "team/a.tar.gz", str(folder / "out.csv"))
        self.assertEqual(failure["InvokedProductionVariant"], "AllTraffic")
        self.assertEqual((folder / "out.csv").read_text(), "8.0\n10.0\n")

        (folder / "in.csv").write_text("no number\n")
        refused = aws(*ask, "--target-model", "team/a.tar.gz", str(folder / "out.csv"))
        self.assertNotEqual(refused.returncode, 0)
        self.assertIn("An error occurred (ModelError) when calling the InvokeEndpoint operation", refused.stderr)
        self.assertIn("Received client error (400) from model", refused.stderr)
        missing = aws(*ask, "--target-model", "team/b.tar.gz", str(folder / "out.csv"))
        self.assertIn("An error occurred (ValidationError)", missing.stderr)

        for words in ("delete-endpoint --endpoint-name", "wait endpoint-deleted --endpoint-name"):
            self.run_well("sagemaker", *words.split(), "by-hand")


if __name__ == "__main__":
    unittest.main()
