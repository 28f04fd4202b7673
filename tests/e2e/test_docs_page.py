"""The API documentation in a browser without a connection to other hosts."""

import re

from playwright.async_api import Route, expect

from entrypoints.http.operations.docs import CONTENT_SECURITY_POLICY
from tests.harness.browser import Tab, browser_tab
from tests.harness.credentials import SERVICE, KnownCredentials, authentication, bearer, credential_of
from tests.harness.fakes import ScriptedLLM
from tests.harness.servers import Service, running_service

OPERATION = "#operations-chat-send_message_simple"


async def open_docs(tab: Tab, service: Service) -> None:
    await tab.page.goto(f"{service.url}/docs")
    await expect(tab.page.locator(".opblock")).to_have_count(
        sum(map(len, (await service.client.get("/openapi.json")).json()["paths"].values()))
    )


async def try_out(tab: Tab) -> str:
    """Send the example of `/api/chat/simple`, and return the status that the page shows."""
    operation = tab.page.locator(OPERATION)
    await operation.locator(".opblock-summary-control").click()
    await operation.get_by_role("button", name="Try it out").click()
    await operation.get_by_role("button", name="Execute").click()
    return await operation.locator(".live-responses-table tbody .response-col_status").inner_text()


async def test_the_page_shows_every_operation_without_another_host_or_a_policy_violation() -> None:
    async with running_service({"llm": ScriptedLLM()}) as service, browser_tab() as tab:
        await open_docs(tab, service)

    assert tab.origins == {service.url}
    assert tab.errors == []


async def test_an_operation_can_be_tried_out() -> None:
    async with running_service({"llm": ScriptedLLM()}) as service, browser_tab() as tab:
        await open_docs(tab, service)
        status = await try_out(tab)

    assert status.split()[0] == "200"
    assert tab.errors == []


async def test_the_authorize_button_sends_the_credential() -> None:
    overrides = {"llm": ScriptedLLM(), "authenticate": KnownCredentials()}
    async with running_service(overrides, **authentication()) as service, browser_tab() as tab:
        await open_docs(tab, service)
        await tab.page.get_by_role("button", name="Authorize").first.click()
        await tab.page.get_by_label("auth-bearer-value").fill(credential_of(SERVICE))
        await tab.page.get_by_role("button", name="Apply credentials").click()
        await tab.page.get_by_role("button", name="Close").click()
        async with tab.page.expect_request("**/api/chat/simple") as sent:
            status = await try_out(tab)
        authorization = await (await sent.value).header_value("authorization")

    assert authorization == bearer(SERVICE)["Authorization"]
    assert status.split()[0] == "200"


async def test_the_page_works_below_the_prefix_of_a_proxy() -> None:
    async with running_service({"llm": ScriptedLLM()}) as service, browser_tab() as tab:

        async def without_prefix(route: Route) -> None:
            await route.continue_(url=route.request.url.replace("/bot/", "/"))

        await tab.page.route("**/bot/**", without_prefix)
        await tab.page.goto(f"{service.url}/bot/docs")
        await expect(tab.page.locator(OPERATION)).to_be_visible()

    assert tab.errors == []


async def test_nothing_on_the_page_is_inline() -> None:
    async with running_service({"llm": ScriptedLLM()}, app_name="<script>alert(1)</script>") as service:
        page = await service.client.get("/docs")

    assert page.headers["Content-Security-Policy"] == CONTENT_SECURITY_POLICY
    assert "unsafe" not in CONTENT_SECURITY_POLICY
    assert re.findall(r"<script[^>]*>(.*?)</script>", page.text) == ["", ""]


async def test_without_docs_neither_page_nor_files_are_served() -> None:
    paths = ("/docs", "/docs/start.js", "/docs/swagger-ui.css", "/docs/swagger-ui-bundle.js", "/openapi.json")
    async with running_service({"llm": ScriptedLLM()}, docs=False) as service:
        responses = [await service.client.get(path) for path in paths]

    assert [response.status_code for response in responses] == [404] * len(paths)
