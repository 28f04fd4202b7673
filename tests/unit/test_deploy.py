"""The files in `deploy/` fit the service, and each other."""

import json
import os
import re
import shlex
import stat
import subprocess
import sys
import tomllib
from collections.abc import Mapping, Sequence
from inspect import signature
from pathlib import Path
from typing import Any, Final

import pytest
import yaml

from domain.api_key import PresentedKey
from entrypoints import local_model
from entrypoints.cli.main import main
from entrypoints.exit_status import UNUSABLE, USAGE
from entrypoints.http.app import create_app
from entrypoints.server import DrainingServer
from entrypoints.settings import Settings, load_settings
from entrypoints.shutdown import Shutdown
from tests.harness.servers import clean_environment

ROOT: Final = Path(__file__).parents[2]
DEPLOY: Final = ROOT / "deploy"

OTHER_VARIABLES: Final = frozenset({"PATH", "PGPASSWORD"})
"""Variables of the service's processes that are not settings: the search path, and one of PostgreSQL's client."""


def dockerfile() -> Sequence[tuple[str, str]]:
    """Return the instructions of the Dockerfile and their arguments, without comments and line breaks."""
    text = re.sub(r"^#.*\n", "", (DEPLOY / "Dockerfile").read_text(encoding="utf-8"), flags=re.MULTILINE)
    lines = re.sub(r"\\\n\s*", "", text).splitlines()
    return [(name, rest) for line in lines if line for name, _, rest in [line.partition(" ")]]


def image_variables() -> Mapping[str, str]:
    """Return the environment of the image's process, i.e. of the last stage."""
    instructions = dockerfile()
    start = max(index for index, (name, _) in enumerate(instructions) if name == "FROM")
    pairs = [pair.partition("=") for name, rest in instructions[start:] if name == "ENV" for pair in shlex.split(rest)]
    return {name: value for name, _, value in pairs}


@pytest.fixture(scope="module")
def compose() -> Any:
    return yaml.safe_load((DEPLOY / "compose.yaml").read_text(encoding="utf-8"))


@pytest.fixture(scope="module")
def instances(compose: Any) -> Any:
    """The services of compose.yaml that run this service."""
    images = {name: service for name, service in compose["services"].items() if "build" in service}
    return {name: service for name, service in images.items() if "entrypoint" not in service}


@pytest.fixture(scope="module")
def caddyfile() -> str:
    return re.sub(r"(?m)(^|\s)#.*$", "", (DEPLOY / "Caddyfile").read_text(encoding="utf-8"))


@pytest.fixture(scope="module")
def unit() -> Mapping[str, Sequence[str]]:
    """The values of each key of the systemd unit, whatever its section."""
    values: dict[str, list[str]] = {}
    for line in (DEPLOY / "smart-chatbot.service").read_text(encoding="utf-8").splitlines():
        if "=" in line and not line.startswith("#"):
            name, _, value = line.partition("=")
            values.setdefault(name, []).append(value)
    return values


@pytest.fixture(scope="module")
def project() -> Any:
    return tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))


def seconds(duration: str) -> float:
    number, unit = re.fullmatch(r"(\d+)(s|m|)", duration).groups()  # type: ignore[union-attr]
    return int(number) * (60 if unit == "m" else 1)


def longest_shutdown(grace: float) -> float:
    """Return after how many seconds the process has ended at the latest."""
    return grace + float(signature(Shutdown).parameters["margin"].default)


def is_command(words: Sequence[str], project: Any) -> bool:
    with pytest.raises(SystemExit) as exited:
        main([*words[1:], "--help"])
    return words[0] in project["project"]["scripts"] and len(words) > 1 and exited.value.code == 0


