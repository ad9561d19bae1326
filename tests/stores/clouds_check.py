#!/usr/bin/env python3
"""Checks model stores in Azurite and fake-gcs-server, written by Azure's and Google's client
libraries.

Used by scripts/clouds. Starts the servers and, for each check, a longshore with an empty cache;
all of them end with this program. Ends with status 1 on any error.
"""

from __future__ import annotations

import argparse
import datetime
import json
import signal
import sys
import tempfile
from dataclasses import replace
from pathlib import Path

from azure.storage.blob import ContentSettings, StandardBlobTier, generate_container_sas

from cloud_servers import ACCOUNT, BUCKET, KEY, Azure, Google, Relayed, azure_in, azurite_in, google_in
from demo_client import Container
from demo_store import PREFIX
from identities import CLIENT, TENANT, Certificate, ServiceAccount, azures, metadata
from relay import Answer, Relay
from store_checks import ARCHIVE_NAME, FOLDER_NAME, Checks, Refusal, Request, made, must, row, step

# An address on which no server listens.
UNREACHABLE = "127.0.0.1:1"


def common(checks: Checks) -> None:
    """The checks for both stores."""
    checks.on_first_request()
    checks.in_parts(100)
    cut_off(checks)
    replaced_in_between(checks)
    checks.replaced()


def names(checks: Checks, more: tuple[tuple[str, str], ...]) -> None:
    step("names, folders and metadata of an object")
    checks.store.put(ARCHIVE_NAME, checks.archive(checks.segment))
    checks.put_folder(FOLDER_NAME, checks.segment)
    names = (("special characters", ARCHIVE_NAME), ("a folder, which is listed", FOLDER_NAME))
    for what, name in names + more:
        with checks.longshore() as address:
            checks.answers(Container(address), name, checks.segment)
        row(what, 200, name)


def cut_off(checks: Checks) -> None:
    step("an archive whose connections are cut")
    store: Relayed = checks.store
    name, packed = "cut.tar.gz", checks.large(20, checks.segment)
    tag = checks.store.put(name, packed)
    cuts = 6
    store.relay.cut_after, store.relay.cuts = 1_000_000, cuts
    with checks.longshore() as address:
        checks.answers(Container(address), name, checks.segment)
    must("remaining cuts", store.relay.cuts, 0)
    asked = store.requests(name)
    starts = [int(request.headers["range"].removeprefix("bytes=").partition("-")[0]) for request in asked]
    resumed = [start for start in starts if start % (4 << 20)]
    must("resumed parts", len(resumed), cuts)
    must("conditions", {request.headers.get("if-match") for request in asked[1:]}, {tag})
    row("cut and resumed", cuts, f"of {len(asked)} requests for {len(packed) / 2**20:.1f} MiB")


def replaced_in_between(checks: Checks) -> None:
    step("an archive that is replaced while it is read")
    store: Relayed = checks.store
    old, new = list(checks.segments)[:2]
    name, rule = "between.tar.gz", store.relay.rule
    checks.store.put(name, checks.large(60, old))
    packed = checks.large(60, new)

    def replacing(request: Request, status: int, headers: dict[str, str]) -> Answer | None:
        # The rules run one after the other: each response looks up the current rule.
        if request.path.endswith(name) and len(store.requests(name)) == 5:
            store.relay.rule = rule
            checks.store.put(name, packed)
        return rule(request, status, headers)

    store.relay.rule = replacing
    with checks.longshore() as address:
        checks.answers(Container(address), name, new)
    must("the rule", store.relay.rule, rule)
    refused = store.statuses(name).count(412)
    if not refused:
        raise SystemExit(f"{name}: no part was refused")
    row("parts of another version", refused, "were refused with 412; the new model serves")


def token(permission: str = "rl", hours: int = 1, key: str = KEY) -> str:
    end = datetime.datetime.now(datetime.timezone.utc) + datetime.timedelta(hours=hours)
    return str(generate_container_sas(ACCOUNT, BUCKET, key, permission=permission, expiry=end))


