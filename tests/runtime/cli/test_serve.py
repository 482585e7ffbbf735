"""`plait serve`, as far as it gets without a model; what it serves is tested in tests/runtime/server."""

from __future__ import annotations

import socket

import pytest

from plait.runtime.cli.main import main


@pytest.mark.parametrize("port", ["99999", "-1"])
def test_a_port_that_is_none_is_one_line(port, capsys):
    assert main(["serve", "countdown", "--port", port]) == 1
    [line] = capsys.readouterr().err.splitlines()
    assert line == f"plait: cannot listen at 127.0.0.1, port {port}: ports are 0 to 65535"


def test_a_port_that_is_taken_is_told_before_the_model_is_loaded(capsys):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        assert main(["serve", "no such model", "--port", str(port)]) == 1
    assert capsys.readouterr().err == f"plait: cannot listen at 127.0.0.1, port {port}: Address already in use\n"


def test_a_host_that_is_none_is_one_line(capsys):
    assert main(["serve", "countdown", "--no-keys", "--host", "no.such.host.invalid"]) == 1
    [line] = capsys.readouterr().err.splitlines()
    assert line.startswith("plait: cannot listen at no.such.host.invalid, port 8000: ")


def test_a_model_that_nobody_could_name_is_refused(capsys):
    assert main(["serve", "/"]) == 1
    assert capsys.readouterr().err == "plait: '/' has no last part to call the model by: give --name\n"


def test_no_password_is_told(capsys):
    assert main(["serve", "mqtt://me:secret@host"]) == 1
    assert capsys.readouterr().err.startswith("plait: 'me:...@host' has a colon")
