"""Every curl line of docs/server.md works."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import plait

from .test_jobs import ended

PAGE = Path(plait.__file__).parent / "docs" / "server.md"


async def test_every_example_works(served):
    lines = re.sub(r" \\\n *", " ", PAGE.read_text())
    found = re.findall(r"^curl (.*(?:\n +\"method\".*)?)$", lines, re.MULTILINE)
    assert len(found) == 17
    id = ""
    async with served.http() as http:
        for text in found:
            words = shlex.split(text.replace("$ID", id), comments=True)
            url = next(word for word in words if word.startswith("http://")).removeprefix("http://127.0.0.1:8000")
            data = words[words.index("-d") + 1] if "-d" in words else None
            headers = dict(words[i + 1].split(": ") for i, word in enumerate(words) if word == "-H")
            method = "DELETE" if "DELETE" in words else "POST" if data else "GET"
            if url.endswith("/result"):
                await ended(http, id)
            answer = await http.request(method, url, content=data, headers=headers)
            assert answer.status_code in (200, 202), (text, answer.text)
            if url == "/v1/jobs" and data:
                id = answer.json()["id"]
