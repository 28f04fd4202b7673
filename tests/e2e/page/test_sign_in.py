"""The chat page of a service with authentication, and behind a proxy."""

import anyio
from playwright.async_api import Browser, Page, Route, expect

from tests.harness.browser import new_tab, running_browser
from tests.harness.chat_page import ChatPage
from tests.harness.credentials import ANN, BEN, SERVICE, KnownCredentials, authentication, bearer, credential_of
from tests.harness.fakes import ScriptedLLM
from tests.harness.servers import running_service

TOKEN = credential_of(ANN)


def overrides() -> dict[str, object]:
    return {"llm": ScriptedLLM(), "authenticate": KnownCredentials()}


async def sign_in(page: Page, credential: str) -> None:
    await page.get_by_label("Token or API key").fill(credential)
    await page.get_by_role("button", name="Sign in", exact=True).click()


async def add_fact(page: Page, fact: str) -> None:
    await page.get_by_label("New fact").fill(fact)
    await page.keyboard.press("Enter")


async def everything(page: Page) -> str:
    """Return all that is shown, entered and stored."""
    script = """[document.documentElement.outerHTML, JSON.stringify({...sessionStorage}),
                 ...[...document.querySelectorAll('input, textarea')].map(field => field.value)].join()"""
    found: str = await page.evaluate(script)
    return found


async def test_a_token_opens_the_conversations_of_its_user_until_the_tab_is_reloaded(browser: Browser) -> None:
    async with running_service(overrides(), **authentication()) as service:
        chat = ChatPage(await new_tab(browser), service.url)
        await chat.page.goto(service.url)
        await sign_in(chat.page, "wrong")
        await expect(chat.page.get_by_text("This one was not accepted.")).to_be_visible()
        await sign_in(chat.page, TOKEN)
        await chat.until_ready()
        await expect(chat.page.locator("#user")).to_have_text("ann")
        await chat.ask("Hi")
        await expect(chat.answers).to_have_text("Hello, world!")
        kept = await chat.page.evaluate("JSON.stringify([{...localStorage}, {...sessionStorage}, document.cookie])")
        await chat.page.get_by_role("button", name="Sign out").click()
        await expect(chat.page.get_by_role("dialog", name="Sign in")).to_be_visible()

        assert TOKEN not in kept
        assert await chat.turns.count() == 0
        history = (await service.client.get("/api/chat/history/ann", headers=bearer(ANN))).json()["history"]
        assert [turn["user_message"] for turn in history] == ["Hi"]


async def test_a_login_in_front_of_the_service_needs_no_sign_in(browser: Browser) -> None:
    async with running_service(overrides(), **authentication()) as service:
        chat = ChatPage(await new_tab(browser), service.url)

        async def with_token(route: Route) -> None:  # as a proxy adds it to every request of a user who has logged in
            await route.continue_(headers={**route.request.headers, **bearer(ANN)})

        await chat.page.route("**/*", with_token)
        await chat.page.goto(service.url)
        await chat.until_ready()
        await chat.ask("Hi")

        await expect(chat.page.locator("#user")).to_have_text("ann")
        await expect(chat.answers).to_have_text("Hello, world!")
        await expect(chat.page.get_by_role("dialog")).to_be_hidden()


async def test_an_api_key_is_used_for_the_user_that_is_entered(browser: Browser) -> None:
    async with running_service(overrides(), **authentication()) as service:
        chat = ChatPage(await new_tab(browser), service.url)
        await chat.page.goto(service.url)
        await chat.page.get_by_label("Token or API key").fill(credential_of(SERVICE))
        await chat.page.get_by_label("User id").fill("ben")
        await chat.page.get_by_role("button", name="Sign in", exact=True).click()
        await chat.until_ready()
        await chat.ask("Hi")

        assert await chat.page.locator("#user").inner_text() == "ben"
        assert (await service.client.get("/api/chat/history/ben", headers=bearer(SERVICE))).json()["count"] == 1


async def test_the_page_works_below_the_prefix_of_a_proxy(browser: Browser) -> None:
    async with running_service({"llm": ScriptedLLM()}) as service:
        chat = ChatPage(await new_tab(browser), f"{service.url}/bot")

        async def without_prefix(route: Route) -> None:
            await route.continue_(url=route.request.url.replace("/bot/", "/"))

        await chat.page.route("**/bot/**", without_prefix)
        await chat.page.goto(f"{chat.url}/")
        await chat.until_ready()
        await chat.ask("Hi")
        await expect(chat.answers).to_have_text("Hello, world!")

    assert chat.tab.errors == []


