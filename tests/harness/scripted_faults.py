"""The faults of the scripted upstream. The name of the model selects one; any other name gets an ordinary reply.

A name may end in numbers: `rst-3` resets the connection after three chunks, `tokens-100-20` sends 100 chunks, one every
20 ms, `echo-3-20` 3 chunks that name the message, `503-1` fails once and then replies, `context-2000` rejects prompts
of more than 2,000 characters, `window-4096` prompts that leave no room for the reply in 4,096 tokens.
"""

import asyncio
import json
import re
import sys
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from tests.harness.scripted_upstream import Call

Fault = Callable[["Call"], Awaitable[None]]
FAULTS: dict[str, Fault] = {}


def find(model: str) -> tuple[Fault, list[int]]:
    """Return the fault and the numbers in the name of a model; `reply` if it names no fault."""
    name, numbers = model, list[int]()
    while name not in FAULTS and (found := re.fullmatch(r"(.+)-(\d+)", name)):
        name, numbers = found[1], [int(found[2]), *numbers]
    return FAULTS.get(name, reply), numbers


def fault(*names: str) -> Callable[[Fault], Fault]:
    def add(function: Fault) -> Fault:
        FAULTS.update(dict.fromkeys(names, function))
        return function

    return add


async def reply(call: "Call") -> None:
    call.begin()
    await call.deltas()
    call.end()


@fault("tokens")
async def tokens(call: "Call") -> None:
    call.begin()
    await asyncio.sleep(call.number(2, 0) / 1000)
    await call.deltas(call.number(0, 100), call.number(1, 0) / 1000)
    call.end()


def echoed(message: str, count: int) -> list[str]:
    """Return the deltas of the model `echo-<count>`, which name the message, so that no two replies are alike."""
    return [f"{message}.{number} " for number in range(count)]


@fault("echo")
async def echo(call: "Call") -> None:
    call.begin()
    for delta in echoed(call.request.body["messages"][-1]["content"], call.number(0, 3)):
        await asyncio.sleep(call.number(1, 0) / 1000)
        await call.writable.wait()
        call.chunk({"content": delta})
    call.end()


@fault("slow")
async def slow(call: "Call") -> None:
    call.begin()
    await call.deltas(sys.maxsize, call.number(0, 100) / 1000)


@fault("endless")
async def endless(call: "Call") -> None:
    call.begin()
    await call.deltas(sys.maxsize)


@fault("empty")
async def empty(call: "Call") -> None:
    call.begin()
    call.end()


@fault("len", "content_filter", "nousage", "twousage", "nodone", "nodone-bare", "finishonly", "ownreason")
async def unusual_end(call: "Call") -> None:
    call.begin()
    await call.deltas()
    name = call.request.body["model"]
    finish = {
        "len": "length",
        "content_filter": "content_filter",
        "nodone": None,
        "nodone-bare": None,
        "ownreason": "reason of the vendor",
    }.get(name, "stop")
    usages = {"twousage": 2, "len": 1, "content_filter": 1}.get(name, 0)
    call.end(finish, usages=usages, done=name not in ("nodone-bare", "finishonly"))


@fault("afterdone", "afterfinish")
async def stays_open(call: "Call") -> None:
    call.begin()
    await call.deltas()
    call.chunk({}, "stop")
    if call.request.body["model"] == "afterdone":
        call.send(b"data: [DONE]\n\n")
    await call.hang()


@fault("hanghead")
async def hanghead(call: "Call") -> None:
    await call.hang()


@fault("latehead")
async def latehead(call: "Call") -> None:
    await asyncio.sleep(call.number(0, 200) / 1000)
    await reply(call)


@fault("closehead")
async def closehead(call: "Call") -> None:
    call.transport.close()


@fault("garbage")
async def garbage(call: "Call") -> None:
    call.transport.write(b"220 mail.example ESMTP " + call.request.headers["authorization"].encode() + b"\r\n\r\n")


@fault("hang", "rst", "fin")
async def cut(call: "Call") -> None:
    call.begin()
    await call.deltas(call.number(0, 0))
    if call.request.body["model"].startswith("hang"):
        await call.hang()
    call.transport.write(b"ff\r\ndata: {" if call.request.body["model"].startswith("fin") else b"")
    await asyncio.sleep(0.05)  # so that the data arrives before the end of the connection
    call.reset() if call.request.body["model"].startswith("rst") else call.transport.close()


@fault("err", "named-err")
async def err(call: "Call") -> None:
    call.begin()
    await call.deltas(call.number(0, 0))
    name = b"event: error\n" if call.request.body["model"].startswith("named") else b""
    error = {"message": call.secret_reason, "type": "server_error", "code": call.upstream.error_code}
    call.send(name + b"data: " + json.dumps(error if name else {"error": error}).encode() + b"\n\n")
    call.send(b"")


