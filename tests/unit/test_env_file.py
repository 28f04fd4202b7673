"""The file `.env`: what is read, and which lines are rejected."""

from pathlib import Path

import pytest

from domain.errors import Unusable
from entrypoints.settings import load_settings
from entrypoints.startup_warnings import startup_warnings
from tests.harness.isolated_settings import isolate_settings


@pytest.fixture(autouse=True)
def clean_environment(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    isolate_settings(monkeypatch, tmp_path)


def test_an_env_file_that_is_not_utf_8_is_rejected_in_one_line() -> None:
    Path(".env").write_bytes("APP_NAME=Büro".encode("latin-1"))

    with pytest.raises(Unusable, match=r"^\.env: [^\n]*UTF-8"):
        load_settings()


def test_an_env_file_with_a_byte_order_mark_is_read() -> None:
    Path(".env").write_text("APP_NAME=Mine\n", encoding="utf-8-sig")

    assert load_settings().app_name == "Mine"
    assert startup_warnings(load_settings()) == []


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ('PORT=1\n\nSYSTEM_PROMPT="Say "canary" first"\n', "line 3 cannot be parsed"),
        ("SYSTEM_PROMPT=Be brief.\nBe canary.\n", "line 2 cannot be parsed"),
        ("SYSTEM_PROMPT=Be brief.\nThanks\n", "line 2 cannot be parsed"),
        ("# canary\r\n\r\nSYSTEM_PROMPT='canary\r\n", "line 3 cannot be parsed"),
        ("SYSTEM_PROMPT=canary in # points\n", "SYSTEM_PROMPT in line 1 would end before its #"),
        ("\nexport system_prompt = canary # points\n", "SYSTEM_PROMPT in line 2 would end before its #"),
        ("SYSTEM_PROMPT= # points\n", "SYSTEM_PROMPT in line 1 would end before its #"),
        ("SYSTEM_PROMPT=#canary # points\n", "SYSTEM_PROMPT in line 1 would end before its #"),
    ],
)
def test_an_env_file_that_would_be_misread_is_rejected_with_the_number_of_the_line(text: str, sentence: str) -> None:
    Path(".env").write_text(text, newline="")

    with pytest.raises(Unusable, match=rf"^\.env: {sentence}; put a value [^\n]* in single quotes$") as rejected:
        load_settings()

    assert "canary" not in str(rejected.value)


@pytest.mark.parametrize(
    ("text", "prompt"),
    [
        ("SYSTEM_PROMPT='Say \"hi\" # now\nor = not # one'  # a comment\n", 'Say "hi" # now\nor = not # one'),
        ('SYSTEM_PROMPT="a = b # c"\n', "a = b # c"),
        ("SYSTEM_PROMPT=#1 rule: write C#\n", "#1 rule: write C#"),
        ("PORT=8000 # a comment\n\n# SYSTEM_PROMPT=no # prompt\nSYSTEM_PROMPT=It's\n", "It's"),
        ("SYSTEM_PROMPT=\n", ""),
    ],
)  # fmt: skip
def test_an_env_file_is_read_as_written(text: str, prompt: str) -> None:
    Path(".env").write_text(text)

    assert load_settings().system_prompt == prompt


@pytest.mark.parametrize("line", ["export PORT", "  export  PORT  ", "export PORT # for the shell", "export OTHER"])
def test_an_export_without_a_value_has_no_effect(line: str, monkeypatch: pytest.MonkeyPatch) -> None:
    Path(".env").write_text(f"{line}\nPORT=1\nAPP_NAME=Mine\n")
    loaded = load_settings()

    assert (loaded.port, loaded.app_name) == (1, "Mine")
    assert startup_warnings(loaded) == []


def test_an_export_that_would_unset_a_setting_is_rejected() -> None:
    Path(".env").write_text("PORT=1\nexport PORT\n")

    with pytest.raises(Unusable, match=r"^\.env: line 2 would unset PORT; remove it$"):
        load_settings()


@pytest.mark.parametrize(
    "text",
    [
        "export OTHER\nDATA_DIR=${OTHER}/canary\n",
        "DATA_DIR=${NO_SUCH_VARIABLE}/canary\n",
        "SYSTEM_PROMPT='Fill in ${canary}.'\n",
    ],
)
def test_a_variable_that_is_not_set_is_rejected_instead_of_left_out(text: str) -> None:
    Path(".env").write_text(f"\n{text}")

    with pytest.raises(
        Unusable, match=r"^\.env: (DATA_DIR|SYSTEM_PROMPT) in line [23] uses a \$\{variable\} that is not set$"
    ):
        load_settings()


def test_variables_of_the_environment_and_of_the_file_are_replaced(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ROOT_OF_TEST", "/of-test")
    Path(".env").write_text(
        "NAME=bot\nDATA_DIR=${ROOT_OF_TEST}/${NAME}\nAPP_NAME=${NO_SUCH_VARIABLE:-Mine}\nOTHER=${NO_SUCH_VARIABLE}\n"
    )
    loaded = load_settings()

    assert (loaded.data_dir, loaded.app_name) == (Path("/of-test/bot"), "Mine")


def test_an_unknown_key_in_the_env_file_is_not_an_error() -> None:
    Path(".env").write_text("OPENAI_MODLE=canary\nPORT=1\n")

    assert load_settings().port == 1
