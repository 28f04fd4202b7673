"""An identity provider replaces its keys while the service runs."""

import pytest

from adapters.jwks import JWKS
from adapters.tokens_jwt import KeySet, TokensJWT
from application.ports.turn_observer import Event, TurnObserver
from tests.harness.credentials import authentication
from tests.harness.fakes import ScriptedLLM
from tests.harness.identity_provider import IdentityProvider
from tests.harness.servers import Service, running_service
from tests.harness.tokens import AUDIENCE

pytestmark = pytest.mark.server


class NoObserver(TurnObserver):
    def observe(self, event: Event) -> None:
        pass


async def status(service: Service, token: str) -> int:
    headers = {"Authorization": f"Bearer {token}"}
    return (await service.client.post("/api/chat/simple", json={"message": "Hello"}, headers=headers)).status_code


async def test_tokens_with_new_keys_are_accepted_and_old_keys_are_forgotten() -> None:
    async with IdentityProvider() as provider:
        keys = JWKS(f"{provider.url}/.well-known/jwks.json", NoObserver(), min_interval=0)
        tokens = TokensJWT(AUDIENCE, None, KeySet(keys, f"{provider.url}/"))
        async with running_service({"llm": ScriptedLLM(), "tokens": tokens}, **authentication("jwt")) as service:
            old = provider.token(AUDIENCE)
            assert [await status(service, old) for _ in range(3)] == [200, 200, 200]
            assert provider.fetches == 1

            provider.rotate()

            assert await status(service, provider.token(AUDIENCE)) == 200
            assert await status(service, old) == 401
            assert [await status(service, provider.token(AUDIENCE)) for _ in range(3)] == [200, 200, 200]
            assert provider.fetches <= 3
