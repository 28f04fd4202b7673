"""OpenAI's libraries, and others on the same API, chat with the programs of the guide against a running service."""

import re
import sys
from pathlib import Path

from tests.harness.client_tools import node22, python_clients
from tests.harness.commands import run
from tests.harness.documents import ROOT, files_of
from tests.harness.fakes import ScriptedLLM
from tests.harness.node_tools import link_packages
from tests.harness.servers import Service, running_service

FILES = files_of(ROOT / "docs" / "openai-clients.md")
BOTH = ["Hello, world! stop", "Hello, world! 14 tokens"]
LIBRARY = [*BOTH, "Hello, world! turn UUID", "model_not_found"]
REPLY = "Hello, world!"


def save(name: str, service: Service, directory: Path) -> Path:
    """Write a file of the guide, for this service."""
    path = directory / name
    path.write_text(FILES[name].replace("http://localhost:8000", service.url))
    return path


async def printed(*command: str | Path, directory: Path, **environment: str) -> list[str]:
    status, output, errors = await run(*command, directory=directory, **environment)
    assert status == 0, errors
    return re.sub("[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}", "UUID", output).splitlines()


async def stored(service: Service, chat: str, user: str = "user123") -> list[tuple[str, str]]:
    response = await service.client.get(f"/api/chat/history/{user}?conversation_id={chat}")
    return [(turn["user_message"], turn["assistant_response"]) for turn in response.json()["history"]]


async def test_the_library_for_python(tmp_path: Path) -> None:
    async with running_service({"llm": (llm := ScriptedLLM())}) as service:
        program = save("openai-python.py", service, tmp_path)
        assert LIBRARY == await printed(sys.executable, program, directory=tmp_path)
        assert [("Hello", REPLY), ("Hello again", REPLY)] == await stored(service, "python")

    assert [None, 0, None] == [options.temperature for options in llm.options]


async def test_the_library_for_javascript(tmp_path: Path) -> None:
    link_packages(tmp_path)
    async with running_service({"llm": (llm := ScriptedLLM())}) as service:
        program = save("openai-node.mjs", service, tmp_path)
        assert LIBRARY == await printed(node22(), program, directory=tmp_path)
        assert [("Hello", REPLY), ("Hello again", REPLY)] == await stored(service, "node")

    assert [None, 0, None] == [options.temperature for options in llm.options]


async def test_langchain(tmp_path: Path) -> None:
    async with running_service({"llm": (llm := ScriptedLLM())}) as service:
        program = save("langchain_openai.py", service, tmp_path).rename(tmp_path / "program.py")
        assert BOTH == await printed(python_clients("python"), program, directory=tmp_path)
        assert [("Hello", REPLY), ("Hello again", REPLY)] == await stored(service, "langchain")

    assert [500, 500] == llm.max_tokens


async def test_the_ai_sdk(tmp_path: Path) -> None:
    link_packages(tmp_path)
    async with running_service({"llm": ScriptedLLM()}) as service:
        program = save("ai-sdk.mjs", service, tmp_path)
        assert BOTH == await printed(node22(), program, directory=tmp_path)
        assert [("Hello", REPLY), ("Hello again", REPLY)] == await stored(service, "ai-sdk")


async def test_the_command_llm(tmp_path: Path) -> None:
    async with running_service({"llm": ScriptedLLM()}) as service:
        save("extra-openai-models.yaml", service, tmp_path)
        for question in (("Hello",), ("-c", "Hello again")):
            command = (python_clients("llm"), "-m", "chatbot", *question)
            assert [REPLY] == await printed(*command, directory=tmp_path, LLM_USER_PATH=str(tmp_path))
        assert [("Hello", REPLY), ("Hello again", REPLY)] == await stored(service, "llm", "openai-api")


async def test_node_is_as_new_as_the_guide_says(tmp_path: Path) -> None:
    [version] = await printed(node22(), "--version", directory=tmp_path)

    assert int(version.removeprefix("v").partition(".")[0]) >= 22
