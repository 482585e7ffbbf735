"""Names of the Hugging Face hub, against a small hub on the loopback interface and against a cache."""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import unquote, urlsplit

import pytest
from hypothesis import given
from hypothesis import strategies as st

from plait import UnknownModel
from plait.runtime.engines.hub import HubName
from plait.runtime.engines.registry import find_model

SHA, OLD = "a" * 40, "b" * 40
WEIGHTS = b"not really " * 1000
REPOS = {
    "org/model": {
        "config.json": b"{}",
        "model.safetensors": WEIGHTS,
        "tokenizer.json": b"{}",
        "chat_template.jinja": b"hi",
        "README.md": b"words",
        "pytorch_model.bin": WEIGHTS,
        "consolidated.safetensors": WEIGHTS,
        "original/params.json": b"{}",
    },
    "org/quants": {"m-Q4_0.gguf": b"GGUF four", "m-Q8_0.gguf": b"GGUF eight", "README.md": b"words"},
    "org/split": {f"big/m-0000{i}-of-00002.gguf": b"GGUF part" for i in (1, 2)},
    "org/gated": {"config.json": b"{}"},
    "org/images": {"cat.png": b"cat"},
}


class Hub(BaseHTTPRequestHandler):
    """The part of the hub's API that fetching a model uses."""

    asked: list[str] = []
    slow = False

    def log_message(self, *arguments):
        pass

    def do_HEAD(self):
        self.do_GET()

    def do_GET(self):
        path = unquote(urlsplit(self.path).path).strip("/")
        self.asked.append(f"{self.command} {path}")
        if path.startswith("api/models/"):
            org, name, *rest = path.removeprefix("api/models/").split("/")
            self._api(f"{org}/{name}", rest)
        elif "/resolve/" not in path:
            self._error(404, "EntryNotFound")
        else:
            org, name, _, _, *file = path.split("/")
            data = REPOS[f"{org}/{name}"]["/".join(file)]
            self._send(data, {"ETag": f'"{hashlib.sha1(data).hexdigest()}"', "X-Repo-Commit": SHA})

    def _api(self, repo, rest):
        if repo not in REPOS:
            self._error(404, "RepoNotFound")
        elif repo == "org/gated" and rest[:1] == ["tree"]:
            self._error(403, "GatedRepo")
        elif rest[:1] == ["revision"] and rest[1] not in ("main", "v1", SHA):
            self._error(404, "RevisionNotFound")
        elif rest[:1] == ["tree"]:
            files = [
                {"type": "file", "path": n, "size": len(d), "oid": hashlib.sha1(d).hexdigest()}
                for n, d in REPOS[repo].items()
            ]
            self._send(json.dumps(files).encode())
        else:
            siblings = [{"rfilename": name} for name in REPOS[repo]]
            self._send(json.dumps({"id": repo, "sha": SHA, "siblings": siblings, "private": False}).encode())

    def _error(self, status, code):
        self._send(b"{}", {"X-Error-Code": code, "X-Error-Message": code}, status)

    def _send(self, data, headers=None, status=200):
        self.send_response(status)
        for name, value in {"Content-Length": str(len(data)), **(headers or {})}.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command == "HEAD":
            return
        for at in range(0, len(data), 1 << 20):
            self.wfile.write(data[at : at + (1 << 20)])
            if self.slow:
                time.sleep(0.2)


@pytest.fixture(scope="module")
def hub():
    server = ThreadingHTTPServer(("127.0.0.1", 0), Hub)
    server.daemon_threads = True
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    thread.join()
    server.server_close()


CODE = """
import sys
from plait.runtime.engines.registry import find_model
from plait.runtime.errors import UnknownModel
try:
    found = find_model(sys.argv[1])
    print(found.path, found.name, sep="\\n")
except UnknownModel as error:
    print("refused", error, sep="\\n")
"""


def ask(name, home, endpoint, code=CODE, **variables):
    """(path, name) or ("refused", message), found by a process of its own: the library reads its variables once."""
    environment = {key: value for key, value in os.environ.items() if not key.startswith("HF_")}
    environment |= {"HF_HOME": str(home), "HF_ENDPOINT": endpoint, "HF_HUB_DISABLE_TELEMETRY": "1", **variables}
    run = subprocess.run([sys.executable, "-c", code, name], env=environment, capture_output=True, text=True)
    assert run.returncode == 0 and "Fetching" not in run.stderr, run.stderr  # bars are for terminals
    first, _, rest = run.stdout.strip().partition("\n")
    return first, rest


def test_a_model_is_fetched_once_and_then_found_without_the_hub(hub, tmp_path):
    first, name = ask("org/model", tmp_path, hub)
    assert name == "org/model"
    folder = Path(first)
    assert (folder / "model.safetensors").read_bytes() == WEIGHTS
    assert {path.name for path in folder.iterdir()} == {
        "config.json",
        "model.safetensors",
        "tokenizer.json",
        "chat_template.jinja",
    }
    Hub.asked.clear()
    assert ask("org/model", tmp_path, hub) == (first, name)
    assert not [line for line in Hub.asked if "resolve" in line]
    Hub.asked.clear()
    assert ask("org/model", tmp_path, hub, HF_HUB_OFFLINE="1") == (first, name)
    assert not Hub.asked
    assert ask("org/model", tmp_path, "http://127.0.0.1:9") == (first, name)  # nobody answers there


