"""The metadata of a checkpoint that this program writes."""

from __future__ import annotations

import json
from dataclasses import asdict
from typing import Any

FORMAT = "lite3r-1"
SCALE_SUFFIX = "::scale"  # `NAME::scale` holds the row scales of an FP8 tensor `NAME`


def describe(model: str, config: Any, **more: str) -> dict[str, str]:
    """The metadata of a checkpoint: model name, its configuration (a dataclass) as JSON, and further entries `more`."""
    return {"format": FORMAT, "model": model, "config": json.dumps(asdict(config)), **more}
