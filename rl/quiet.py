"""`Quiet`: a trainer of TRL that tells nobody about itself."""

from __future__ import annotations

from typing import Any


class Quiet:
    """A mixin for TRL's trainers."""

    def create_model_card(self, *_: Any, **__: Any) -> None:
        """None in checkpoints: it asks the hub about the model each time."""

    def _send_telemetry(self) -> None:
        """None: whoever trains here has not asked for it."""
