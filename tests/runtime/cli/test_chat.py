"""`plait chat` by a pipe and by a pseudo-terminal, on a scripted model."""

from __future__ import annotations

import os
import pty
import re
import select
import signal
import subprocess
import sys
import time

import pytest

from plait import InvalidInput
from plait.runtime.cli.options import method_of, parse_field

CODE = r"""
import argparse, sys
import plait
from plait.runtime.cli import chat
from plait.runtime.cli.exit_status import exit_status

def write(context):
    last = context.split("<user>")[-1].split("\n")[0]
    if last == "long":
        return "endless " * 100000
    if last == "steer":
        return "\x1b]0;title\x07\x1b[2J"
    return f"[{context.count('<user>')}] you said {last}" if "<user>" in context else f"after {context!r}"

def load(rest, options):
    engine = plait.ScriptedEngine(write, seconds_per_token=0.002, context_limit=300 if rest == "short" else 1000000)
    if rest == "plain":
        def chat(messages):
            raise plait.InvalidInput("this model's tokenizer has no chat template")
        engine.tokenizer.chat = chat
    return engine

plait.register_scheme("script", load)
parser = argparse.ArgumentParser()
chat.add_arguments(parser)
sys.exit(exit_status(lambda: chat.run(parser.parse_args(sys.argv[1:]))))
"""


def piped(text, *arguments):
    run = subprocess.run(
        [sys.executable, "-c", CODE, *arguments], input=text, capture_output=True, text=True, timeout=60
    )
    return run.returncode, run.stdout, run.stderr


def test_a_conversation_through_a_pipe():
    code, out, err = piped("hello\n  \nand\n/reset \nagain\n/what\n /quit\nnever\n", "script:x")
    assert code == 0
    assert out.splitlines() == ["[1] you said hello", "[2] you said and", "[1] you said again"]
    assert err.splitlines() == ["forgotten", "/reset forgets the conversation, /quit ends it, Ctrl-C stops an answer"]


def test_lines_of_other_systems_and_none_at_all():
    lines = b"\xef\xbb\xbfhello\r\n\xff\xfe\r\n\r\n/reset\r\nh\xc3\xa9\r\n/quit\r\nnever\r\n"
    command = [sys.executable, "-c", CODE, "script:x"]
    run = subprocess.run(
        command, input=lines, capture_output=True, timeout=60, env={**os.environ, "PYTHONIOENCODING": "utf-8:strict"}
    )
    assert (run.returncode, run.stdout.decode()) == (0, "[1] you said hello\n[1] you said h\xe9\n")
    passed, forgotten = run.stderr.decode().splitlines()
    assert passed.startswith("a line is passed over: ") and forgotten == "forgotten"


def test_a_system_message_and_a_method_with_threads():
    code, out, err = piped("hello\n", "script:x", "--system", "be brief", "--method", "sc3:max_tokens=400")
    assert (code, out) == (0, "[1] you said hello\n")
    assert "4 threads" in err  # the tree in one line, where it is no terminal


@pytest.mark.parametrize(
    ("lines", "seen", "notes"),
    [
        ("hello\nlong\nnever\n", "endless endless", "(stopped)\n"),  # in the midst of an answer
        ("hello\n", "[1] you said hello\n", ""),  # while it waits for a line
    ],
)
@pytest.mark.parametrize("interrupted", [signal.default_int_handler, signal.SIG_IGN])  # the latter behind a shell's &
def test_sigterm_ends_a_conversation_through_a_pipe(lines, seen, notes, interrupted):
    with subprocess.Popen(
        [sys.executable, "-c", CODE, "script:x"],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
        preexec_fn=lambda: signal.signal(signal.SIGINT, interrupted),
    ) as process:  # fmt: skip
        process.stdin.write(lines.encode())
        process.stdin.flush()
        out = b""
        while seen.encode() not in out:
            out += (more := os.read(process.stdout.fileno(), 4096))
            assert more, process.stderr.read()
        process.terminate()
        assert process.wait(60) == 130  # its input has not ended
        assert process.stderr.read().decode() == notes and b"never" not in process.stdout.read()


def test_plain_text_goes_on():
    code, out, _ = piped("a\nb\n", "script:plain", "--plain")
    assert (code, out.splitlines()[0]) == (0, "after 'a'")
    assert out.splitlines()[1] == repr("aafter 'a'\nb").join(["after ", ""])


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["script:plain"], "script:plain cannot chat: this model's tokenizer has no chat template; with --plain"),
        (["script:x", "--method", "telepathy"], "unknown method 'telepathy'"),
        (["script:x", "--method", "sequential:max_tokens=no"], "malformed Sequential: max_tokens"),
        (["script:x", "--method", "sequential:prompt=x"], "there is a prompt in --method"),
        (["script:x", "--plain", "--system", "x"], "--system needs a chat template"),
        (["countdown", "--dtype", "int3"], "unknown dtype 'int3'"),
        (["no-such-model"], "no model 'no-such-model'"),
    ],
)
def test_what_is_refused(arguments, message):
    code, out, err = piped("hello\n", *arguments)
    assert code == 1 and out == "" and err.startswith(f"plait: {message}") and err.count("\n") == 1


def test_a_conversation_that_grows_too_long():
    code, out, err = piped(f"hello\n{'x' * 400}\nand\n", "script:short")
    assert code == 0 and out.splitlines()[-1] == "[2] you said and"  # what did not fit is not kept
    assert "/reset begins anew" in err


