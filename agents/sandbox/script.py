"""What runs around a command where it is confined: a shell script that makes the files and says how far it is.

Standard input is the tree's archive, standard output the command's; on standard error come lines:

    patch           the patch does not apply; the script ends
    begun           the files are there, the command starts
    exit N          it ended
    disk S B F N M  in a folder there can be B blocks of S bytes and N files, F and M more than there are (bubblewrap)

The command itself never holds the channel of these lines.
"""

from __future__ import annotations

import io
import math
import os
import re
import sys
import tarfile
from collections.abc import Mapping, Sequence
from pathlib import Path, PurePosixPath
from shlex import quote

from ...runtime.errors import InvalidInput
from ..repository import Snapshot
from .base import Execution, Limits, SandboxFailed
from .process import Watched
from .tree import FILE_BYTES

_OWN = sorted(name for name in sys.stdlib_module_names if not name.startswith("_"))
"""Modules of Python."""


def patch_bytes(snapshot: Snapshot) -> bytes:
    """The patch as git reads it: bytes of a file that is no UTF-8 are surrogates, lone ones otherwise do not apply."""
    return snapshot.patch.encode("utf-8", "surrogateescape" if _is_encodable(snapshot.patch) else "replace")


def _is_encodable(text: str) -> bool:
    try:
        text.encode("utf-8", "surrogateescape")
    except UnicodeEncodeError:
        return False
    return True


