"""The files of the chat page: how they are served, and that they are what they claim to be."""

import re
from html.parser import HTMLParser
from typing import Final

import pytest

from domain.principal import Principal
from entrypoints.http.page.files import MEDIA_TYPES, page_files
from entrypoints.http.page.routes import CONTENT_SECURITY_POLICY
from entrypoints.http.statuses import STATUS
from tests.harness.credentials import ANN, SERVICE, KnownCredentials, authentication, bearer
from tests.harness.fakes import ScriptedLLM
from tests.harness.servers import service_in_process
from tests.harness.vendored import FOLDER, digest, manifest

FILES: Final = {file.path: file for file in page_files("Smart Chatbot")}
OURS: Final = [path for path in FILES if not path.startswith("vendor/")]

FORBIDDEN: Final = re.compile(
    r"innerHTML|outerHTML|insertAdjacentHTML|document\.write|DOMParser|setHTML|createContextualFragment"
    r"|\beval\(|new Function"
)
"""Everything that would parse a string as HTML or as a script."""


class Elements(HTMLParser):
    """Collects every start tag with its attributes, and the text of scripts and styles."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.found: list[tuple[str, dict[str, str | None]]] = []
        self.inline = ""
        self.feed(html)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.found.append((tag, dict(attrs)))

    def handle_data(self, data: str) -> None:
        if self.found and self.found[-1][0] in ("script", "style"):
            self.inline += data.strip()


async def test_the_page_is_served_with_its_policy_and_its_name() -> None:
    async with service_in_process({"llm": ScriptedLLM()}, app_name="Ann & Ben") as service:
        response = await service.client.get("/")

    assert response.status_code == 200
    assert response.headers["Content-Type"] == "text/html; charset=utf-8"
    assert response.headers["Content-Security-Policy"] == CONTENT_SECURITY_POLICY
    assert response.headers["X-Content-Type-Options"] == "nosniff"
    assert "<title>Ann &amp; Ben</title>" in response.text
    assert "{{" not in response.text


async def test_every_file_is_revalidated_by_its_content() -> None:
    async with service_in_process({"llm": ScriptedLLM()}) as service:
        first = await service.client.get("/page/js/main.js")
        unchanged = await service.client.get("/page/js/main.js", headers={"If-None-Match": first.headers["ETag"]})
        other = await service.client.get("/page/js/api.js", headers={"If-None-Match": first.headers["ETag"]})

    assert first.headers["Cache-Control"] == "no-cache"
    assert first.headers["Content-Type"] == "text/javascript; charset=utf-8"
    assert (unchanged.status_code, unchanged.content) == (304, b"")
    assert other.status_code == 200


async def test_files_are_compressed_for_clients_that_accept_it() -> None:
    path, accepted = "/page/vendor/highlight.js", {"Accept-Encoding": "gzip, deflate, br"}
    async with service_in_process({"llm": ScriptedLLM()}) as service:
        plain = await service.client.get(path, headers={"Accept-Encoding": "identity"})
        compressed = await service.client.get(path, headers=accepted)
        tag = {"If-None-Match": compressed.headers["ETag"]}
        unchanged = await service.client.get(path, headers=accepted | tag)
        other = await service.client.get(path, headers={"Accept-Encoding": "identity"} | tag)

    assert compressed.headers["Content-Encoding"] == "gzip"
    assert "Content-Encoding" not in plain.headers
    assert compressed.content == plain.content == FILES["vendor/highlight.js"].content
    assert 2 * int(compressed.headers["Content-Length"]) < int(plain.headers["Content-Length"])
    assert (unchanged.status_code, unchanged.content) == (304, b"")
    assert other.status_code == 200
    assert {response.headers["Vary"] for response in (plain, compressed, unchanged)} == {"Accept-Encoding"}


@pytest.mark.parametrize(
    ("accepted", "coding"),
    [
        ("gzip", "gzip"),
        ("br;q=1.0, GZIP ; q=0.5", "gzip"),
        ("*", "gzip"),
        ("gzip;q=0", None),
        ("gzip; q=0.000, *", None),
        ("*;q=0", None),
        ("x-gzipped", None),
        ("", None),
    ],
)
async def test_weights_of_codings_are_understood(accepted: str, coding: str | None) -> None:
    async with service_in_process({"llm": ScriptedLLM()}) as service:
        response = await service.client.get("/page/js/main.js", headers={"Accept-Encoding": accepted})

    assert response.headers.get("Content-Encoding") == coding
    assert response.content == FILES["js/main.js"].content


async def test_the_page_can_be_switched_off() -> None:
    async with service_in_process({"llm": ScriptedLLM()}, chat_page=False) as service:
        statuses = [(await service.client.get(path)).status_code for path in ("/", "/page/js/main.js", "/page/session")]

    assert statuses == [404, 404, 404]


async def test_responses_of_the_api_have_no_policy_of_the_page() -> None:
    async with service_in_process({"llm": ScriptedLLM()}) as service:
        response = await service.client.get("/api/health")

    assert "Content-Security-Policy" not in response.headers


async def test_with_authentication_only_the_files_are_public() -> None:
    overrides = {"llm": ScriptedLLM(), "authenticate": KnownCredentials()}
    async with service_in_process(overrides, **authentication()) as service:
        page = await service.client.get("/")
        session = await service.client.get("/page/session")

    assert page.status_code == 200
    assert (session.status_code, session.json()["code"]) == (401, "unauthenticated")


@pytest.mark.parametrize(("principal", "user_id"), [(ANN, "ann"), (SERVICE, None)])
async def test_the_session_names_the_only_user_of_a_credential(principal: Principal, user_id: str | None) -> None:
    overrides = {"llm": ScriptedLLM(), "authenticate": KnownCredentials()}
    async with service_in_process(overrides, **authentication(), openai_model="m") as service:
        session = await service.client.get("/page/session", headers=bearer(principal))

    assert session.json() == {"user_id": user_id, "model": "m"}
    assert session.headers["Cache-Control"] == "no-store"


async def test_without_authentication_the_page_chooses_the_user() -> None:
    async with service_in_process({"llm": ScriptedLLM()}) as service:
        session = await service.client.get("/page/session")

    assert session.json()["user_id"] is None


def test_the_page_loads_nothing_but_its_own_files_by_relative_urls() -> None:
    html = FILES["index.html"].content.decode()
    elements = Elements(html)
    addresses = [
        value for _, attributes in elements.found for name, value in attributes.items() if name in ("src", "href")
    ]
    loaded = [address for address in addresses if address and not address.startswith(("#", "data:image/svg+xml,"))]

    assert {address.removeprefix("page/") for address in loaded} <= FILES.keys()
    assert elements.inline == ""
    assert [attributes for _, attributes in elements.found if any(name.startswith("on") for name in attributes)] == []
    assert [attributes for _, attributes in elements.found if "style" in attributes] == []


def test_every_symbol_that_is_used_exists() -> None:
    html = FILES["index.html"].content.decode()
    scripts = "".join(FILES[path].content.decode() for path in OURS if path.endswith(".js"))
    used = {*re.findall(r'href="#icon-([a-z]+)"', html), *re.findall(r'icon\("([a-z]+)"\)', scripts)}

    assert used == set(re.findall(r'<symbol id="icon-([a-z]+)"', html))


@pytest.mark.parametrize("path", [path for path in OURS if path.endswith(".js")])
def test_no_script_of_ours_parses_html(path: str) -> None:
    assert FORBIDDEN.findall(FILES[path].content.decode()) == []


def test_every_error_that_the_page_can_meet_is_explained_and_no_other() -> None:
    explained = set(re.findall(r"^  ([a-z_]+):", FILES["js/explain.js"].content.decode(), re.MULTILINE))
    elsewhere = {"body_too_large", "length", "content_filter"}  # of a request, and finish reasons
    never_met = {
        *("ambiguous_credentials", "invalid_request", "unsupported_parameter"),  # by what the page sends
        *("idempotency_key_reused", "stream_expired"),  # it goes on in another way
    }

    assert explained - elsewhere == {error.code for error in STATUS} - never_met


def test_the_search_for_parsers_finds_them() -> None:
    assert FORBIDDEN.findall("a.innerHTML = b; new DOMParser()") == ["innerHTML", "DOMParser"]


@pytest.mark.parametrize(
    ("name", "expected"),
    [(name, file["sha256"]) for found in manifest().values() for name, file in found["files"].items()],
)
def test_a_vendored_file_is_the_one_of_the_named_version(name: str, expected: str) -> None:
    assert digest(name) == expected


def test_every_library_is_listed_with_its_version_and_licence_beside_it() -> None:
    files = {name for found in manifest().values() for name in found["files"]}

    assert {path.name for path in FOLDER.iterdir()} == files | {"versions.json"}
    for found in manifest().values():
        library, license_file = found["files"]
        assert f"v{found['version']}" in (FOLDER / library).read_text(encoding="utf-8")[:300]
        assert license_file.endswith(".LICENSE")
        assert found["license"] in ("MIT", "BSD-3-Clause")


def test_nothing_is_served_but_pages_scripts_and_styles() -> None:
    assert {path.rpartition(".")[2] for path in FILES} == set(MEDIA_TYPES)
