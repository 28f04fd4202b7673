"""Responses of the health checks."""

from datetime import datetime
from typing import Literal, Self

from pydantic import BaseModel, Field

from application.health import Health
from entrypoints.http.timestamp import Timestamp


class StatusView(BaseModel):
    status: Literal["ok", "unavailable"]


class HealthView(BaseModel):
    status: Literal["ok"]
    name: str
    version: str | None = Field(None, description="Absent if authentication is on.")
    time: Timestamp | None = Field(None, description="Absent if authentication is on.")


class ChecksView(BaseModel):
    history: Literal["ok", "unavailable"]
    history_detail: str | None = Field(
        description="Why turns cannot be stored, as a sentence for the operator; null if they can."
    )
    llm: str = Field(description="`ok`, or the error code of the latest call to the model.")
    memory: Literal["ok", "unavailable"]
    memory_reason: str | None = Field(
        description="Why memory is degraded: `memory_not_ready`, `memory_unavailable`, `memory_refused`, "
        "`recalls_failing` (the latest turns ran without memory) or `turns_given_up` (see `memory.dead`); null if it "
        "is not."
    )
    memory_detail: str | None = Field(description="The reason as a sentence for the operator.")
    failed_extractions: int = Field(
        description="Attempts since startup in which the model did not extract facts from a turn. They are repeated."
    )


class MemoryWorkView(BaseModel):
    pending: int | None = Field(description="Turns waiting to be stored in memory; null if the history is unavailable.")
    dead: int | None = Field(description="Turns given up after repeated failures.")
    forgetting: int | None = Field(description="Users whose memories are being deleted.")
    failed_recalls: int = Field(description="Turns since startup that ran without memory because recall failed.")


class SystemView(BaseModel):
    python: str
    platform: str
    uptime_seconds: int
    memory_bytes: int = Field(description="Peak resident memory of the process.")


class DetailedHealthView(BaseModel):
    status: Literal["ok", "degraded"]
    name: str
    version: str
    time: Timestamp
    checks: ChecksView
    running_turns: int
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
