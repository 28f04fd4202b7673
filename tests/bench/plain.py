"""The yardstick "plain": what one writes in an afternoon. FastAPI, the SDK's typed stream, a list for a memory."""

import json
import os
from collections.abc import AsyncIterator

from fastapi import FastAPI
from fastapi.responses import StreamingResponse
from openai import AsyncOpenAI
from pydantic import BaseModel

app = FastAPI()
_client = AsyncOpenAI(base_url=os.environ["OPENAI_BASE_URL"], api_key="bench")
_memory: dict[str, list[tuple[str, str]]] = {}


class Ask(BaseModel):
    user_id: str
    message: str


@app.post("/api/chat")
async def chat(ask: Ask) -> StreamingResponse:
    return StreamingResponse(_reply(ask), media_type="text/event-stream")


async def _reply(ask: Ask) -> AsyncIterator[str]:
    texts = []
    chunks = await _client.chat.completions.create(
        model="bench",
        messages=[{"role": "user", "content": ask.message}],
        temperature=0.7,
        max_tokens=1000,
        stream=True,
    )
    async for chunk in chunks:
        if chunk.choices and (text := chunk.choices[0].delta.content):
            texts.append(text)
            yield f"data: {json.dumps({'content': text, 'done': False})}\n\n"
    _memory.setdefault(ask.user_id, []).append((ask.message, "".join(texts)))
    del _memory[ask.user_id][:-10]
    yield f"data: {json.dumps({'content': '', 'done': True})}\n\ndata: [DONE]\n\n"
