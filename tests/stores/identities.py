"""Keys, certificates and tokens in Azure's and Google's forms, for servers on this machine.

Used by tests/stores/clouds_check.py. Azurite checks audience, issuer and expiry of a token, and no
signature. For Google, the relay in front of the server checks the tokens.
"""

from __future__ import annotations

import base64
import datetime
import ipaddress
import json
import secrets
import ssl
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from urllib.parse import parse_qs, urlsplit

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, rsa

from relay import serving

TENANT = "contoso"
CLIENT = "longshore"


def pem(key: ec.EllipticCurvePrivateKey | rsa.RSAPrivateKey) -> bytes:
    return key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )


@dataclass(frozen=True)
class Certificate:
    """A certificate for this machine, by an authority that only this check trusts."""

    authority: Path
    certificate: Path
    key: Path

    @staticmethod
    def into(folder: Path) -> Certificate:
        made = Certificate(folder / "authority.pem", folder / "certificate.pem", folder / "key.pem")
        root, own = ec.generate_private_key(ec.SECP256R1()), ec.generate_private_key(ec.SECP256R1())
        issuer = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "longshore's authority")])
        subject = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "127.0.0.1")])
        address = x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address("127.0.0.1"))])
        now = datetime.datetime.now(datetime.timezone.utc)

        def signed(name: x509.Name, key: ec.EllipticCurvePublicKey, extension: x509.ExtensionType) -> bytes:
            builder = x509.CertificateBuilder().subject_name(name).issuer_name(issuer).public_key(key)
            builder = builder.serial_number(x509.random_serial_number()).add_extension(extension, critical=False)
            builder = builder.not_valid_before(now - datetime.timedelta(hours=1))
            builder = builder.not_valid_after(now + datetime.timedelta(days=1))
            return builder.sign(root, hashes.SHA256()).public_bytes(serialization.Encoding.PEM)

        made.authority.write_bytes(signed(issuer, root.public_key(), x509.BasicConstraints(True, None)))
        made.certificate.write_bytes(signed(subject, own.public_key(), address))
        made.key.write_bytes(pem(own))
        return made


def token(audience: str = "https://storage.azure.com") -> str:
    """A token in Azure's form, valid for an hour."""
    now = int(time.time())
    claims = {"aud": audience, "iss": f"https://sts.windows.net/{TENANT}/", "iat": now, "nbf": now, "exp": now + 3600}
    parts = (json.dumps({"typ": "JWT", "alg": "RS256"}).encode(), json.dumps(claims).encode(), b"unsigned")
    return ".".join(base64.urlsafe_b64encode(part).decode().rstrip("=") for part in parts)


class Answering(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def answer(self, status: int, value: object) -> None:
        body = json.dumps(value).encode()
        self.send_response_only(status)
        self.send_header("content-type", "application/json")
        self.send_header("content-length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        pass


@dataclass(frozen=True)
class Azures:
    """Addresses that issue tokens, and the secrets that they expect."""

    authority: str
    managed: str
    header: str
    secret: str
    assertion: str


@contextmanager
def azures(certificate: Certificate) -> Iterator[Azures]:
    """Runs Azure's authority, and the server that an instance or container asks for its own
    identity.
    """
    secret, assertion, header = (secrets.token_hex(16) for _ in range(3))

    class Authority(Answering):
        def do_POST(self) -> None:
            form = parse_qs(self.rfile.read(int(self.headers["content-length"])).decode())
            given = form.get("client_secret") or form.get("client_assertion")
            asked = (self.path, form["client_id"], form["scope"], given)
            scope = ["https://storage.azure.com/.default"]
            if asked[:3] == (f"/{TENANT}/oauth2/v2.0/token", [CLIENT], scope) and given in ([secret], [assertion]):
                self.answer(200, {"token_type": "Bearer", "access_token": token(), "expires_in": 3600})
            else:
                self.answer(401, {"error": "invalid_client", "error_description": "AADSTS7000215: Invalid secret."})

    class Managed(Answering):
        def do_GET(self) -> None:
            query = parse_qs(urlsplit(self.path).query)
            if self.headers["x-identity-header"] == header and query["resource"] == ["https://storage.azure.com"]:
                self.answer(200, {"access_token": token(), "expires_on": str(int(time.time()) + 3600)})
            else:
                self.answer(400, {"error": "invalid_request"})

    with serving(Authority) as authority, serving(Managed) as managed:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(certificate.certificate, certificate.key)
        authority.socket = context.wrap_socket(authority.socket, server_side=True)
        yield Azures(
            f"https://127.0.0.1:{authority.server_port}",
            f"http://127.0.0.1:{managed.server_port}/token",
            header,
            secret,
            assertion,
        )


@contextmanager
def metadata(given: str) -> Iterator[str]:
    """Runs the metadata server that an instance on Google Cloud asks for a token."""

    class Metadata(Answering):
        def do_GET(self) -> None:
            path = "/computeMetadata/v1/instance/service-accounts/default/token"
            if self.headers["metadata-flavor"] == "Google" and urlsplit(self.path).path == path:
                self.answer(200, {"access_token": given, "expires_in": 3600, "token_type": "Bearer"})
            else:
                self.answer(404, {})

    with serving(Metadata) as server:
        yield f"127.0.0.1:{server.server_port}"


@dataclass(frozen=True)
class ServiceAccount:
    """A service account in Google's form, with a key."""

    key: rsa.RSAPrivateKey

    @staticmethod
    def new() -> ServiceAccount:
        return ServiceAccount(rsa.generate_private_key(65537, 2048))

    def file(self, path: Path, **more: object) -> Path:
        """The key file in Google's form, and with the additional members that object_store
        understands.
        """
        facts = {
            "type": "service_account",
            "client_email": "longshore@project.iam.gserviceaccount.com",
            "private_key_id": "1",
            "private_key": pem(self.key).decode(),
        }
        path.write_text(json.dumps(facts | more))
        return path

    def public(self) -> bytes:
        return self.key.public_key().public_bytes(
            serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo
        )
