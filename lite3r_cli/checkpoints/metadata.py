"""What a checkpoint of this program says of itself."""

from __future__ import annotations

import json
from dataclasses import asdict
from typing import Any

FORMAT = "lite3r-1"
SCALE_SUFFIX = "::scale"  # `NAME::scale` holds the row scales of an FP8 tensor `NAME`


def describe(model: str, config: Any, **more: str) -> dict[str, str]:
    """The metadata of a checkpoint: the name of its model, its configuration (a dataclass), and what else there is."""
    return {"format": FORMAT, "model": model, "config": json.dumps(asdict(config)), **more}
