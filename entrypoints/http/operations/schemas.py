"""Responses of the health checks."""

from datetime import datetime
from typing import Annotated, Literal, Self

from pydantic import BaseModel, Field

from application.health import Health
from entrypoints.http.timestamp import Timestamp

_Name = Annotated[str, Field(description="Name of the service, `APP_NAME`.", examples=["Smart Chatbot"])]


class StatusView(BaseModel):
    """Whether the service is up."""

    status: Literal["ok", "unavailable"] = Field(description="`unavailable` together with 503.", examples=["ok"])


class HealthView(BaseModel):
    """Whether the service is up, and which one it is."""

    status: Literal["ok"] = Field(description="`ok` if the service responds at all.", examples=["ok"])
    name: _Name
    version: str | None = Field(None, description="Absent if authentication is on.", examples=["0.1.0"])
    time: Timestamp | None = Field(
        None, description="Time of the response. Absent if authentication is on.", examples=["2026-01-31T12:00:00Z"]
    )


class ChecksView(BaseModel):
    """What the service depends on."""

    history: Literal["ok", "unavailable"] = Field(description="Whether turns can be stored.", examples=["ok"])
    history_detail: str | None = Field(
        description="Why turns cannot be stored, as a sentence for the operator; null if they can.", examples=[None]
    )
    llm: str = Field(description="`ok`, or the error code of the latest call to the model.", examples=["ok"])
    memory: Literal["ok", "unavailable"] = Field(
        description="Whether memories can be stored and recalled.", examples=["ok"]
    )
    memory_reason: str | None = Field(
        description="Why memory is degraded: `memory_not_ready`, `memory_unavailable`, `memory_refused`, "
        "`recalls_failing` (the latest turns ran without memory) or `turns_given_up` (see `memory.dead`); null if it "
        "is not.",
        examples=[None],
    )
    memory_detail: str | None = Field(description="The reason as a sentence for the operator.", examples=[None])
    failed_extractions: int = Field(
        description="Attempts since startup in which the model did not extract facts from a turn. They are repeated.",
        examples=[0],
    )


class MemoryWorkView(BaseModel):
    """The work of long-term memory."""

    pending: int | None = Field(
        description="Turns waiting to be stored in memory; null if the history is unavailable.", examples=[0]
    )
    dead: int | None = Field(
        description="Turns given up after repeated failures; null if the history is unavailable.", examples=[0]
    )
    forgetting: int | None = Field(
        description="Users whose memories are being deleted; null if the history is unavailable.", examples=[0]
    )
    failed_recalls: int = Field(
        description="Turns since startup that ran without memory because recall failed.", examples=[0]
    )


class SystemView(BaseModel):
    """The process."""

    python: str = Field(description="Version of Python.", examples=["3.13.1"])
    platform: str = Field(description="Operating system.", examples=["Linux"])
    uptime_seconds: int = Field(description="Seconds since the start.", examples=[86400])
    memory_bytes: int = Field(description="Peak resident memory of the process.", examples=[125829120])


class DetailedHealthView(BaseModel):
    """Whether everything that the service depends on works."""

    status: Literal["ok", "degraded"] = Field(description="`degraded` if a check is not `ok`.", examples=["ok"])
    name: _Name
    version: str = Field(description="Version of the service.", examples=["0.1.0"])
    time: Timestamp = Field(description="Time of the response.")
    checks: ChecksView
    running_turns: int = Field(description="Turns that this process is generating.", examples=[3])
    memory: MemoryWorkView
    system: SystemView

    @classmethod
    def of(cls, health: Health, *, name: str, version: str, time: datetime, system: SystemView) -> Self:
        problem, failure = health.memory_problem, health.history_failure
        return cls(
            status="ok" if health.is_well else "degraded",
            name=name,
            version=version,
            time=time,
            checks=ChecksView(
                history="unavailable" if failure else "ok",
                history_detail=failure and (failure.explanation or failure.detail),
                llm=health.llm_failure.code if health.llm_failure else "ok",
                memory="unavailable" if health.memory_failure else "ok",
                memory_reason=problem and problem.reason,
                memory_detail=problem and problem.detail,
                failed_extractions=health.failed_extractions,
            ),
            running_turns=health.running_turns,
            memory=MemoryWorkView(
                pending=health.outbox and health.outbox.pending,
                dead=health.outbox and health.outbox.dead,
                forgetting=health.outbox and health.outbox.forgetting,
                failed_recalls=health.failed_recalls,
            ),
            system=system,
        )
