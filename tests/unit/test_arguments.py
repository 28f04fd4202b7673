"""The arguments of the command: options for settings, and what is said if they are wrong."""

import argparse

import pytest

from entrypoints.cli.arguments import parse
from entrypoints.cli.setting_options import settings_in
from entrypoints.exit_status import USAGE
from entrypoints.settings import Settings, is_secret, option_of

COMMANDS = ("serve", "chat", "migrate", "backup", "copy", "keys", "check")

SECRETS = {
    "openai_api_key",
    "mem0_api_key",
    "mem0_vector_store",
    "auth_jwt_secret",
    "database_url",
    "log_pseudonym_key",
}


def parsed(*arguments: str) -> argparse.Namespace:
    return parse({name: lambda _: 0 for name in COMMANDS}, arguments)


def refusal(capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    with pytest.raises(SystemExit) as exited:
        parsed(*arguments)
    assert exited.value.code == USAGE
    (line,) = capsys.readouterr().err.splitlines()
    return line


def test_secrets_are_the_settings_that_are_not_shown() -> None:
    assert {name for name in Settings.model_fields if is_secret(name)} == SECRETS


def test_every_other_setting_is_an_option_of_serve() -> None:
    names = Settings.model_fields.keys() - SECRETS
    options = [argument for name in names for argument in (option_of(name), f"value of {name}")]

    assert settings_in(parsed("serve", *options)) == {name: f"value of {name}" for name in names}


def test_options_that_are_not_given_leave_the_settings_alone() -> None:
    assert settings_in(parsed("serve")) == {}


def test_an_option_without_a_value_switches_on() -> None:
    options = parsed("serve", "--debug", "--docs", "false", "--strict-fields")

    assert settings_in(options) == {"debug": "true", "docs": "false", "strict_fields": "true"}


@pytest.mark.parametrize("name", sorted(SECRETS))
@pytest.mark.parametrize("separator", [" ", "="])
def test_a_secret_is_refused_with_the_reason(name: str, separator: str, capsys: pytest.CaptureFixture[str]) -> None:
    line = refusal(capsys, "serve", *f"{option_of(name)}{separator}canary".split(" "))

    assert "other users of this machine can see the options of a command" in line
    assert f"set {name.upper()} in the environment" in line
    assert "canary" not in line


@pytest.mark.parametrize("name", ["openai_base_url", "mem0_host", "auth_jwks_url"])
def test_a_url_with_a_user_is_refused(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    line = refusal(capsys, "serve", option_of(name), "https://ann:canary@host/v1")

    assert line.startswith(f"smart-chatbot serve: {option_of(name)} with a user in its URL is refused")
    assert "canary" not in line


@pytest.mark.parametrize(
    ("arguments", "beginning"),
    [
        (["sevre"], "smart-chatbot: there is no such command; did you mean serve?"),
        (["canary"], "smart-chatbot: there is no such command; see: "),
        ([], "smart-chatbot: name a command: serve, chat, migrate, backup, copy, keys, check; see: "),
        (["serve", "--prot", "canary"], "smart-chatbot serve: there is no option --prot; did you mean --port?"),
        (["serve", "--prot=canary"], "smart-chatbot serve: there is no option --prot; did you mean --port?"),
        (["serve", "--root_path", "/"], "smart-chatbot serve: there is no option --root_path; did you mean --root-"),
        (["serve", "--zzz"], "smart-chatbot serve: there is no option --zzz; see: "),
        (["serve", "-canary=x y"], "smart-chatbot serve: there is no option -canary"),
        (["serve", "--\x1b[31m"], "smart-chatbot serve: an argument that begins with - is no option"),
        (["serve", "canary"], "smart-chatbot serve: there is an unexpected argument"),
        (["serve", "--ope", "x"], "smart-chatbot serve: there is no option --ope"),
        (["serve", "--workers", "0"], "smart-chatbot serve: argument --workers: must be a number from 1 to 64"),
        (["serve", "--port"], "smart-chatbot serve: argument --port: expected one argument"),
        (["chat", "--ulr", "x"], "smart-chatbot chat: there is no option --ulr; did you mean --url?"),
        (["backup"], "smart-chatbot backup: the following arguments are required: FILE"),
        (["copy", "postgresql://ann:secret@host/x"], "smart-chatbot copy: there is an unexpected argument"),
        (["keys", "create", "--nmae", "x", "--role", "admin"],
         "smart-chatbot keys create: there is no option --nmae; did you mean --name?"),
    ],
)  # fmt: skip
def test_wrong_arguments_are_answered_with_one_sentence(
    arguments: list[str], beginning: str, capsys: pytest.CaptureFixture[str]
) -> None:
    line = refusal(capsys, *arguments)

    assert line.startswith(beginning)
    assert "secret" not in line
    assert line.isprintable()


@pytest.mark.parametrize("command", ["serve", "chat"])
def test_the_help_has_examples(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit, match=r"^0$"):
        parsed(command, "--help")

    assert f"Examples:\n  smart-chatbot {command}" in capsys.readouterr().out


def test_the_help_of_serve_shows_defaults_and_no_secrets(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit, match=r"^0$"):
        parsed("serve", "--help")
    output = " ".join(capsys.readouterr().out.split())

    assert "--port PORT Port to listen on; 0 picks a free port. (default: 8000)" in output
    assert "--openai-api-key" not in output


def test_the_version_is_printed(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as exited:
        parsed("--version")
    assert not exited.value.code

    assert capsys.readouterr().out.startswith("smart-chatbot 0.")
