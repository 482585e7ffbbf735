"""A folder as the user has it now, as a commit; and patches put into it."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path, PurePosixPath

from ..runtime.disk import writing
from ..runtime.errors import InvalidInput
from .applying import checked_paths
from .git import GitError, git
from .repository import Repository

LEFT_OUT = (".venv", "venv", "node_modules", "__pycache__", ".git", ".tox", ".mypy_cache", ".pytest_cache")
"""Folders that are no one's source, unless git knows files in them."""
COPY = "copy.git"


@contextmanager
def working_copy(path: Path | str, *, max_bytes: int = 500_000_000) -> Iterator[Repository]:
    """All files below a folder as one commit of a temporary repository, which goes away at the end.

    A git checkout, or a folder in one: all of it, with what is not committed yet and without what it ignores. Any other
    folder: all but `LEFT_OUT`. So with the checkouts and submodules inside it. The folder and its git folder are only
    read, though objects may get a new time. `max_bytes`: of files that git does not know yet, in one repository. May
    block. Raises `InvalidInput`, for a folder that is ignored too.
    """
    folder, git_folder = _places(Path(path))
    with tempfile.TemporaryDirectory(prefix="plait-copy-") as name:
        copy = Path(name) / COPY
        try:
            kind = "sha1" if git_folder is None else _kind(folder)
            commit = _commit(folder, copy, _tree(folder, git_folder, copy, kind, max_bytes))
        except GitError as error:
            raise InvalidInput(f"{folder} cannot be read as it is: {error}") from None
        repository = Repository(copy, commit)
        _check_named(Path(path).resolve(), folder, repository.paths())
        yield repository


def apply(path: Path | str, patch: str | None) -> None:
    """Put a patch into the files of a checkout or of any other folder: all of it, or none.

    Raises `InvalidInput` where there is none (the answer of a job without a candidate), where it does not fit or cannot
    be written, makes what is no plain file, or changes, moves or copies a symbolic link.
    """
    if patch is None:
        raise InvalidInput("there is no patch to apply: the job found no candidate")
    folder, git_folder = _places(Path(path))
    # In a folder that is no repository, git must not look for one above it.
    extra = _no_filters(folder) if git_folder is not None else {"GIT_CEILING_DIRECTORIES": str(folder.parent)}
    data = patch.encode(errors="surrogateescape")
    options = ("apply", "--whitespace=nowarn")
    try:
        git(*options, "--check", "-", folder=folder, stdin=data, extra=extra)
        paths = checked_paths(
            data,
            is_link=lambda path: (folder / path).is_symlink(),
            is_file=lambda path: os.path.lexists(folder / path) and not (folder / path).is_dir(),
            below=lambda path: _below(folder, path),
            folder=folder,
            extra=extra,
        )
        with writing(folder), _all_or_none(folder, paths):
            git(*options, "-", folder=folder, stdin=data, extra=extra)
    except GitError as error:
        raise InvalidInput(f"the patch does not fit {folder}: {'; '.join(str(error).splitlines())}") from None


def _below(folder: Path, path: PurePosixPath) -> Iterator[PurePosixPath]:
    """The files below a folder inside another; none below a file."""
    for one in (folder / path).rglob("*"):
        if one.is_symlink() or not one.is_dir():
            yield PurePosixPath(one.relative_to(folder))


@contextmanager
def _all_or_none(folder: Path, paths: Iterable[PurePosixPath]) -> Iterator[None]:
    """If what is done inside to these files fails, as on a full disk, put back what was there."""
    # Shortest first: folders before what is in them.
    places = sorted({folder / one for path in paths for one in (path, *path.parents)})
    folders = [place for place in places if place.is_dir()]
    files = {place: (place.stat().st_mode, place.read_bytes()) for place in places if place.is_file()}
    try:
        yield
    except BaseException:
        for place in reversed(places):
            if os.path.lexists(place) and place not in (folders if place.is_dir() else files):
                place.rmdir() if place.is_dir() else place.unlink()
        for place in folders:
            place.mkdir(exist_ok=True)
        for place, (mode, data) in files.items():
            # What git did not come to need not be writable.
            if not place.is_file() or place.read_bytes() != data:
                place.write_bytes(data)
            if place.stat().st_mode != mode:
                place.chmod(mode)
        raise