class Terminal:
    """The program on a pseudo-terminal, as a person has it."""

    def __init__(self, *arguments):
        self.pid, self.fd = pty.fork()
        if self.pid == 0:
            os.environ.update(TERM="xterm", COLUMNS="100")
            os.execv(sys.executable, [sys.executable, "-c", CODE, *arguments])
        self.seen = ""
        self.has_ended = False

    def wait_for(self, text, seconds=30):
        """What came until then, without control sequences."""
        end = time.monotonic() + seconds
        while text not in self.seen:
            assert time.monotonic() < end, f"no {text!r} in {self.seen!r}"
            if select.select([self.fd], [], [], 0.1)[0]:
                try:
                    data = os.read(self.fd, 4096).decode(errors="replace")
                except OSError:  # it has ended
                    raise AssertionError(f"no {text!r} in {self.seen!r}") from None
                self.seen += re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", data)
        before, _, self.seen = self.seen.partition(text)
        return before

    def type(self, text):
        os.write(self.fd, text.encode(errors="surrogateescape"))

    def interrupt_until(self, text):
        """Type Ctrl-C at the prompt. What comes between the prompt and Python's wait for a key is seen with the next
        key only: type it again then."""
        for _ in range(10):
            self.type("\x03")
            try:
                self.wait_for(text, seconds=3)
            except AssertionError:
                continue
            return
        raise AssertionError(f"no {text!r}")

    def status(self, seconds=20):
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            pid, status = os.waitpid(self.pid, os.WNOHANG)
            if pid:
                self.has_ended = True
                os.close(self.fd)
                return os.waitstatus_to_exitcode(status)
            if select.select([self.fd], [], [], 0.05)[0]:
                try:
                    os.read(self.fd, 4096)
                except OSError:
                    time.sleep(0.05)
        raise AssertionError("it goes on")


@pytest.fixture
def start():
    """Starts programs, and ends those that a failing test leaves."""
    started = []

    def begin(*arguments):
        started.append(Terminal(*arguments))
        return started[-1]

    yield begin
    for terminal in started:
        if not terminal.has_ended:
            os.kill(terminal.pid, signal.SIGKILL)
            os.waitpid(terminal.pid, 0)


def test_on_a_terminal(start):
    terminal = start("script:x")
    terminal.wait_for("> ")
    terminal.type("hello\n")
    terminal.wait_for("[1] you said hello")
    terminal.wait_for("> ")
    terminal.type("long\n")
    terminal.wait_for("endless endless")  # as it is written
    terminal.type("\x03")
    terminal.wait_for("(stopped)")
    terminal.wait_for("> ")
    terminal.interrupt_until("/quit ends the conversation")  # no answer to stop: a hint
    terminal.wait_for("> ")
    terminal.type("no \udcff text\n")
    terminal.wait_for("a line is passed over: ")
    terminal.wait_for("> ")
    terminal.type("still there\n")
    terminal.wait_for("[3] you said still there")
    terminal.wait_for("> ")
    terminal.type("\x04")
    assert terminal.status() == 0


@pytest.mark.parametrize("method", ["sequential", "sc4"])
def test_sigterm_in_the_midst_of_an_answer_ends_a_conversation_on_a_terminal(method, start):
    terminal = start("script:x", "--method", method)
    terminal.wait_for("> ")
    terminal.type("long\n")
    terminal.wait_for("endless endless" if method == "sequential" else "running")
    os.kill(terminal.pid, signal.SIGTERM)
    assert terminal.status() == 130


def test_sigterm_at_the_prompt_ends_a_conversation_on_a_terminal(start):
    terminal = start("script:x")
    terminal.wait_for("> ")
    os.kill(terminal.pid, signal.SIGTERM)
    terminal.type("\n")  # it may have come before Python's wait for a key, and is seen with the next key then
    assert terminal.status() == 130


def test_the_tree_on_a_terminal(start):
    terminal = start("script:x", "--method", "sc4")
    terminal.wait_for("> ")
    terminal.type("hello\n")
    terminal.wait_for("5 threads")
    terminal.wait_for("[1] you said hello\r\n> ")
    terminal.type("long\n")
    terminal.wait_for("running")
    terminal.type("\x03")
    terminal.wait_for("(stopped)")
    terminal.wait_for("> ")
    terminal.type("and\n")
    terminal.wait_for("[2] you said and\r\n> ")  # there is no question without an answer
    terminal.type("/quit\n")
    assert terminal.status() == 0


@pytest.mark.parametrize("method", ["sequential", "sc2"])
def test_no_answer_steers_the_terminal(method, start):
    arguments = ["script:x", "--method", method]
    terminal = start(*arguments)
    terminal.wait_for("> ")
    terminal.type("steer\n")
    terminal.wait_for(r"\x1b]0;title\x07\x1b[2J" + "\r\n> ")
    terminal.type("/quit\n")
    assert terminal.status() == 0


def test_a_program_gets_an_answer_as_it_is():
    assert piped("steer\n", "script:x")[1] == "\x1b]0;title\x07\x1b[2J\n"


def test_methods_as_one_word():
    assert method_of("sequential") == {"method": "sequential"}
    assert method_of("sc8") == {"method": "self_consistency", "n": 8}
    assert method_of("sc8:temperature=0.5") == {"method": "self_consistency", "n": 8, "temperature": 0.5}
    assert method_of("tree_search:strategy=rebase,width=4") == {
        "method": "tree_search",
        "strategy": "rebase",
        "width": 4,
    }
    assert parse_field("answer=regex:a=b") == ("answer", "regex:a=b")
    with pytest.raises(InvalidInput, match="FIELD=VALUE"):
        method_of("sequential:x")
    with pytest.raises(InvalidInput, match="again behind it"):
        method_of("sequential:method=apr")
