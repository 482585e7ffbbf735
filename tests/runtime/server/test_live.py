"""The page at `/`, in a browser."""

from __future__ import annotations

import asyncio

from plait.tests.browser import browser

from .conftest import serving


async def test_the_page_shows_jobs_and_their_threads():
    async with serving("ann secret") as served:

        def look():
            with browser() as page:
                page.call("Page.navigate", url=served.url)
                shown = "new Promise(async (done) => {{ for (let i = 0; i < 200; i++) {{ if ({}) return done(true); "
                shown += "await new Promise((next) => setTimeout(next, 50)); }} done(false); }})"
                refused = page.evaluate(
                    shown.format("document.getElementById('problem')?.textContent.includes('API key')")
                )
                page.evaluate("document.getElementById('key').value = 'secret'")
                seen = page.evaluate(shown.format("document.querySelectorAll('.thread').length > 3"))
                texts = page.evaluate("[...document.querySelectorAll('.thread .text')].map((one) => one.textContent)")
                model = page.evaluate("document.getElementById('model').textContent")
                outside = [line for line in page.problems if "request to" in line and served.url not in line]
                return refused, seen, texts, model, outside

        async with served.http("secret") as http:
            apr = {"method": "apr", "prompt": "apr 24 : 9 8 7 2 ;", "dialect": "compact"}
            id = (await http.post("/v1/jobs", json={"method": apr})).json()["id"]
            refused, seen, texts, model, outside = await asyncio.to_thread(look)
            await served.service.works[id].wait()
    assert refused and seen
    assert any(texts)
    assert model == "countdown"
    assert outside == []
