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
    version: str
    time: Timestamp


class ChecksView(BaseModel):
    history: Literal["ok", "unavailable"]
    llm: str = Field(description="`ok`, or the error code of the latest call to the model.")
    memory: Literal["ok", "unavailable"]


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
        return cls(
            status="ok" if health.is_well else "degraded",
            name=name,
            version=version,
            time=time,
            checks=ChecksView(
                history="unavailable" if health.history_failure else "ok",
                llm=health.llm_failure.code if health.llm_failure else "ok",
                memory="unavailable" if health.memory_failure else "ok",
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
