"""What a run chose, as a sentence; run.json has the same facts field by field."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any


def sentence(choice: Mapping[str, Any]) -> str:
    """One entry of `Predictor.choices()` as text: what was chosen, why, and what was measured."""
    parts = [choice["reason"]]
    if "skipped" in choice:
        parts.append(f"{100 * choice['skipped']:.1f} % of the key blocks skipped")
    parts += [f"back end {backend['chosen']}: {backend['reason']}" for backend in choice.get("backends", ())]
    if "exact_layers" in choice:
        parts.append(f"{choice['exact_layers']} linear layers stay exact")
    return f"{choice['chosen']} ({'; '.join(parts)})"