def _check_named(named: Path, folder: Path, paths: Sequence[str]) -> None:
    """Raise `InvalidInput` where nothing of the folder that was named is worked on, the checkout it is in or not."""
    is_part = named != folder and named.is_relative_to(folder)
    inside = f"{named.relative_to(folder).as_posix()}/" if is_part else ""
    if any(path.startswith(inside) for path in paths):
        return
    # One that is empty, but for what is left there of something before, may be where something new is to go.
    if not is_part or any(path.is_file() and not _is_left_out(path.relative_to(named)) for path in named.rglob("*")):
        raise InvalidInput(f"{named} has no files to work on, but for those that are ignored")


def _is_left_out(path: Path) -> bool:
    return not {*path.parent.parts}.isdisjoint(LEFT_OUT)


def _no_filters(folder: Path) -> dict[str, str]:
    """Environment variables that take away the filters which a repository configures: git runs them on what it
    patches."""
    try:
        listed = git("config", "--name-only", "-z", "--get-regexp", r"^filter\.", folder=folder)
    except GitError:
        return {}  # There are none.
    extra: dict[str, str] = {}
    for number, key in enumerate(dict.fromkeys(map(os.fsdecode, listed.split(b"\0")[:-1]))):
        extra[f"GIT_CONFIG_KEY_{number}"] = key
        extra[f"GIT_CONFIG_VALUE_{number}"] = "false" if key.endswith(".required") else ""
        extra["GIT_CONFIG_COUNT"] = str(number + 1)
    return extra


def _places(path: Path) -> tuple[Path, Path | None]:
    """The folder and its git folder; the top of the checkout, where it is in one."""
    if not path.is_dir():
        raise InvalidInput(f"{path} is no folder")
    try:
        if git("rev-parse", "--is-bare-repository", folder=path).strip() == b"true":
            raise InvalidInput(f"{path} is a bare repository, without files to work on: give a checkout of it")
    except GitError:
        return path.resolve(), None
    try:
        top = git("rev-parse", "--show-toplevel", folder=path).decode().removesuffix("\n")
        git_folder = git("rev-parse", "--absolute-git-dir", folder=path).decode().removesuffix("\n")
    except GitError:
        return path.resolve(), None
    return Path(top), Path(git_folder)


def _tree(folder: Path, git_folder: Path | None, copy: Path, kind: str, max_bytes: int) -> str:
    """The tree of all files below a folder, those of repositories inside it too, for which git only has a commit's
    hash. `copy`: where an index of its own is made, beside those of the others; `kind`: of hashes."""
    git("init", "--quiet", "--bare", "--template=", f"--object-format={kind}", str(copy), folder=copy.parent)
    objects = copy.parent / COPY / "objects"
    if git_folder is not None and _kind(folder) == kind:
        _borrow(folder, git_folder, copy, objects)
    (copy / "info").mkdir(exist_ok=True)
    with (copy / "info" / "exclude").open("a") as file:
        file.writelines(f"{one}/\n" for one in LEFT_OUT)
    # These go before the folder's own: files are taken byte for byte. But `ident` stays: a patch with an expanded $Id$
    # would not apply.
    (copy / "info" / "attributes").write_text("* -text -filter -working-tree-encoding\n")
    extra = {"GIT_DIR": str(copy), "GIT_WORK_TREE": str(folder), "GIT_OBJECT_DIRECTORY": str(objects)}
    inner = _add(folder, extra, max_bytes)
    for path in inner:
        found, its_git = _places(folder / path)
        if git_folder is not None and its_git is not None and _common(found) == _common(folder):
            continue  # Another worktree of the same repository: its files are those of another branch.
        if found != (folder / path).resolve():
            raise InvalidInput(f"{folder / path} is no whole repository: mend or remove its .git")
        its_copy = copy.parent / f"{len(list(copy.parent.iterdir()))}.git"
        tree = _tree(found, its_git, its_copy, kind, max_bytes)
        git("read-tree", f"--prefix={path}/", tree, folder=folder, extra=extra)
    return git("write-tree", folder=folder, extra=extra).decode().strip()


def _common(folder: Path) -> bytes:
    """The git folder that all worktrees of a repository share."""
    return git("rev-parse", "--path-format=absolute", "--git-common-dir", folder=folder)


def _kind(folder: Path) -> str:
    """Of a repository's hashes."""
    return git("rev-parse", "--show-object-format", folder=folder).decode().strip()


