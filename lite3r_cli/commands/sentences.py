"""What a run chose, as a sentence; run.json has the same facts field by field."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any


def sentence(choice: Mapping[str, Any]) -> str:
    """One entry of `Predictor.choices()` as text: what was chosen, why, and what was measured."""
    parts = [choice["reason"]]
    if "skipped" in choice:
        parts.append(f"{100 * choice['skipped']:.1f} % of the key blocks skipped")
    parts += [f"back end {_with_times(backend)}: {backend['reason']}" for backend in choice.get("backends", ())]
    parts += [f"{_with_times(other)}: {other['reason']}" for other in choice.get("others", ())]
    if "exact_layers" in choice:
        parts.append(f"{choice['exact_layers']} linear layers stay exact")
    return f"{_with_times(choice)} ({'; '.join(parts)})"


def _with_times(choice: Mapping[str, Any]) -> str:
    """What was chosen, and how often, if the predictions of one command differ."""
    return f"{choice['chosen']} {choice['times']} ×" if "times" in choice else str(choice["chosen"])