def in_azure(checks: Checks, azure: Azure, program: Path) -> None:
    common(checks)
    segment = checks.segment
    azure.put("encoded.tar.gz", checks.archive(segment), content_settings=ContentSettings(content_encoding="gzip"))
    azure.put("marked", b"", metadata={"hdi_isfolder": "true"})
    checks.put_folder("marked", segment)
    names(checks, (("declared as compressed", "encoded.tar.gz"), ("a folder with a marker", "marked")))

    step("ways to give an account and its key")
    base = azure.endpoint
    string = f"DefaultEndpointsProtocol=http;AccountName={ACCOUNT};AccountKey={KEY};BlobEndpoint={base}/;"
    nothing = dict.fromkeys(azure.environment(), "")
    sas = {"AZURE_STORAGE_ACCOUNT_KEY": "", "AZURE_STORAGE_SAS_TOKEN": token()}
    signed = f"BlobEndpoint={base}/;SharedAccessSignature={token()}"
    cli = nothing | {"AZURE_STORAGE_ENDPOINT": base, "AZURE_STORAGE_ACCOUNT": ACCOUNT, "AZURE_STORAGE_KEY": KEY}
    own = {"AZURE_STORAGE_USE_EMULATOR": "true", "AZURITE_BLOB_STORAGE_URL": f"http://{azure.relay.address}"}
    for what, environment in (
        ("the Azure CLI's names", cli),
        ("a connection string", nothing | {"AZURE_STORAGE_CONNECTION_STRING": string}),
        ("one with a SAS token", nothing | {"AZURE_STORAGE_CONNECTION_STRING": signed}),
        ("a SAS token", sas),
        ("Azurite's own account", nothing | own),
    ):
        with checks.longshore(**environment) as address:
            checks.answers(Container(address), f"{segment}.tar.gz", segment)
            checks.answers(Container(address), FOLDER_NAME, segment)
        row(what, 200, ", ".join(name for name, value in environment.items() if value))
    azure.container.set_container_access_policy({}, public_access="container")
    with checks.longshore(AZURE_SKIP_SIGNATURE="true") as address:
        checks.answers(Container(address), FOLDER_NAME, segment)
    azure.container.set_container_access_policy({})
    row("a public container", 200, "AZURE_SKIP_SIGNATURE")
    url = f"{base}/{BUCKET}/{PREFIX}?{token('r')}"
    with checks.longshore(url=url, **nothing) as address:
        checks.answers(Container(address), f"{segment}.tar.gz", segment)
        checks.answers(Container(address), ARCHIVE_NAME, segment)
    row("a SAS URL", 200, "https://host/container/prefix?sv=...")
    in_pages(checks, azure, sas)
    with_identities(checks, program)

    step("what is refused")
    azure.put("archived.tar.gz", checks.archive(segment), standard_blob_tier=StandardBlobTier.ARCHIVE)
    checks.refuses(azure_refusals(azure, segment))
    checks.refuses_to_start("no account", "set AZURE_STORAGE_ACCOUNT_NAME", **nothing)
    checks.refuses_to_start("an invalid key", "the key in AZURE_STORAGE_ACCOUNT_KEY", AZURE_STORAGE_ACCOUNT_KEY="?")
    token_is = "the SAS token in AZURE_STORAGE_SAS_TOKEN is invalid"
    checks.refuses_to_start("a token that is a URL", token_is, AZURE_STORAGE_SAS_TOKEN=url)
    address_is = "the address in AZURE_STORAGE_ENDPOINT is invalid"
    checks.refuses_to_start("an address without https", address_is, AZURE_STORAGE_ENDPOINT="localhost:10000/account")


def in_pages(checks: Checks, azure: Azure, sas: dict[str, str]) -> None:
    step("a list in pages")
    checks.put_folder("pages", checks.segment)
    for index in range(3):
        azure.put(f"pages/more {index}.txt", b"more")
    # A SAS token does not sign this parameter.
    azure.relay.lists, before = "&maxresults=2", len(azure.relay.requests(azure.root))
    with checks.longshore(**sas) as address:
        checks.answers(Container(address), "pages", checks.segment)
    azure.relay.lists = ""
    # One request finds the model, another checks that it is unchanged.
    pages = len(azure.relay.requests(azure.root)) - before
    must("pages", pages, 6)
    row("pages of two files", pages, "of a folder of five, listed twice")


