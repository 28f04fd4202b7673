"""An identity provider on a real socket: it issues signed tokens, publishes its keys, and can replace them."""

from typing import Any, Self

from aiohttp import web

from tests.harness.tokens import Signer, token

ALGORITHM = "RS256"


class IdentityProvider:
    """Serves a key set, issues tokens as Auth0 does, and tells proxies who is logged in as oauth2-proxy does.

    A client has the id CLIENT_ID and the secret CLIENT_SECRET. Whoever has the cookie `_oauth2_proxy=COOKIE` is logged
    in as `user`.
    """

    def __init__(self, user: str = "auth0|5f7c8e") -> None:
        self.user = user
        self.url = ""
        self.fetches = 0
        """How often the key set was fetched."""
        self._signer = Signer()
        self._generation = 1

    async def __aenter__(self) -> Self:
        app = web.Application()
        app.add_routes(
            [
                web.get("/.well-known/jwks.json", self._publish_keys),
                web.post("/oauth/token", self._issue_token),
                web.get("/oauth2/auth", self._check_login),
            ]
        )
        self._runner = web.AppRunner(app)
        await self._runner.setup()
        site = web.TCPSite(self._runner, "127.0.0.1", 0)
        await site.start()
        self.url = f"http://127.0.0.1:{self._runner.addresses[0][1]}"
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._runner.cleanup()

    def rotate(self) -> None:
        """Replace the keys by new ones, with other ids."""
        self._signer = Signer()
        self._generation += 1

    def token(self, audience: str, **changes: Any) -> str:
        chosen = {"sub": self.user, "iss": f"{self.url}/", "aud": audience, **changes}
        return token(self._signer.keys[ALGORITHM], ALGORITHM, {"kid": self._key_id(ALGORITHM)}, **chosen)

    def _key_id(self, algorithm: str) -> str:
        return f"{algorithm}-{self._generation}"

    async def _publish_keys(self, _request: web.Request) -> web.Response:
        self.fetches += 1
        keys = self._signer.key_set()["keys"]
        return web.json_response({"keys": [{**key, "kid": self._key_id(key["kid"])} for key in keys]})

    async def _issue_token(self, request: web.Request) -> web.Response:
        form = await request.post()
        client = (form.get("grant_type"), form.get("client_id"), form.get("client_secret"))
        if client != ("client_credentials", "CLIENT_ID", "CLIENT_SECRET"):
            return web.json_response({"error": "access_denied"}, status=401)
        return web.json_response({"access_token": self.token(str(form["audience"])), "token_type": "Bearer"})

    async def _check_login(self, request: web.Request) -> web.Response:
        if request.cookies.get("_oauth2_proxy") != "COOKIE":
            return web.Response(status=401)
        return web.Response(status=202, headers={"Authorization": f"Bearer {self.token('chat')}"})