def _borrow(folder: Path, git_folder: Path, copy: Path, objects: Path) -> None:
    """Let the copy read the checkout's objects, and start from what its index knows."""

    def place(name: str) -> Path:
        found = git("rev-parse", "--git-path", name, folder=folder).decode().removesuffix("\n")
        return folder / found

    with (objects / "info" / "alternates").open("a") as file:
        file.write(f"{place('objects').resolve()}\n")
    # With its time: git tells by it which files may have changed within the same tick.
    for source in (place("index"), *git_folder.glob("sharedindex.*")):
        if source.is_file():
            shutil.copy2(source, copy / source.name)
    exclude = place("info/exclude")
    if exclude.is_file():
        (copy / "info").mkdir(exist_ok=True)
        shutil.copy(exclude, copy / "info" / "exclude")


def _notice_all(folder: Path, extra: dict[str, str]) -> None:
    """Take the marks from files by which git passes over changes in them; what a sparse checkout leaves out stays."""
    assumed, skipped = [], []
    for line in git("ls-files", "-v", "-z", folder=folder, extra=extra).split(b"\0")[:-1]:
        mark, name = line[:1], line[2:]
        if mark.islower():
            assumed.append(name)
        if mark.upper() == b"S" and os.path.lexists(folder / os.fsdecode(name)):
            skipped.append(name)
    for option, names in (("--no-assume-unchanged", assumed), ("--no-skip-worktree", skipped)):
        if names:
            git("update-index", option, "-z", "--stdin", folder=folder, stdin=_ended(names), extra=extra)


def _read_anew(folder: Path, known: Iterable[bytes], extra: dict[str, str]) -> None:
    """Have git read files that have not changed as well: what its index knows of them is what attributes and settings
    made of them, such as other line ends. What a filter made stays, as the pointers of Git LFS do: the files may be
    huge. `known`: lines of `git ls-files --stage`."""
    entries = {line.partition(b"\t")[2]: line for line in known if line.startswith(b"100")}
    # By the checkout's own attributes.
    found = git("check-attr", "-z", "--stdin", "filter", folder=folder, stdin=_ended(entries)).split(b"\0")[:-1]
    for name, value in zip(found[::3], found[2::3], strict=True):
        # What a sparse checkout leaves out is not there to read.
        if value not in (b"unspecified", b"unset") or not os.path.lexists(folder / os.fsdecode(name)):
            del entries[name]
    git("update-index", "-z", "--index-info", folder=folder, stdin=_ended(entries.values()), extra=extra)


def _add(folder: Path, extra: dict[str, str], max_bytes: int) -> list[str]:
    """Take all files but those of repositories inside the folder into the index; the paths of these."""
    listed = git("ls-files", "--others", "--exclude-standard", "-z", folder=folder, extra=extra)
    total, inner = 0, []
    for name in listed.split(b"\0")[:-1]:
        if name.endswith(b"/"):
            inner.append(name.removesuffix(b"/"))
            continue
        with suppress(OSError):  # Gone in the meantime.
            total += (folder / os.fsdecode(name)).lstat().st_size
        if total > max_bytes:
            raise InvalidInput(
                f"{folder} holds more than {max_bytes / 1e6:.0f} MB in files that git does not know: "
                "add what is no source to its .gitignore"
            )
    known = git("ls-files", "--stage", "-z", folder=folder, extra=extra).split(b"\0")[:-1]
    links = [line.partition(b"\t")[2] for line in known if line.startswith(b"160000 ")]
    links = [name for name in links if os.path.lexists(folder / os.fsdecode(name) / ".git")]
    git("update-index", "--force-remove", "-z", "--stdin", folder=folder, stdin=_ended(links), extra=extra)
    _notice_all(folder, extra)
    if known:
        _read_anew(folder, known, extra)
    inner += links
    paths = _ended([b".", *(b":(exclude,literal)" + name for name in inner)])
    git("add", "--all", "--pathspec-from-file=-", "--pathspec-file-nul", folder=folder, stdin=paths, extra=extra)
    return [os.fsdecode(name) for name in inner]


def _ended(names: Iterable[bytes]) -> bytes:
    return b"".join(name + b"\0" for name in names)


def _commit(folder: Path, copy: Path, tree: str) -> str:
    who = {
        f"GIT_{role}_{what}": value
        for role in ("AUTHOR", "COMMITTER")
        for what, value in (("NAME", "plait"), ("EMAIL", "plait@localhost"), ("DATE", "2000-01-01T00:00:00Z"))
    }
    extra = {"GIT_DIR": str(copy), **who}
    made = git("commit-tree", "-m", "working copy", tree, folder=folder, extra=extra).decode().strip()
    # So that a clone brings it.
    git("update-ref", "HEAD", made, folder=folder, extra=extra)
    return made
