"""Where a model folder has its chat templates."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ...errors import InvalidInput


def read_templates(folder: Path, own: Mapping[str, Any]) -> dict[str, str]:
    """The chat templates by name (`default`, `tool_use`): from files of their own, else from tokenizer_config.json
    (`own`). Raises `InvalidInput`."""
    files = {path.stem: path for path in sorted((folder / "additional_chat_templates").glob("*.jinja"))}
    if (folder / "chat_template.jinja").is_file():
        files["default"] = folder / "chat_template.jinja"
    if files:
        return {name: _read(path) for name, path in files.items()}
    source = own.get("chat_template")
    if isinstance(source, list):
        source = {str(one.get("name")): one.get("template") for one in source if isinstance(one, dict)}
    found: dict[str, Any] = source if isinstance(source, dict) else {"default": source} if source else {}
    for template in found.values():
        if not isinstance(template, str):
            raise InvalidInput(f"tokenizer_config.json: chat_template must be a text, not a {type(template).__name__}")
    return found


def _read(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise InvalidInput(f"{path} cannot be read: {error}") from None
