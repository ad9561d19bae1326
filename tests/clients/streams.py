"""boto3's InvokeEndpointWithResponseStream: answers in parts, and what becomes of them that go wrong.

The endpoint "theirs" is streaming_container.py.
"""

import unittest

from botocore.exceptions import EventStreamError, ParamValidationError
from desk import Bucket, container, deploy, refusal, runtime, scale


def stream(endpoint: str, body: bytes, **more):
    return runtime.invoke_endpoint_with_response_stream(EndpointName=endpoint, Body=body, **more)


def parts(response) -> list[bytes]:
    return [event["PayloadPart"]["Bytes"] for event in response["Body"]]


class Streams(unittest.TestCase):
    def test_an_answer_arrives_as_it_comes(self):
        text = "häppchenweise, ".encode() * 50
        response = stream("theirs", text, ContentType="text/plain", Accept="text/event-stream")
        self.assertEqual(b"".join(parts(response)), text)
        self.assertEqual(response["ContentType"], "text/event-stream")
        self.assertEqual(response["InvokedProductionVariant"], "AllTraffic")

    def test_an_answer_that_breaks_off_is_an_error_and_not_an_end(self):
        events = iter(stream("theirs", b"break", Accept="text/plain")["Body"])
        self.assertEqual(next(events), {"PayloadPart": {"Bytes": b"brea"}})
        with self.assertRaises(EventStreamError) as raised:
            next(events)
        error = raised.exception.response["Error"]
        self.assertEqual(error["Code"], "ModelStreamError")
        self.assertIn("the connection to the container broke", error["Message"])

    def test_what_is_refused_before_the_first_part_is_an_ordinary_error(self):
        told = refusal(stream, "theirs", b"refuse")
        self.assertEqual((told["type"], told["status"], told["OriginalStatusCode"]), ("ModelError", 424, 400))
        self.assertEqual(told["OriginalMessage"], "refused as asked")
        self.assertEqual(refusal(stream, "nowhere", b"")["type"], "ValidationError")

    def test_a_models_answer_is_a_stream_too(self):
        deploy("ours", PrimaryContainer=container(Bucket().put_model("model.tar.gz", scale(2))))
        rows = b"\n".join(b"%d" % row for row in range(100_000))
        response = stream("ours", rows, ContentType="text/csv", Accept="application/jsonlines")
        self.assertEqual(response["ContentType"], "application/jsonlines")
        answered = b"".join(parts(response)).split()
        self.assertEqual([float(row) for row in answered], [2.0 * row for row in range(100_000)])

    def test_the_client_itself_knows_no_target_model_here(self):
        with self.assertRaises(ParamValidationError):
            stream("theirs", b"", TargetModel="a.tar.gz")


if __name__ == "__main__":
    unittest.main()