def with_identities(checks: Checks, program: Path) -> None:
    step("identities, and a private certificate authority")
    certificate = Certificate.into(checks.work)
    with azurite_in(checks.work / "tls", program, certificate) as service, azures(certificate) as known:
        replace(checks, store=Azure(Relay(""), service)).put_folder("folder", checks.segment)
        assertion = checks.work / "assertion"
        assertion.write_text(known.assertion)
        principal = {"AZURE_TENANT_ID": TENANT, "AZURE_CLIENT_ID": CLIENT, "AZURE_AUTHORITY_HOST": known.authority}
        secret = {**principal, "AZURE_CLIENT_SECRET": known.secret}
        own = {
            "AZURE_STORAGE_ENDPOINT": service.url,
            "AZURE_STORAGE_ACCOUNT_KEY": "",
            "SSL_CERT_FILE": str(certificate.authority),
        }
        for what, environment in (
            ("a service principal", secret),
            ("a workload's identity", {**principal, "AZURE_FEDERATED_TOKEN_FILE": str(assertion)}),
            ("a managed identity", {"IDENTITY_ENDPOINT": known.managed, "IDENTITY_HEADER": known.header}),
        ):
            with checks.longshore(**own, **environment) as address:
                checks.answers(Container(address), "folder", checks.segment)
            row(what, 200, ", ".join(environment))
        none = f"there are no credentials for az://{BUCKET}/{PREFIX}/folder (Server returned non-2xx status code: 401"
        refusals = [
            Refusal("wrong client secret", "folder", 503, none, {**own, **secret, "AZURE_CLIENT_SECRET": "x"}),
            Refusal(
                "unknown certificate",
                "folder",
                503,
                "cannot be reached after 2 tries",
                {"AZURE_STORAGE_ENDPOINT": service.url},
            ),
        ]
        checks.refuses(refusals, "--store-retries", "1")


def azure_refusals(azure: Azure, segment: str) -> list[Refusal]:
    name = f"{segment}.tar.gz"
    of = f"az://{BUCKET}/{PREFIX}/{name}"
    key = "correct AZURE_STORAGE_ACCOUNT_KEY or AZURE_STORAGE_SAS_TOKEN"
    wrong = KEY.replace("E", "F")
    nothing = f"there is nothing at az://{BUCKET}/{PREFIX}/"

    def sas(*arguments: object, **more: str) -> dict[str, str]:
        return {"AZURE_STORAGE_ACCOUNT_KEY": "", "AZURE_STORAGE_SAS_TOKEN": token(*arguments, **more)}

    refused = f"{of} is refused: 403"
    no_credentials = {"AZURE_STORAGE_ACCOUNT_KEY": "", "IDENTITY_ENDPOINT": f"http://{UNREACHABLE}"}
    return [
        Refusal("wrong key", name, 503, key, {"AZURE_STORAGE_ACCOUNT_KEY": wrong}),
        Refusal("another account's name", name, 503, key, {"AZURE_STORAGE_ACCOUNT_NAME": "other"}),
        Refusal("SAS token of a wrong key", name, 503, key, sas(key=wrong)),
        Refusal("expired SAS token", name, 503, key, sas("rl", -1)),
        Refusal("SAS token without the right to read", name, 503, f"{refused} AuthorizationPermissionMismatch", sas("l")),
        Refusal("one without listing", FOLDER_NAME, 404, nothing, sas("r")),
        Refusal("no signature", name, 503, refused, {"AZURE_SKIP_SIGNATURE": "true"}),
        Refusal("no credentials", name, 503, f"there are no credentials for {of}", no_credentials),
        Refusal("missing container", name, 503, "there is no container for az://none/", url=f"az://none/{PREFIX}"),
        Refusal("archived blob", "archived.tar.gz", 503, "set its access tier"),
        Refusal("missing blob", "missing.tar.gz", 404, nothing),
        Refusal(
            "unreachable endpoint",
            name,
            503,
            f"{of} cannot be reached after 5 tries: ",
            {"AZURE_STORAGE_ENDPOINT": f"http://{UNREACHABLE}/{ACCOUNT}"},
        ),
    ]


