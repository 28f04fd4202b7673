"""Whether the service lives, is ready, and how it does."""

import platform
import resource
import time
from datetime import UTC, datetime
from typing import Final

from fastapi import APIRouter
from fastapi.responses import JSONResponse

from entrypoints.http.dependencies import CheckHealthDep, CheckReadinessDep, DrainDep, SettingsDep
from entrypoints.http.native.schemas import DetailedHealthView, HealthView, StatusView, SystemView
from entrypoints.version import VERSION

router = APIRouter(tags=["health"])

_STARTED: Final = time.monotonic()


@router.get("/livez", summary="Whether the process lives")
async def livez() -> StatusView:
    return StatusView(status="ok")


@router.get(
    "/readyz",
    summary="Whether requests should be sent here",
    responses={
        503: {"description": "Not now: the history is unavailable, or the service is stopping.", "model": StatusView}
    },
)
async def readyz(check: CheckReadinessDep, drain: DrainDep) -> JSONResponse:
    ready = not drain.begun and await check()
    return JSONResponse({"status": "ok" if ready else "unavailable"}, 200 if ready else 503)


@router.get("/api/health", summary="Basic health check")
async def health(settings: SettingsDep) -> HealthView:
    return HealthView(status="ok", name=settings.app_name, version=VERSION, time=datetime.now(UTC))


@router.get("/api/health/detailed", summary="Health check with what the service stands on")
async def detailed_health(check_health: CheckHealthDep, settings: SettingsDep) -> DetailedHealthView:
    system = SystemView(
        python=platform.python_version(),
        platform=platform.system(),
        uptime_seconds=int(time.monotonic() - _STARTED),
        memory_bytes=resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024,
    )
    return DetailedHealthView.of(
        await check_health(), name=settings.app_name, version=VERSION, time=datetime.now(UTC), system=system
    )