def test_revisions(hub, tmp_path):
    path, name = ask("org/model@v1", tmp_path, hub)
    assert name == "org/model@v1" and path.endswith(SHA)
    kind, message = ask("org/model@v9", tmp_path, hub)
    assert kind == "refused" and "org/model has no revision 'v9'" in message


def test_gguf_files_in_a_repository(hub, tmp_path):
    path, name = ask("org/quants:m-Q4_0.gguf", tmp_path, hub)
    assert Path(path).read_bytes() == b"GGUF four" and name == "org/quants:m-Q4_0.gguf"
    assert not list(Path(path).parent.glob("*Q8*"))
    assert ask("org/quants:*Q8_0*", tmp_path, hub)[0].endswith("m-Q8_0.gguf")
    for wrong, part in {
        "org/quants": "name one of them, org/quants:FILE (m-Q4_0.gguf, m-Q8_0.gguf)",
        "org/quants:m-Q5.gguf": "holds no GGUF file m-Q5.gguf; it holds m-Q4_0.gguf, m-Q8_0.gguf",
        "org/quants:*.gguf": "means several files: m-Q4_0.gguf, m-Q8_0.gguf",
    }.items():
        kind, message = ask(wrong, tmp_path, hub)
        assert kind == "refused" and part in message


def test_a_split_file_is_found_by_its_first_part(hub, tmp_path):
    path, _ = ask("org/split:big/*.gguf", tmp_path, hub)
    assert path.endswith("m-00001-of-00002.gguf")
    assert Path(path.replace("00001-of", "00002-of")).is_file()


@pytest.mark.parametrize(
    ("name", "parts"),
    [
        ("org/nothing", ["no model 'org/nothing'", "no such folder", "if it is private", "HF_TOKEN"]),
        ("org/gated", ["gated", "accept its terms at", "/org/gated", "hf auth login"]),
        ("org/images", ["holds no model that plait can read"]),
    ],
)
def test_what_the_hub_does_not_give(name, parts, hub, tmp_path):
    kind, message = ask(name, tmp_path, hub)
    assert kind == "refused" and "\n" not in message
    for part in parts:
        assert part in message


def test_without_the_hub(tmp_path):
    kind, message = ask("org/model", tmp_path, "http://127.0.0.1:9")
    assert kind == "refused" and "http://127.0.0.1:9 cannot be reached" in message
    kind, message = ask("org/model", tmp_path, "http://127.0.0.1:9", HF_HUB_OFFLINE="1")
    assert kind == "refused" and "HF_HUB_OFFLINE is set" in message and "hf download org/model" in message


STOPPED = """
import asyncio, sys, time
import plait
async def main():
    task = asyncio.create_task(plait.Runtime(sys.argv[1]).__aenter__())
    await asyncio.sleep(3)
    began = time.monotonic()
    task.cancel()
    try:
        await task
    except asyncio.CancelledError:
        print("cancelled", time.monotonic() - began, sep="\\n")
asyncio.run(main())
"""


def test_a_download_can_be_cancelled(hub, tmp_path, monkeypatch):
    monkeypatch.setattr(Hub, "slow", True)
    monkeypatch.setitem(REPOS["org/model"], "model.safetensors", bytes(100 << 20))  # 20 seconds of it
    kind, seconds = ask("org/model", tmp_path, hub, STOPPED)
    assert kind == "cancelled" and float(seconds) < 8  # the library takes 10 MB at a time
    assert not list(tmp_path.rglob("snapshots/*/model.safetensors"))


@pytest.mark.parametrize(
    ("name", "parsed"),
    [
        ("Qwen/Qwen2.5-0.5B-Instruct", HubName("Qwen/Qwen2.5-0.5B-Instruct")),
        ("a/b@refs/pr/1", HubName("a/b", "refs/pr/1")),
        ("a/b@v1:x/y.gguf", HubName("a/b", "v1", "x/y.gguf")),
        ("a/b:*q4_k_m*", HubName("a/b", None, "*q4_k_m*")),
        ("models/mine.gguf", None),
        ("model", None),
        ("./a/b", None),
        ("../b", None),
        ("/a/b", None),
        ("a/b/c", None),
        ("telepathy:a/b", None),
        ("a/b:", None),
    ],
)
def test_names(name, parsed):
    assert HubName.parse(name) == parsed
    assert parsed is None or str(parsed) == name


@given(st.text())
def test_any_text_is_a_name_or_none(text):
    name = HubName.parse(text)
    assert name is None or str(name) == text


def test_folders_and_files_go_before_the_hub(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "org/model").mkdir(parents=True)
    (tmp_path / "org/file.gguf").write_bytes(b"GGUF")
    (tmp_path / "countdown").mkdir()
    assert find_model("org/model").path == Path("org/model")
    assert find_model("org/file.gguf").name == "file.gguf"
    assert find_model("countdown").path.is_absolute()  # the shipped one
    for name in ("org/none.gguf", Path("some/folder"), "nothing"):
        with pytest.raises(
            UnknownModel, match="not a shipped model .*, not a folder or GGUF file, not a name of the hub"
        ):
            find_model(name)
    (tmp_path / "x.bin").touch()
    with pytest.raises(UnknownModel, match="x.bin is not a folder, nor a GGUF file"):
        find_model("x.bin")
