"""boto3 and two containers in series, with every format to, between and from them.

tests/it/endpoint/clients/exports.rs runs it; `tests/clients/local_endpoint.py` describes its
variables. The first container scales numbers and the second classifies them. The output of one and
the input of the other have different names. The answers are compared with scikit-learn's own.
"""

import sys
import unittest
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent.parent / "clients"))

import check
import make
from botocore.exceptions import ClientError
from local_endpoint import Bucket, archive, container, deploy, runtime

BETWEEN = [
    None,
    "application/json",
    "application/jsonlines",
    "text/csv",
    "application/x-npy",
    "application/vnd.sagemaker-triton.binary+json",
    "application/x-npz",
    "application/x-recordio-protobuf",
]
"""Accept of the first container's response; None for its default."""


class Answer:
    """A response of boto3 in the form that `check` expects."""

    def __init__(self, response):
        self.status = 200
        self.content_type = response["ContentType"]
        self.body = response["Body"].read()


class Series(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        cls.first, second = make.series()
        bucket = Bucket()
        urls = [
            bucket.put(f"{export.name}.tar.gz", archive({"model.onnx": export.model.SerializeToString()}))
            for export in (cls.first, second)
        ]
        cls.between = [media_type for media_type in BETWEEN if media_type not in check.PENDING]
        for number, media_type in enumerate(cls.between):
            environment = {"SAGEMAKER_DEFAULT_INVOCATIONS_ACCEPT": media_type} if media_type else {}
            deploy(f"series-{number}", Containers=[container(urls[0], Environment=environment), container(urls[1])])

    def ask(self, number: int, content_type: str, body: bytes, accept: str, reads) -> None:
        between = self.between[number] or "its own default"
        with self.subTest(request=content_type, between=between, reply=accept, body=body[:80]):
            try:
                response = runtime.invoke_endpoint(
                    EndpointName=f"series-{number}", Body=body, ContentType=content_type, Accept=accept
                )
            except ClientError as error:
                self.fail(error.response["Error"]["Message"])
            answer = Answer(response)
            self.assertEqual(answer.content_type.split(";")[0], accept.split(";")[0])
            reads(self.first, answer)

    def requests(self):
        """The content type and body of the same records in every dialect that the server supports.
        """
        for media_type, name, write in check.DIALECTS:
            if media_type not in check.PENDING and ("numbers", name) not in check.PENDING_DIALECTS:
                made = check.request_body(self.first, media_type, write)
                # boto3 has no parameter for other headers.
                if made is not None and made[2:] == (make.RECORDS, {}):
                    yield made[:2]

    def test_every_dialect_of_a_request_passes_through_every_format_between(self):
        requests = list(self.requests())
        self.assertGreater(len(requests), 25)
        for number in range(len(self.between)):
            for content_type, body in requests:
                self.ask(number, content_type, body, "application/json", check.assert_right)

    def test_every_format_in_between_and_out(self):
        replies = [
            (accept, check.assert_right if reads is check.reply_json else reads)
            for media_type, name, accept, fits, reads in check.REPLIES
            if fits(self.first)
            and media_type not in check.PENDING_REPLIES
            and (media_type, name) not in check.PENDING_REPLIES
        ]
        triton = "application/vnd.sagemaker-triton.binary+json"
        replies.append((triton, check.reply_tensors))
        # The first dialect of each format.
        formats = {}
        for content_type, body in self.requests():
            formats.setdefault(content_type.split(";")[0], (content_type, body))
        self.assertGreaterEqual(len(formats), 5)
        self.assertGreaterEqual(len(replies), 4)
        for number in range(len(self.between)):
            for content_type, body in formats.values():
                for accept, reads in replies:
                    self.ask(number, content_type, body, accept, reads)


if __name__ == "__main__":
    unittest.main()
