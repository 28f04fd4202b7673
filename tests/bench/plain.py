"""The baseline "plain": a typical first version with FastAPI, the typed stream of the SDK and a list as history."""

import json
import os
from collections.abc import AsyncIterator

from fastapi import FastAPI
from fastapi.responses import StreamingResponse
from openai import AsyncOpenAI
from pydantic import BaseModel

app = FastAPI()
_client = AsyncOpenAI(base_url=os.environ["OPENAI_BASE_URL"], api_key="bench")
_history: dict[str, list[tuple[str, str]]] = {}


class ChatRequest(BaseModel):
    user_id: str
    message: str


@app.post("/api/chat")
async def chat(request: ChatRequest) -> StreamingResponse:
    return StreamingResponse(_reply(request), media_type="text/event-stream")


async def _reply(request: ChatRequest) -> AsyncIterator[str]:
    deltas = []
    chunks = await _client.chat.completions.create(
        model="bench",
        messages=[{"role": "user", "content": request.message}],
        temperature=0.7,
        max_tokens=1000,
        stream=True,
    )
    async for chunk in chunks:
        if chunk.choices and (delta := chunk.choices[0].delta.content):
            deltas.append(delta)
            yield f"data: {json.dumps({'content': delta, 'done': False})}\n\n"
    _history.setdefault(request.user_id, []).append((request.message, "".join(deltas)))
    del _history[request.user_id][:-10]
    yield f"data: {json.dumps({'content': '', 'done': True})}\n\ndata: [DONE]\n\n"