async def test_a_token_that_expires_returns_the_message_to_the_field(browser: Browser) -> None:
    credentials = KnownCredentials({TOKEN: ANN})
    async with running_service({"llm": ScriptedLLM(), "authenticate": credentials}, **authentication()) as service:
        chat = ChatPage(await new_tab(browser), service.url)
        await chat.page.goto(service.url)
        await sign_in(chat.page, TOKEN)
        await chat.until_ready()
        del credentials.credentials[TOKEN]
        await chat.send("Hi")
        await expect(chat.page.get_by_role("dialog", name="Sign in")).to_be_visible()
        credentials.credentials[TOKEN] = ANN
        await sign_in(chat.page, TOKEN)
        await chat.until_ready()

        assert await chat.field.input_value() == "Hi"
        assert await chat.turns.count() == 0


async def test_the_next_user_sees_nothing_of_the_one_who_has_signed_out(browser: Browser) -> None:
    async with running_service(overrides(), **authentication()) as service:
        chat = ChatPage(await new_tab(browser), service.url)
        await chat.page.goto(service.url)
        await sign_in(chat.page, TOKEN)
        await chat.until_ready()
        await chat.ask("Ann's question")
        await chat.field.fill("Ann's draft")
        await chat.page.get_by_role("button", name="Sign out").click()
        await sign_in(chat.page, credential_of(BEN))
        await chat.until_ready()

        await expect(chat.page.locator("#user")).to_have_text("ben")
        assert "Ann" not in await everything(chat.page)


class LateResponse:
    """A response that the browser gets long after the service has sent it."""

    def __init__(self) -> None:
        self.fetched = anyio.Event()
        self._due = anyio.Event()
        self._delivered = anyio.Event()

    async def handle(self, route: Route) -> None:
        response = await route.fetch()
        self.fetched.set()
        await self._due.wait()
        await route.fulfill(response=response)
        self._delivered.set()

    async def deliver(self) -> None:
        self._due.set()
        await self._delivered.wait()


async def test_the_next_user_sees_nothing_of_the_one_whose_token_has_expired(browser: Browser) -> None:
    credentials, listing = KnownCredentials(), LateResponse()
    async with running_service({"llm": ScriptedLLM(), "authenticate": credentials}, **authentication()) as service:
        chat = ChatPage(await new_tab(browser), service.url)
        await chat.page.goto(service.url)
        await sign_in(chat.page, TOKEN)
        await chat.until_ready()
        await chat.ask("Ann's question")
        await expect(chat.conversations).to_have_count(1)
        await chat.page.route("**/conversations/ann?*", listing.handle)
        await chat.page.evaluate("document.dispatchEvent(new Event('visibilitychange'))")
        await chat.page.route("**/conversations/ben?*", lambda route: route.abort())
        await listing.fetched.wait()
        del credentials.credentials[TOKEN]
        await chat.send("Ann's message")
        await sign_in(chat.page, credential_of(BEN))
        await expect(chat.page.locator("#user")).to_have_text("ben")
        await listing.deliver()
        await chat.page.evaluate("new Promise(resolve => setTimeout(resolve, 100))")

        assert "Ann" not in await everything(chat.page)


async def test_the_next_user_sees_nothing_of_dialogs_that_were_open_when_a_token_expired(browser: Browser) -> None:
    credentials, adding = KnownCredentials(), LateResponse()
    async with running_service({"llm": ScriptedLLM(), "authenticate": credentials}, **authentication()) as service:
        chat = ChatPage(await new_tab(browser), service.url)
        await chat.page.goto(service.url)
        await sign_in(chat.page, TOKEN)
        await chat.until_ready()
        await chat.page.get_by_role("button", name="What I remember").click()
        await chat.page.route("**/memories/ann", adding.handle)
        await add_fact(chat.page, "Ann's dog")
        await adding.fetched.wait()
        del credentials.credentials[TOKEN]
        await chat.page.route("**/memories/ann", lambda route: route.continue_())
        await add_fact(chat.page, "Ann's cat")
        await sign_in(chat.page, credential_of(BEN))
        await expect(chat.page.locator("#user")).to_have_text("ben")
        await adding.deliver()
        await chat.page.evaluate("new Promise(resolve => setTimeout(resolve, 100))")

        assert "Ann" not in await everything(chat.page)