@fault("badjson", "badshape", "bigline")
async def invalid(call: "Call") -> None:
    call.begin()
    await call.deltas(call.number(0, 2))
    if call.request.body["model"].startswith("bigline"):
        call.send(b'data: {"choices": [{"index": 0, "delta": {"content": "')
        for _ in range(30):
            await call.writable.wait()
            call.send(b"x" * 1_000_000)
    call.send(b"data: [1]\n\n" if call.request.body["model"].startswith("badshape") else b"data: {not json\n\n")
    call.end()


@fault("html")
async def html(call: "Call") -> None:
    call.respond(200, "<html>maintenance</html>", "text/html")


@fault("unicode")
async def unicode(call: "Call") -> None:
    call.begin()
    for text in call.upstream.nasty_texts:
        lone = any("\ud800" <= letter <= "\udfff" for letter in text)
        event = call.event({"choices": [{"index": 0, "delta": {"content": text}, "finish_reason": None}]}, ascii=lone)
        for start in range(0, len(event), 7):
            call.send(event[start : start + 7])
            await asyncio.sleep(0)
    call.end()


@fault("status")
async def status(call: "Call") -> None:
    call.reject(call.number(0, 500), call.secret_reason)


@fault("endless-refusal")
async def endless_refusal(call: "Call") -> None:
    call.head(500, "text/plain", transfer_encoding="chunked")
    while True:
        await asyncio.sleep(0)
        await call.writable.wait()
        call.send(b"x" * 1000)


@fault("500", "502", "503")
async def failing(call: "Call") -> None:
    if call.numbers and call.times() > call.numbers[0]:
        return await reply(call)
    return call.reject(int(call.request.body["model"][:3]), call.secret_reason)


@fault("429")
async def limited(call: "Call") -> None:
    if call.numbers and call.numbers[0] < 5 and call.times() > 1:
        return await reply(call)
    return call.reject(429, "slow down", "rate_limit_exceeded", retry_after=str(call.number(0, 1)))


@fault("401", "403")
async def unauthorised(call: "Call") -> None:
    key = call.request.headers["authorization"]
    call.reject(int(call.request.body["model"]), f"Incorrect API key provided: {key}", "invalid_api_key")


@fault("context")
async def context(call: "Call") -> None:
    size = sum(len(message["content"]) for message in call.request.body["messages"])
    if size <= call.number(0, 0):
        return await reply(call)
    return call.reject(
        400, f"Maximum context length is {call.number(0, 0)}; you sent {size}.", "context_length_exceeded", "messages"
    )


@fault("window", "terse-window", "uncounted-window")
async def window(call: "Call") -> None:
    """A window of so many tokens for prompt and reply. The terse one does not name sizes, the last reports no usage."""
    from tests.harness.tokenizer import o200k, prompt_size

    body, size = call.request.body, call.number(0, 4096)
    prompt, limit = prompt_size(body["messages"]), body["max_tokens"]
    if prompt + limit > size:
        message = (
            f"This model's maximum context length is {size} tokens. However, you requested {prompt + limit} tokens "
            f"({prompt} in the messages, {limit} in the completion). Please reduce the length of the messages."
        )
        terse = not body["model"].startswith("window")
        return call.reject(400, "Too long." if terse else message, "context_length_exceeded", "messages")
    call.begin()
    await call.deltas()
    call.chunk({}, "stop")
    if not body["model"].startswith("uncounted"):
        usage = {"prompt_tokens": prompt, "completion_tokens": o200k("".join(call.upstream.texts))}
        call.send(call.event({"choices": [], "usage": usage}))
    return call.end(None, usages=0)


@fault("refuses-max-tokens", "refuses-temperature", "refuses-usage", "refuses-everything")
async def refuses(call: "Call") -> None:
    name = call.request.body["model"]
    refused = {"max-tokens": ["max_tokens"], "temperature": ["temperature"], "usage": ["stream_options"]}
    for parameter in refused.get(name.removeprefix("refuses-"), ["max_tokens", "temperature", "stream_options"]):
        if parameter in call.request.body:
            return call.reject(400, f"Unsupported parameter: {parameter}", "unsupported_parameter", parameter)
    return await reply(call)


@fault("refuses-small-limits")
async def refuses_small_limits(call: "Call") -> None:
    if call.request.body.get("max_tokens", 16) < 16:
        return call.reject(400, "max_tokens must be at least 16", "invalid_value", "max_tokens")
    return await reply(call)


@fault("refuses-both")
async def refuses_both(call: "Call") -> None:
    if {"temperature", "top_p"} <= call.request.body.keys():
        return call.reject(400, "`temperature` and `top_p` cannot both be specified. Please use only one.")
    return await reply(call)


@fault("redirect")
async def redirect(call: "Call") -> None:
    port = call.number(0, 9)
    call.respond(307, {}, location=f"http://127.0.0.1:{port}/v1/chat/completions")
