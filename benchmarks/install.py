"""Time and disk that an installation takes, by extra, and whether its packages fit together.

    python -m plait.benchmarks.install
    python -m plait.benchmarks.install --extra mqtt --extra server

The base goes into a new virtual environment, each extra into a copy of it, so what it says of an extra comes on top of
the base. pip's cache is used as it is: without one, downloads come on top.
"""

from __future__ import annotations

import argparse
import shutil
import subprocess
import sys
import time
import tomllib
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

ROOT = Path(__file__).parents[1]


@dataclass(frozen=True, slots=True)
class Installed:
    name: str
    seconds: float
    megabytes: float
    packages: int
    check: str
    """What `pip check` says is wrong; empty: nothing."""


def project() -> tuple[dict[str, list[str]], list[str]]:
    """What each extra asks for, and what pip is to install before all else: torch by its exact version, as the Makefile
    does, so that it is not resolved anew. Raises `SystemExit` where plait itself is installed: what is measured is a
    checkout."""
    file = ROOT / "pyproject.toml"
    if not file.is_file():
        raise SystemExit(f"what is installed is measured from a checkout of plait: there is no {file}")
    data = tomllib.loads(file.read_text())["project"]
    first = [line for line in data["dependencies"] if line.startswith("torch==")]
    return dict(data["optional-dependencies"]), first


def run(*command: str | Path, cwd: Path | None = None) -> subprocess.CompletedProcess[str]:
    return subprocess.run([str(part) for part in command], cwd=cwd, capture_output=True, text=True)


def pip(venv: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    return run(venv / "bin" / "python", "-m", "pip", "--disable-pip-version-check", *arguments)


def install(venv: Path, *requirements: str) -> float:
    """Seconds. Raises `SystemExit` with what pip said."""
    began = time.perf_counter()
    done = pip(venv, "install", "-q", *requirements)
    if done.returncode:
        raise SystemExit(f"pip install {' '.join(requirements)}: {done.stderr}")
    return time.perf_counter() - began


def describe(venv: Path, name: str, seconds: float, base: Installed | None) -> Installed:
    files = (path.lstat() for path in venv.rglob("*") if path.is_file() and not path.is_symlink())
    size = sum(found.st_size for found in files) / 1e6
    packages = len(pip(venv, "list", "--format=freeze").stdout.splitlines())
    check = pip(venv, "check")
    wrong = "" if check.returncode == 0 else check.stdout.strip().replace("\n", "; ")
    if base is not None:
        size, packages = size - base.megabytes, packages - base.packages
    return Installed(name, seconds, size, packages, wrong)


def measure(folder: Path, extras: dict[str, list[str]]) -> list[Installed]:
    source, venv = folder / "source", folder / "base"
    # Building writes into the sources.
    ignored = shutil.ignore_patterns(".git", ".venv", "build", "*.egg-info", "__pycache__", "tests")
    shutil.copytree(ROOT, source, ignore=ignored)
    run(sys.executable, "-m", "venv", venv)
    seconds = install(venv, *project()[1]) + install(venv, str(source))
    found = [describe(venv, "base", seconds, None)]
    for extra, wanted in extras.items():
        copy = folder / "extra"
        # Hard links: pip replaces files, it writes into none.
        shutil.copytree(venv, copy, symlinks=True, copy_function=_link)
        seconds = install(copy, *wanted)
        found.append(describe(copy, extra, seconds, found[0]))
        shutil.rmtree(copy)
    return found


def _link(source: str, target: str) -> None:
    Path(target).hardlink_to(source)


def table(rows: list[Installed]) -> str:
    lines = ["| extra | seconds | MB | packages | `pip check` |", "| --- | --: | --: | --: | --- |"]
    for row in rows:
        plus = "" if row.name == "base" else "+"
        cells = (f"{row.seconds:.0f}", f"{plus}{row.megabytes:,.0f}", f"{plus}{row.packages}", row.check or "clean")
        lines.append(f"| {row.name} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def main() -> None:
    extras, _ = project()
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--extra", action="append", choices=extras, help="may be repeated (all but dev and vLLM's)")
    args = parser.parse_args()
    chosen = args.extra or [extra for extra in extras if extra != "dev" and not extra.startswith("vllm")]
    wanted = {extra: extras[extra] for extra in chosen}
    with TemporaryDirectory() as folder:
        print(table(measure(Path(folder), wanted)))


if __name__ == "__main__":
    main()