async def test_the_next_user_sees_no_question_that_was_asked_when_a_token_expired(browser: Browser) -> None:
    credentials = KnownCredentials()
    async with running_service({"llm": ScriptedLLM(), "authenticate": credentials}, **authentication()) as service:
        chat = ChatPage(await new_tab(browser), service.url)
        await chat.page.goto(service.url)
        await sign_in(chat.page, TOKEN)
        await chat.until_ready()
        await chat.ask("Ann's question")
        await expect(chat.conversations).to_have_count(1)
        await chat.page.get_by_role("button", name="Rename").click()
        await expect(chat.page.locator("#ask-value")).to_have_value("Ann's question")
        del credentials.credentials[TOKEN]
        await chat.page.evaluate("document.dispatchEvent(new Event('visibilitychange'))")
        await sign_in(chat.page, credential_of(BEN))
        await expect(chat.page.locator("#user")).to_have_text("ben")

        await expect(chat.page.get_by_role("dialog")).to_have_count(0)
        assert "Ann" not in await everything(chat.page)


async def test_back_leads_to_nothing_of_the_one_who_has_signed_out() -> None:
    async with (
        running_browser(keeps_pages=True) as browser,
        running_service(overrides(), **authentication()) as service,
    ):
        chat = ChatPage(await new_tab(browser), service.url)
        await chat.page.goto(service.url)
        await sign_in(chat.page, TOKEN)
        await chat.until_ready()
        await chat.ask("Ann's question")
        await chat.page.evaluate("addEventListener('pageshow', () => sessionStorage.setItem('kept', 'yes'))")
        await chat.page.goto("about:blank")
        await chat.page.goto(service.url)
        await sign_in(chat.page, TOKEN)
        await expect(chat.page.locator("#user")).to_have_text("ann")
        await chat.page.get_by_role("button", name="Sign out").click()
        await expect(chat.page.get_by_role("dialog", name="Sign in")).to_be_visible()
        await chat.page.go_back(wait_until="commit")
        await chat.page.go_back(wait_until="commit")

        await expect(chat.page.get_by_role("dialog", name="Sign in")).to_be_visible()
        await expect(chat.page.locator("#user")).to_be_empty()
        assert await chat.page.evaluate("sessionStorage.getItem('kept')") == "yes"  # or the page was loaded anyway
        assert "Ann" not in await everything(chat.page)


async def test_an_entered_user_takes_precedence_over_the_address_and_has_to_be_valid(browser: Browser) -> None:
    async with running_service(overrides(), **authentication()) as service:
        chat = ChatPage(await new_tab(browser), service.url)
        await chat.page.goto(f"{service.url}/?user=ann")
        await chat.page.get_by_label("Token or API key").fill(credential_of(SERVICE))
        await expect(chat.page.get_by_label("User id")).to_have_value("ann")
        await chat.page.get_by_label("User id").fill("not an id")
        await chat.page.get_by_role("button", name="Sign in", exact=True).click()
        await expect(chat.page.get_by_role("dialog", name="Sign in")).to_be_visible()
        await chat.page.get_by_label("User id").fill("ben")
        await chat.page.get_by_role("button", name="Sign in", exact=True).click()

        await expect(chat.page.locator("#user")).to_have_text("ben")


async def test_a_dismissed_sign_in_can_be_opened_again_and_refuses_what_cannot_be_a_token(browser: Browser) -> None:
    async with running_service(overrides(), **authentication()) as service:
        chat = ChatPage(await new_tab(browser), service.url)
        await chat.page.goto(service.url)
        dialog = chat.page.get_by_role("dialog", name="Sign in")
        await expect(dialog).to_be_visible()
        await chat.page.keyboard.press("Escape")
        await chat.notice.get_by_role("button", name="Sign in").click()
        await sign_in(chat.page, "“quoted”")
        await expect(dialog).to_be_visible()
        await sign_in(chat.page, f" {TOKEN} ")

        await expect(chat.page.locator("#user")).to_have_text("ann")
        await expect(chat.notice).to_be_hidden()
