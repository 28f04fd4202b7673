"""Settings of the model, and of requests to it."""

from typing import Annotated, Literal

from pydantic import BaseModel, Field
from pydantic_settings import NoDecode

from domain.errors import Unusable
from entrypoints.configuration.keys import Key, NoKey
from entrypoints.configuration.types import Seconds, StopSequences
from entrypoints.configuration.urls import ModelURL, host_of
from entrypoints.program import program


class ModelSettings(BaseModel):
    """Which model generates the replies, and how."""

    openai_api_key: Key | None = Field(
        None, description="OpenAI API key. Not needed with `OPENAI_BASE_URL` or `--local`."
    )
    openai_base_url: ModelURL | None = Field(
        None,
        repr=False,
        exclude=True,
        description="Base URL of an OpenAI-compatible server, including `/v1`. Empty: OpenAI.",
    )
    openai_model: NoKey = Field("gpt-3.5-turbo", min_length=1, description="Model that generates the replies.")
    openai_temperature: float = Field(0.7, ge=0, le=2, allow_inf_nan=False, description="Sampling temperature, 0 to 2.")
    openai_max_tokens: int = Field(1000, ge=1, le=1_000_000, description="Maximum length of a reply, in tokens.")
    openai_top_p: float | None = Field(
        None, ge=0, le=1, allow_inf_nan=False, description="Nucleus sampling, 0 to 1. Empty: not sent."
    )
    openai_stop: Annotated[StopSequences | None, NoDecode] = Field(
        None,
        description='Texts before which a reply ends, as a JSON list, e.g. `["END", "User:"]`. Empty: not sent.',
    )
    openai_seed: int | None = Field(
        None, ge=-(2**63), le=2**63 - 1, description="Seed, for replies that are largely reproducible. Empty: not sent."
    )
    openai_reasoning_effort: Literal["none", "minimal", "low", "medium", "high", "xhigh"] | None = Field(
        None,
        description="How much a reasoning model thinks: `none`, `minimal`, `low`, `medium`, `high` or `xhigh`. Empty: "
        "not sent.",
    )
    reasoning: Literal["drop", "keep"] = Field(
        "drop", description="A model's reasoning, in its own field or a leading `<think>` block: `drop` or `keep` it."
    )
    upstream_connect_timeout: Seconds = Field(5, description="Timeout for connecting to the model's API, in seconds.")
    upstream_first_byte_timeout: Seconds = Field(
        30, description="Timeout for the model's first response byte, in seconds."
    )
    upstream_idle_timeout: Seconds = Field(
        60, description="Timeout between two chunks of a model's response, in seconds."
    )
    upstream_max_connections: int = Field(
        1200,
        ge=1,
        le=100_000,
        description="Maximum number of concurrent requests to the model; further ones wait up to 2 seconds.",
    )

    @property
    def has_model(self) -> bool:
        """Whether a model is configured."""
        return self.openai_api_key is not None or self.openai_base_url is not None

    @property
    def model_host(self) -> str:
        """Host and port of the model's service, without credentials."""
        return host_of(self.openai_base_url) if self.openai_base_url else "api.openai.com"

    def require_model(self) -> None:
        """Raise Unusable unless a model is configured.

        Not validated on construction: `serve --local` brings its own model, and `migrate` needs none.
        """
        if not self.has_model:
            raise Unusable(
                "No model is configured: set OPENAI_API_KEY (or OPENAI_BASE_URL for another server) in the "
                f"environment or in .env, or try the embedded model with: {program()} serve --local"
            )
