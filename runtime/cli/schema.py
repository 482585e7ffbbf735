"""`plait schema`: print the JSON schema of a job, or of one method, with a description of every field."""

from __future__ import annotations

import argparse
import json
import sys

from ..job_spec import job_schema, method_schema
from ..methods.registry import METHODS


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("method", nargs="?", help=f"one of {', '.join(METHODS.names())}; without one: a whole job")


def run(options: argparse.Namespace) -> int:
    schema = job_schema() if options.method is None else method_schema(options.method)
    sys.stdout.write(json.dumps(schema, indent=2) + "\n")
    return 0