def in_google(checks: Checks, google: Google) -> None:
    common(checks)
    segment, work = checks.segment, checks.work
    google.put("encoded.tar.gz", checks.archive(segment), "gzip")
    google.put("marked/", b"")
    checks.put_folder("marked", segment)
    names(checks, (("declared as compressed", "encoded.tar.gz"), ("a folder with a marker", "marked")))
    asked = google.requests("encoded.tar.gz")
    must("the requested encodings", [request.headers.get("accept-encoding") for request in asked], ["gzip"])

    step("ways to give credentials")
    nothing = dict.fromkeys(google.environment(), "")
    local = google.account.file(work / "local.json", gcs_base_url=google.endpoint)
    unsigned = google.account.file(work / "unsigned.json", gcs_base_url=google.endpoint, disable_oauth=True)
    given = {"GOOGLE_APPLICATION_CREDENTIALS": ""}
    google.tokens |= {"of an instance", "of a person"}
    with metadata("of an instance") as host:
        for what, environment in (
            ("a service account", nothing | {"GOOGLE_SERVICE_ACCOUNT": str(local)}),
            ("its key in a variable", nothing | {"GOOGLE_SERVICE_ACCOUNT_KEY": local.read_text()}),
            ("an instance's account", given | {"GCE_METADATA_HOST": host}),
            ("a token", given | {"GOOGLE_BEARER_TOKEN": "of a person"}),
        ):
            with checks.longshore(**environment) as address:
                checks.answers(Container(address), f"{segment}.tar.gz", segment)
                checks.answers(Container(address), FOLDER_NAME, segment)
            row(what, 200, ", ".join(name for name, value in environment.items() if value))
    google.public = True
    for environment in (
        nothing | {"GOOGLE_APPLICATION_CREDENTIALS": str(unsigned)},
        nothing | {"STORAGE_EMULATOR_HOST": google.relay.address},
        given | {"GOOGLE_SKIP_SIGNATURE": "true"},
    ):
        with checks.longshore(**environment) as address:
            checks.answers(Container(address), FOLDER_NAME, segment)
        row("a public bucket", 200, ", ".join(name for name, value in environment.items() if value))
    google.public = False

    step("what is refused")
    checks.refuses(google_refusals(checks, segment))
    google.allowed = False
    account = "Access denied. longshore@project.iam.gserviceaccount.com does not have storage.objects.get"
    checks.refuses([Refusal("account without rights", f"{segment}.tar.gz", 503, account)])
    other = work / "other.json"
    other.write_text(json.dumps({"type": "external_account"}))
    name = "GOOGLE_APPLICATION_CREDENTIALS"
    checks.refuses_to_start("credentials of another kind", f"{name} has credentials of the type", **{name: str(other)})
    checks.refuses_to_start("a missing file", f"{name}: Unable to open", **{name: "/nonexistent"})


def google_refusals(checks: Checks, segment: str) -> list[Refusal]:
    name = f"{segment}.tar.gz"
    of = f"gs://{BUCKET}/{PREFIX}/{name}"
    wrong = ServiceAccount.new().file(checks.work / "wrong.json")
    given = "GOOGLE_APPLICATION_CREDENTIALS"
    no_credentials = {given: "", "GCE_METADATA_HOST": UNREACHABLE, "GCE_METADATA_IP": UNREACHABLE, "HOME": "/nonexistent"}
    return [
        Refusal("key of another account", name, 503, f"{of} is refused: 401", {given: str(wrong)}),
        Refusal("expired token", name, 503, "correct the credentials", {given: "", "GOOGLE_BEARER_TOKEN": "x"}),
        Refusal("no signature", name, 503, "unset GOOGLE_SKIP_SIGNATURE", {"GOOGLE_SKIP_SIGNATURE": "true"}),
        Refusal("no credentials", name, 503, f"there are no credentials for {of}", no_credentials),
        Refusal("missing bucket", name, 503, "there is no bucket for gs://none/", url=f"gs://none/{PREFIX}"),
        Refusal("missing object", "missing.tar.gz", 404, f"there is nothing at gs://{BUCKET}/{PREFIX}/missing.tar.gz"),
    ]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("azurite", type=Path, help="the program of Azurite's blob service")
    parser.add_argument("longshore", type=Path, help="the program")
    parser.add_argument("python", type=Path, help="an interpreter with the packages of make_recommenders.py")
    arguments = parser.parse_args()
    # Raises an exception, so the processes end with this one.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit("ended by a signal"))
    with tempfile.TemporaryDirectory(prefix="longshore-clouds-") as folder:
        work = Path(folder)
        models = made(work, arguments.python)
        with azure_in(work / "azure", arguments.azurite) as azure:
            in_azure(Checks(work, arguments.longshore, models, azure), azure, arguments.azurite)
        with google_in(work / "google") as google:
            in_google(Checks(work, arguments.longshore, models, google), google)
    print("\nAll checks passed.")


if __name__ == "__main__":
    main()
