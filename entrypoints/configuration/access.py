"""Settings of who can reach the service, and what they may do."""

from typing import Literal, Self

from pydantic import BaseModel, Field, model_validator

from domain.errors import Unusable
from entrypoints.configuration.keys import JWTSecret
from entrypoints.configuration.types import CommaSeparated, Host, Network, RootPath, TrueOrFalse, is_loopback
from entrypoints.configuration.urls import JWKSURL, Origin
from entrypoints.program import program

AuthMode = Literal["none", "api_key", "jwt", "api_key+jwt"]


class AccessSettings(BaseModel):
    """The address, the authentication and the origins of clients."""

    host: Host = Field(
        "127.0.0.1", description="Address to listen on. Any address but loopback requires authentication."
    )
    port: int = Field(8000, ge=0, le=65535, description="Port to listen on; 0 picks a free port.")
    root_path: RootPath = Field(
        "", description="Path under which a proxy serves the API, e.g. `/bot`; the proxy may remove it or pass it on."
    )
    docs: bool = Field(True, description="Serve the API documentation, at `/docs` and `/openapi.json`.")
    chat_page: bool = Field(True, description="Serve the chat page, at `/`.")
    auth_mode: Literal["auto", AuthMode] = Field(
        "auto",
        description="Credentials that requests need: `none`, `api_key` (see `smart-chatbot keys`), `jwt`, "
        "`api_key+jwt`, or `auto`: `jwt` if it is configured, else `none`, on loopback only.",
    )
    auth_jwt_secret: JWTSecret | None = Field(
        None, description="Secret of tokens that are signed with HS256, HS384 or HS512; at least 32 characters."
    )
    auth_jwks_url: JWKSURL | None = Field(
        None,
        repr=False,
        exclude=True,
        description="URL of the JSON Web Key Set of the identity provider that signs tokens; https.",
    )
    auth_issuer: CommaSeparated[str] = Field(
        (),
        description="Required issuer (`iss`) of tokens. With both a secret and a key set: two, separated by a comma, "
        "in that order.",
    )
    auth_audience: str | None = Field(None, description="Required audience (`aud`) of tokens.")
    trusted_proxies: CommaSeparated[Network] = Field(
        (),
        description="Comma-separated addresses or networks of proxies whose `X-Forwarded-For` names the client, for "
        "limits on failed attempts.",
    )
    chat_dangerously_allow_unauthenticated: TrueOrFalse = Field(
        False, description="`true`: serve without authentication on any address. Every client can read everything."
    )
    cors_origins: CommaSeparated[Origin] = Field(
        (), description="Comma-separated origins allowed to call the API from a browser."
    )

    @model_validator(mode="after")
    def _has_complete_authentication(self) -> Self:
        if self.auth != "none" and "*" in self.cors_origins:
            raise ValueError("CORS_ORIGINS: must not be * with authentication, so that no site can use a credential")
        if "jwt" not in self.auth:
            return self
        sources = [source for source in (self.auth_jwt_secret, self.auth_jwks_url) if source is not None]
        if not sources:
            raise ValueError("AUTH_JWT_SECRET: it or AUTH_JWKS_URL is required for AUTH_MODE " + self.auth)
        if not self.auth_issuer or not self.auth_audience:
            raise ValueError("AUTH_ISSUER, AUTH_AUDIENCE: are both required for tokens, or those of others would pass")
        if len(set(self.auth_issuer)) != len(sources) or len(self.auth_issuer) != len(sources):
            raise ValueError(
                "AUTH_ISSUER: must name one issuer, or two different ones, separated by a comma, with both "
                "AUTH_JWT_SECRET and AUTH_JWKS_URL"
            )
        return self

    @property
    def auth(self) -> AuthMode:
        """The credentials that requests need.

        Derived from the settings alone: if it depended on which keys there are, revoking the last one would open the
        service.
        """
        if self.auth_mode != "auto":
            return self.auth_mode
        return "none" if self.auth_jwt_secret is None and self.auth_jwks_url is None else "jwt"

    @property
    def is_loopback(self) -> bool:
        """Whether only processes on this machine can connect."""
        return is_loopback(self.host)

    def require_authentication(self) -> None:
        """Raise Unusable if other machines could use the service without a credential.

        Not validated on construction: commands like `migrate` and `keys` serve nobody.
        """
        if self.auth == "none" and not self.is_loopback and not self.chat_dangerously_allow_unauthenticated:
            raise Unusable(
                f"HOST: {self.host} can be reached from other machines, but there is no authentication: set "
                f"AUTH_MODE=api_key and create a key with `{program()} keys create --role service`, or configure jwt, "
                "or listen on 127.0.0.1, or, if something else authenticates every client, set "
                "CHAT_DANGEROUSLY_ALLOW_UNAUTHENTICATED=true"
            )
