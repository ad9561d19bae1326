"""boto3's InvokeEndpointWithResponseStream: responses in parts, and streams that break.

streaming_container.py is the container of the endpoint "theirs".
"""

import unittest

from botocore.exceptions import EventStreamError, ParamValidationError
from local_endpoint import Bucket, container, deploy, refusal, runtime, scale


def stream(endpoint: str, body: bytes, **more):
    return runtime.invoke_endpoint_with_response_stream(EndpointName=endpoint, Body=body, **more)


def parts(response) -> list[bytes]:
    return [event["PayloadPart"]["Bytes"] for event in response["Body"]]


class Streams(unittest.TestCase):
    def test_a_stream_has_the_parts_of_the_response(self):
        text = "häppchenweise, ".encode() * 50
        response = stream("theirs", text, ContentType="text/plain", Accept="text/event-stream")
        self.assertEqual(b"".join(parts(response)), text)
        self.assertEqual(response["ContentType"], "text/event-stream")
        self.assertEqual(response["InvokedProductionVariant"], "AllTraffic")

    def test_a_broken_stream_ends_with_an_error(self):
        events = iter(stream("theirs", b"break", Accept="text/plain")["Body"])
        self.assertEqual(next(events), {"PayloadPart": {"Bytes": b"brea"}})
        with self.assertRaises(EventStreamError) as raised:
            next(events)
        error = raised.exception.response["Error"]
        self.assertEqual(error["Code"], "ModelStreamError")
        self.assertIn("the connection to the container broke", error["Message"])

    def test_a_refusal_before_the_first_part_is_an_ordinary_error(self):
        failure = refusal(stream, "theirs", b"refuse")
        self.assertEqual((failure["type"], failure["status"], failure["OriginalStatusCode"]), ("ModelError", 424, 400))
        self.assertEqual(failure["OriginalMessage"], "refused as asked")
        self.assertEqual(refusal(stream, "nowhere", b"")["type"], "ValidationError")

    def test_the_response_of_a_model_can_be_a_stream(self):
        deploy("ours", PrimaryContainer=container(Bucket().put_model("model.tar.gz", scale(2))))
        rows = b"\n".join(b"%d" % row for row in range(100_000))
        response = stream("ours", rows, ContentType="text/csv", Accept="application/jsonlines")
        self.assertEqual(response["ContentType"], "application/jsonlines")
        answered = b"".join(parts(response)).split()
        self.assertEqual([float(row) for row in answered], [2.0 * row for row in range(100_000)])

    def test_the_client_refuses_a_target_model_for_a_stream(self):
        with self.assertRaises(ParamValidationError):
            stream("theirs", b"", TargetModel="a.tar.gz")


if __name__ == "__main__":
    unittest.main()
