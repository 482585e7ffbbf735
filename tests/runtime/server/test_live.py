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


HOSTILE = "</script><script>document.title='broken'</script><img src=x onerror=\"document.title='broken'\">"


async def test_texts_stay_texts():
    """Names, prompts and errors that are HTML come to the page as what they are."""
    async with serving("ann secret") as served:
        async with served.http("secret") as http:
            job = {"method": "sequential", "prompt": HOSTILE, "max_tokens": 4, "stop": [HOSTILE]}
            body = {"method": job, "metadata": {HOSTILE: HOSTILE}}
            answer = await http.post("/v1/jobs", json=body)
            assert answer.status_code < 300, answer.text
            id = answer.json()["id"]

            def look():
                with browser() as page:
                    page.call("Page.navigate", url=served.url)
                    wait = "new Promise((next) => setTimeout(next, {}))"
                    page.evaluate(wait.format(1000))
                    page.evaluate("document.getElementById('key').value = 'secret'")
                    page.evaluate(wait.format(3000))
                    scripts = page.evaluate("document.querySelectorAll('img[src=x]').length")
                    return page.evaluate("document.title"), scripts, page.evaluate("document.body.textContent")

            title, images, text = await asyncio.to_thread(look)
            await served.service.works[id].wait()
    assert title != "broken" and images == 0
    assert "sequential" in text or id in text