def files_archive(files: Mapping[str, str]) -> bytes:
    """Files as a tar archive. Raises `InvalidInput` for a name that leaves the folder."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as archive:
        for name, text in files.items():
            path = PurePosixPath(name)
            if not name or "\0" in name or path.is_absolute() or ".." in path.parts or not path.parts:
                raise InvalidInput(f"{name!r} is no relative path of a file")
            data = text.encode("utf-8", "surrogateescape" if _is_encodable(text) else "replace")
            entry = tarfile.TarInfo(str(path))
            entry.size, entry.mode = len(data), 0o644
            archive.addfile(entry, io.BytesIO(data))
    return buffer.getvalue()


def check_command(command: Sequence[str]) -> None:
    """Raise `InvalidInput` for one that cannot be started."""
    if not command or not command[0] or any("\0" in word for word in command):
        raise InvalidInput("a command is at least one word, without NUL characters")


def script(
    *,
    tree: str,
    scratch: str,
    files: str,
    patch: str | None,
    limits: Limits,
    processes: int | None,
    paths: Sequence[str] | None,
    inside: bool,
    after: str = "",
) -> str:
    """The shell script; its arguments are the command.

    `files`, `patch`: where an archive of the given files and the patch lie, None: there is none; `processes`: the limit
    that the kernel checks for the user inside, None: none; `paths`: folders of the tree on PYTHONPATH, None: found by
    looking, see `Environment`; `after`: goes at the end.
    """
    tree, scratch = quote(tree), quote(scratch)
    lines = [
        "exec 3>&2 2>&1",
        "umask 022",
        f'mkdir -p "$HOME" {tree} {scratch} || exit 1',
        f"tar -x -C {tree} --no-same-owner && exec </dev/null || exit 1",
        f"tar -x -C {scratch} --no-same-owner -f {quote(files)} || exit 1",
        *apply_lines(tree, patch),
        *_python_path(tree, paths),
        f"cd {tree if inside else scratch} || exit 1",
        "echo begun >&3",
        f'{resource_limits(limits, processes)} "$@" 3>&-',
        "code=$?",
        'echo "exit $code" >&3',
        after,
        "exit $code",
    ]
    return "\n".join(lines)


def apply_lines(tree: str, patch: str | None) -> list[str]:
    """Lines that apply the patch. Outside a repository git looks at nothing but the files; it changes all of them or
    none, and none outside of the tree."""
    if patch is None:
        return []
    apply = f"GIT_DIR=/dev/null git apply --whitespace=nowarn {quote(patch)}"
    return [f"cd {tree} || exit 1", f"{apply} || {{ echo patch >&3; exit 1; }}"]


def _python_path(tree: str, paths: Sequence[str] | None) -> list[str]:
    if paths is not None:
        joined = ":".join(f"{tree}/{quote(path)}" if path != "." else tree for path in paths)
        return [f"export PYTHONPATH={joined}"] if paths else []
    return [
        "first= last=",
        "for folder in src lib; do",
        f"  has={tree}/$folder",
        '  for package in "$has"/*/__init__.py; do',
        '    if test -e "$package"; then first=$first$has:; continue 2; fi',
        "  done",
        # Single modules and namespace packages. A folder whose name has a dot, as in `lib` of a virtual environment, is
        # none of these; one that is a package itself, or would hide a module of Python, was not meant to be searched.
        '  if test -e "$has/__init__.py"; then continue; fi',
        f'  for name in {" ".join(_OWN)}; do if test -e "$has/$name.py"; then continue 2; fi; done',
        "  module=$(find \"$has/\" -mindepth 1 -type d -name '*.*' -prune -o -name '*.py' -print -quit 2>/dev/null)",
        '  if test -n "$module"; then last=$last:$has; fi',
        "done",
        # Behind the root: what was found there stays what it was.
        f"export PYTHONPATH=$first{tree}$last",
    ]


def resource_limits(limits: Limits, processes: int | None) -> str:
    """The beginning of a command line that sets the limits of each process."""
    cpu_seconds = math.ceil(limits.seconds) * (os.cpu_count() or 1) + 1
    words = [
        "prlimit",
        f"--as={limits.memory_mb << 20}",
        f"--fsize={limits.file_mb << 20}",
        f"--cpu={cpu_seconds}",
        "--core=0",
        *([] if processes is None else [f"--nproc={processes}"]),
    ]
    return " ".join([*words, "--"])


def variables(python: str, extra: Mapping[str, str], home: str) -> dict[str, str]:
    """All environment variables of a command, but PYTHONPATH."""
    return {
        "PATH": f"{Path(python).parent}:/usr/local/bin:/usr/bin:/bin",
        "HOME": home,
        "LANG": "C.UTF-8",
        "PYTHONDONTWRITEBYTECODE": "1",
        "PYTHONHASHSEED": "0",
        **extra,
    }


def execution(watched: Watched, *, out_of_memory: bool = False, out_of_disk: bool = False) -> Execution:
    """What came of the command. Raises `SandboxFailed` if it never began. A command may have found a way to write lines
    of its own: then they are about itself, and need not make sense."""
    lines = watched.status
    if "begun" not in lines:
        if "patch" in lines:
            output = f"The patch does not apply.\n{watched.output}"
            return Execution(exit_code=1, output=output, seconds=0.0, ended="patch")
        message = "; ".join([*lines, *watched.output.strip().splitlines()])
        raise SandboxFailed(f"it could not be set up: {message[-2000:] or 'no message'}")
    ended = watched.killed or ("memory" if out_of_memory else "disk" if out_of_disk else "exit")
    codes = [int(line[5:]) for line in lines if re.fullmatch(r"exit [0-9]{1,3}", line)]
    code = codes[-1] if codes else 128 - watched.exit_code if watched.exit_code < 0 else watched.exit_code
    return Execution(
        exit_code=code if ended == "exit" else 1, output=watched.output, seconds=watched.seconds, ended=ended
    )


def bytes_at_the_end(watched: Watched) -> int:
    """What the writable folders held when the command had ended."""
    numbers = re.compile(r"disk" + r" ([0-9]{1,12})" * 5)
    found = [match.groups() for match in map(numbers.fullmatch, watched.status) if match]
    return sum(memory_bytes(*map(int, sizes)) for sizes in found)


def memory_bytes(block: int, blocks: int, free_blocks: int, files: int, free_files: int) -> int:
    """What a file system in memory holds; many empty files count, too."""
    return (blocks - free_blocks) * block + (files - free_files) * FILE_BYTES
