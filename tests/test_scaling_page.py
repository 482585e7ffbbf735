"""The configurations of docs/scaling.md are read by what reads them, and its commands give what it says."""

from __future__ import annotations

import argparse
import os
import re
import shlex
import subprocess
from configparser import ConfigParser
from dataclasses import replace
from pathlib import Path

import pytest

import plait
from plait.evals import EvalConfig
from plait.evals.config import read_toml
from plait.runtime.cli import serve, worker
from plait.runtime.cli.options import engine_options, parse_field
from plait.runtime.engines.native.options import NativeOptions
from plait.runtime.engines.openai.options import read_options as read_server_options
from plait.runtime.server.settings import ServerSettings

DOCS = Path(plait.__file__).parent / "docs"
PAGE = (DOCS / "scaling.md").read_text(encoding="utf-8")
FOLDER = DOCS / "scaling"


def native(options):
    """As the engine reads them, on a machine that has no such device."""
    return NativeOptions.of({**options, "device": "cpu"})


def unit(name, module):
    """A systemd unit, and the flags its command is started with."""
    parser = ConfigParser(interpolation=None, strict=False)
    parser.optionxform = str
    parser.read(FOLDER / name)
    program, command, *arguments = shlex.split(parser["Service"]["ExecStart"].replace("%i", "0"))
    assert (program, command) == ("/opt/plait/bin/plait", module.__name__.rpartition(".")[2])
    flags = argparse.ArgumentParser()
    module.add_arguments(flags)
    return parser, flags.parse_args(arguments)


def test_the_page_names_all_files():
    assert {path.name for path in FOLDER.iterdir()} == set(re.findall(r"\(scaling/([^)]+)\)", PAGE))


def test_tensor_parallel():
    config = EvalConfig(**read_toml(FOLDER / "tensor_parallel.toml"))
    assert native(config.engine).tensor_parallel == 4 and len(config.methods) == 2


@pytest.mark.parametrize("role", ["head", "node"])
def test_vllm_over_ray(role, tmp_path):
    for name in ("ray", "vllm"):
        (tmp_path / name).write_text(f'#!/bin/sh\necho {name} "$@"\n')
        (tmp_path / name).chmod(0o755)
    env = {**os.environ, "PATH": f"{tmp_path}:{os.environ['PATH']}", "HEAD": "10.0.0.1"}
    done = subprocess.run(["sh", FOLDER / "vllm_ray.sh", role], env=env, capture_output=True, text=True, check=True)
    lines = [shlex.split(line) for line in done.stdout.splitlines()]
    if role == "node":
        assert lines == [["ray", "start", "--address=10.0.0.1:6379", "--block"]]
        return
    start, server = lines
    assert start[:3] == ["ray", "start", "--head"] and "--node-ip-address=10.0.0.1" in start
    config = EvalConfig(**read_toml(FOLDER / "vllm_ray.toml"))
    scheme, _, rest = config.model.partition(":")
    options = read_server_options(rest, config.engine)
    assert scheme == "openai" and options.max_concurrency == 128
    assert server[:3] == ["vllm", "serve", rest.partition("#")[2]] and server[server.index("--port") + 1] in rest


def test_workers_of_a_pool():
    pytest.importorskip("aiomqtt")
    from plait.runtime.mqtt.address import Address

    service, options = unit("plait-worker@.service", worker)
    at = Address.parse(options.broker)
    assert at.tls is not None and native(engine_options(options)).dtype is not None
    assert float(service["Service"]["TimeoutStopSec"]) > options.grace
    config = EvalConfig(**read_toml(FOLDER / "pool.toml"))
    # Both sides are in the same pool, and the password is in neither file.
    client = Address.parse(config.model)
    assert replace(client, user=None, tls=None) == replace(at, user=None, tls=None) and client.user == "service"
    assert str(options.ca_file) == config.engine["ca_file"]


def test_server():
    _, options = unit("plait-serve.service", serve)
    assert ServerSettings(**dict(map(parse_field, options.set))).max_running == 64
    assert options.host == "127.0.0.1" and options.keys
    read_server_options(options.model.partition(":")[2], engine_options(options))


def test_accelerate():
    pytest.importorskip("accelerate")
    from accelerate.commands.config.config_args import load_config_from_file

    config = load_config_from_file(str(FOLDER / "accelerate.yaml"))
    assert (config.num_processes, config.num_machines, config.mixed_precision) == (8, 1, "bf16")
    assert str(config.distributed_type).endswith("MULTI_GPU")


def test_the_sizes_are_what_the_simulation_says(capsys):
    pytest.importorskip("simpy")
    from plait.benchmarks.pool.size import main

    examples = re.findall(r"```\npython -m plait\.benchmarks\.pool\.size (.*)\n```\n\n((?:\|.*\n)+)", PAGE)
    assert examples
    for arguments, table in examples:
        main(shlex.split(arguments))
        assert capsys.readouterr().out == table
