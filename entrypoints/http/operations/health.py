"""Liveness, readiness and health checks. Probes may use HEAD, e.g. those of Docker with `wget --spider`."""

import platform
import resource
import sys
from typing import Final

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
from entrypoints.http.policies import Policy, requires
from entrypoints.http.responses import problems, public_problems
from entrypoints.http.routing import SecuredRoute
from entrypoints.version import VERSION

_RSS_UNIT: Final = 1 if sys.platform == "darwin" else 1024
"""Bytes of which `ru_maxrss` counts one."""

router = APIRouter(tags=["health"], route_class=SecuredRoute)


@router.head("/livez", include_in_schema=False)
@router.get("/livez", summary="Liveness check", responses=public_problems())
@requires(Policy.PUBLIC)
async def livez() -> StatusView:
    """Tell whether the process responds. If it does not, restart it."""
    return StatusView(status="ok")


@router.head("/readyz", include_in_schema=False)
@router.get(
    "/readyz",
    summary="Readiness check",
    responses=public_problems()
    | {
        503: {
            "description": "History or API keys unavailable, the last write failed, or service shutting down.",
            "model": StatusView,
        }
    },
)
@requires(Policy.PUBLIC)
async def readyz(check: CheckReadinessDep) -> JSONResponse:
    """Tell whether to send requests to this process: 503 while it starts, stops, or lacks its history or API keys."""
    ready = await check()
    return JSONResponse({"status": "ok" if ready else "unavailable"}, 200 if ready else 503)


@router.head("/api/health", include_in_schema=False, response_model_exclude_none=True)
@router.get("/api/health", summary="Basic health check", response_model_exclude_none=True, responses=public_problems())
@requires(Policy.PUBLIC)
async def health(settings: SettingsDep, now: NowDep) -> HealthView:
    """Tell which service this is. Always succeeds while the process responds."""
    if settings.auth != "none":  # only the detailed check, which needs a credential, tells more
        return HealthView(status="ok", name=settings.app_name)
    return HealthView(status="ok", name=settings.app_name, version=VERSION, time=now())


@router.head("/api/health/detailed", include_in_schema=False)
@router.get("/api/health/detailed", summary="Detailed health check", responses=problems())
@requires(Policy.OPERATORS)
async def detailed_health(
    check_health: CheckHealthDep, settings: SettingsDep, now: NowDep, uptime: UptimeDep
) -> DetailedHealthView:
    """Tell what works and what does not, for operators: with authentication, it needs an API key."""
    system = SystemView(
        python=platform.python_version(),
        platform=platform.system(),
        uptime_seconds=int(uptime),
        memory_bytes=resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * _RSS_UNIT,
    )
    return DetailedHealthView.of(
        await check_health(), name=settings.app_name, version=VERSION, time=now(), system=system
    )
