"""`TestRecipe`: how an instance's environment is made and its tests are run; `Recipes`: a TOML file of them."""

from __future__ import annotations

import tomllib
from functools import cache
from pathlib import Path, PurePosixPath
from shlex import quote
from typing import Literal

from ....agents.environments import Recipe
from ....runtime.errors import InvalidInput
from ....runtime.spec import Spec
from .instances import Instance

SHIPPED = Path(__file__).parent / "configs" / "recipes.toml"


class TestRecipe(Recipe):
    """The Python, and the command of the tests."""

    __test__ = False

    test: str = ""
    """Shell command in the repository's folder, to which the test files of the instance are added; empty: that of the
    row's evaluation script."""
    targets: Literal["files", "modules"] = "files"
    """How test files are named to it: `tests/a/b.py`, or `a.b` as Django's runner has them."""
    log_parser: str = ""
    """One of the swebench package's, such as `parse_log_pytest`; empty: the row's, or the one of the repository."""

    def command(self, instance: Instance) -> str:
        """The whole command for an instance. Raises `InvalidInput`."""
        if self.test:
            return " ".join([self.test, *map(quote, map(self._target, instance.test_files))])
        return script_command(instance)

    def _target(self, path: str) -> str:
        if self.targets == "files":
            return path
        return ".".join(PurePosixPath(path.removeprefix("tests/")).with_suffix("").parts)


def script_command(instance: Instance) -> str:
    """What the instance's own evaluation script runs. Raises `InvalidInput`."""
    if instance.test_command:
        return instance.test_command
    raise InvalidInput(f"{instance.id}: nothing says how its tests are run: give its recipe a `test` command")


class Recipes(Spec):
    """Recipes by repository and version (`[repos."pallets/flask"."2.3"]`), and by instance
    (`[instances.pallets__flask-5014]`), which go first."""

    refusal = InvalidInput

    repos: dict[str, dict[str, TestRecipe]] = {}
    """Owner and name -> version -> recipe."""
    instances: dict[str, TestRecipe] = {}
    """Id -> recipe."""

    @classmethod
    def read(cls, path: Path) -> Recipes:
        """Raises `InvalidInput`."""
        try:
            return cls(**tomllib.loads(path.read_text(encoding="utf-8")))
        except InvalidInput as error:
            raise InvalidInput(f"{path}: {error}") from None
        except (OSError, ValueError) as error:
            raise InvalidInput(f"cannot read the recipes in {path}: {error}") from None

    def find(self, instance: Instance) -> TestRecipe | None:
        """The recipe of an instance."""
        return self.instances.get(instance.id) or self.repos.get(instance.repo, {}).get(instance.version)


@cache
def shipped() -> Recipes:
    """Those that come with the package."""
    return Recipes.read(SHIPPED)