def test_the_variables_of_the_image_are_settings(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    variables = image_variables()
    assert {name for name in variables if name.lower() not in Settings.model_fields} <= OTHER_VARIABLES

    monkeypatch.chdir(tmp_path)
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    assert not load_settings().is_loopback


def test_the_variables_of_the_instances_are_settings(
    instances: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.chdir(tmp_path)
    for service in instances.values():
        variables = service["environment"]
        assert {name for name in variables if name.lower() not in Settings.model_fields} <= OTHER_VARIABLES
        for name, value in variables.items():
            monkeypatch.setenv(name, value)
        settings = load_settings()
        assert settings.database_host == "postgres"
        settings.require_authentication()


def test_a_key_is_made_once_and_only_the_service_can_read_it(compose: Any, tmp_path: Path) -> None:
    key = compose["services"]["key"]
    assert key["environment"] == compose["services"]["chat-a"]["environment"]
    assert key["volumes"] == compose["services"]["chat-a"]["volumes"]
    [script] = key["command"]
    made = []
    for _ in range(2):
        subprocess.run(
            [*key["entrypoint"], script.replace("/data", str(tmp_path))],
            cwd=tmp_path,
            env=clean_environment(AUTH_MODE="api_key", PATH=f"{Path(sys.executable).parent}:{os.environ['PATH']}"),
            check=True,
            timeout=60,
        )
        made.append((tmp_path / "service.key").read_text())

    assert made[0] == made[1]
    assert PresentedKey.parse(made[0].strip()) is not None
    assert stat.S_IMODE((tmp_path / "service.key").stat().st_mode) == 0o600


def test_the_image_and_the_unit_run_commands_of_the_service(unit: Any, project: Any) -> None:
    arguments = dict(dockerfile())
    started = shlex.split(unit["ExecStart"][0])

    assert is_command([*json.loads(arguments["ENTRYPOINT"]), *json.loads(arguments["CMD"])], project)
    assert is_command([Path(started[0]).name, *started[1:]], project)


def test_a_configuration_that_cannot_be_used_is_not_tried_again(unit: Any) -> None:
    assert unit["RestartPreventExitStatus"] == [f"{USAGE} {UNUSABLE}"]


def test_the_service_has_time_to_stop(unit: Any, instances: Any) -> None:
    grace = Settings.model_fields["shutdown_grace"].default
    assert seconds(unit["TimeoutStopSec"][0]) > longest_shutdown(grace)
    for service in instances.values():
        grace = float(service["environment"]["SHUTDOWN_GRACE"])
        assert seconds(service["stop_grace_period"]) > longest_shutdown(grace)


def test_the_data_of_the_service_is_kept(unit: Any, instances: Any) -> None:
    volume = next(rest for name, rest in dockerfile() if name == "VOLUME")
    assert image_variables()["DATA_DIR"] == volume
    for service in instances.values():
        assert service["environment"]["DATA_DIR"] == volume
        assert any(mount.partition(":")[2] == volume for mount in service["volumes"])
    assert unit["WorkingDirectory"] == [f"/var/lib/{unit['StateDirectory'][0]}"]


def test_only_health_checks_that_exist_are_used(caddyfile: str) -> None:
    paths = create_app(Settings(_env_file=None, openai_base_url="http://127.0.0.1:9/v1")).openapi()["paths"]
    check = next(rest for name, rest in dockerfile() if name == "HEALTHCHECK")
    asked = [*re.findall(r"'(/\w+)'", check), *re.findall(r"health_uri (\S+)", caddyfile)]

    assert asked == ["/livez", "/readyz"]
    assert set(asked) <= set(paths)


def test_requests_reach_the_instances_through_caddy_only(caddyfile: str, compose: Any, instances: Any) -> None:
    default = re.search(r"reverse_proxy \{\$UPSTREAMS:(.+)\} \{", caddyfile)
    site = re.search(r"\{\$SITE::(\d+)\}", caddyfile)
    published = {name: service["ports"] for name, service in compose["services"].items() if "ports" in service}

    assert default is not None
    assert site is not None
    assert default[1].split() == [f"{name}:{service['environment']['PORT']}" for name, service in instances.items()]
    assert list(published) == ["caddy"]
    assert [re.fullmatch(rf"127\.0\.0\.1:\S+:{site[1]}", port) is not None for port in published["caddy"]] == [True]


def test_caddy_closes_idle_connections_before_the_service_does(caddyfile: str) -> None:
    keepalive = re.search(r"keepalive (\S+)", caddyfile)

    assert keepalive is not None
    assert seconds(keepalive[1]) < signature(DrainingServer).parameters["keep_alive"].default


def test_the_password_of_the_database_is_required_and_not_in_the_file(compose: Any, instances: Any) -> None:
    services = [*instances.values(), compose["services"]["postgres"]]
    passwords = [
        value for service in services for name, value in service["environment"].items() if name.endswith("PASSWORD")
    ]

    assert len(passwords) == len(services)
    assert all(re.fullmatch(r"\$\{POSTGRES_PASSWORD:\?.+\}", password) for password in passwords)


def test_the_image_is_built_from_what_the_wheel_needs(project: Any) -> None:
    copied = {
        path
        for name, rest in dockerfile()
        if name == "COPY" and not rest.startswith("--from")
        for path in rest.split()[:-1]
    }
    allowed = {line[1:] for line in (ROOT / ".dockerignore").read_text().splitlines() if line.startswith("!")}
    settings = project["project"]
    wheel = {*project["tool"]["hatch"]["build"]["targets"]["wheel"]["packages"], *settings["license-files"]}

    assert copied == wheel | {settings["readme"], "pyproject.toml", "constraints.txt"}
    assert copied == allowed


def test_the_image_has_an_extra_for_postgresql_and_the_embedded_model_that_the_service_asks_for(project: Any) -> None:
    text = (DEPLOY / "Dockerfile").read_text(encoding="utf-8")
    default = re.search(r"^ARG EXTRAS=(\S+)", text, re.MULTILINE)

    assert default is not None
    assert set(default[1].split(",")) <= set(project["project"]["optional-dependencies"])
    assert local_model._INSTALL_COMMANDS[local_model._MODEL_PACKAGE] in text
