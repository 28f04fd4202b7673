"""Liveness, readiness and health checks."""

import platform
import resource

from fastapi import APIRouter
from fastapi.responses import JSONResponse

from entrypoints.http.dependencies import (
    CheckHealthDep,
    CheckReadinessDep,
    NowDep,
    SettingsDep,
    UptimeDep,
)
from entrypoints.http.operations.schemas import DetailedHealthView, HealthView, StatusView, SystemView
from entrypoints.version import VERSION

router = APIRouter(tags=["health"])


@router.get("/livez", summary="Liveness check")
async def livez() -> StatusView:
    return StatusView(status="ok")


@router.get(
    "/readyz",
    summary="Readiness check",
    responses={
        503: {
            "description": "History unavailable, its last write failed, or service shutting down.",
            "model": StatusView,
        }
    },
)
async def readyz(check: CheckReadinessDep) -> JSONResponse:
    ready = await check()
    return JSONResponse({"status": "ok" if ready else "unavailable"}, 200 if ready else 503)


@router.get("/api/health", summary="Basic health check")
async def health(settings: SettingsDep, now: NowDep) -> HealthView:
    return HealthView(status="ok", name=settings.app_name, version=VERSION, time=now())


@router.get("/api/health/detailed", summary="Detailed health check")
async def detailed_health(
    check_health: CheckHealthDep, settings: SettingsDep, now: NowDep, uptime: UptimeDep
) -> DetailedHealthView:
    system = SystemView(
        python=platform.python_version(),
        platform=platform.system(),
        uptime_seconds=int(uptime),
        memory_bytes=resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024,
    )
    return DetailedHealthView.of(
        await check_health(), name=settings.app_name, version=VERSION, time=now(), system=system
    )
