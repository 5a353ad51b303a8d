"""The keep ratio of each cross-view attention layer, so that their mean is the requested one.

Deep networks (VGGT, DA3): ablations of published accelerators find that the first third of the global layers hardly
matters, that the middle layers align the views, and that the last two must stay nearly exact. `mini` has five such
layers. Measured one by one (docs/method.md), the second matters most to the cameras and the last does not matter: its
camera tokens attend to everything anyway, and no later layer aligns views.
"""

from __future__ import annotations

from collections.abc import Sequence

from lite3r_cli.errors import UsageError

SHALLOW = 6  # networks with at most this many cross-view layers use the weights measured on mini
SHALLOW_WEIGHTS = (0.30, 0.35, 0.25, 0.25, 0.10)  # by relative depth, first to last
DEEP_WEIGHTS = (0.5, 0.5, 1.0, 1.0, 1.0, 1.0)
LAST_DEEP_WEIGHT, LAST_LAYERS = 3.0, 2


def keep_ratios(layers: int, keep_ratio: float) -> tuple[float, ...]:
    """One keep ratio in (0, 1] per layer, with mean `keep_ratio`. Raises UsageError if that is outside (0, 1]."""
    weights = [_between(SHALLOW_WEIGHTS if layers <= SHALLOW else DEEP_WEIGHTS, i, layers) for i in range(layers)]
    if layers > SHALLOW:
        weights[-LAST_LAYERS:] = [LAST_DEEP_WEIGHT] * LAST_LAYERS
    return shared_out(weights, keep_ratio)


def shared_out(weights: Sequence[float], mean: float) -> tuple[float, ...]:
    """Shares proportional to `weights`, capped at 1, with this mean. The excess of a capped share goes to the others.

    Raises UsageError if `mean` is outside (0, 1].
    """
    if not 0 < mean <= 1:
        raise UsageError(f"the keep ratio must lie above 0 and at most at 1, not {mean}")
    full: set[int] = set()
    while True:
        free = [i for i in range(len(weights)) if i not in full]
        if not free:
            return (1.0,) * len(weights)
        factor = (mean * len(weights) - len(full)) / sum(weights[i] for i in free)
        over = {i for i in free if weights[i] * factor >= 1}
        if not over:
            return tuple(1.0 if i in full else weights[i] * factor for i in range(len(weights)))
        full |= over


def _between(knots: Sequence[float], i: int, layers: int) -> float:
    """Linear interpolation at layer `i` of `layers` between equally spaced `knots`."""
    place = i / max(1, layers - 1) * (len(knots) - 1)
    low = min(int(place), len(knots) - 2)
    return knots[low] + (place - low) * (knots[low + 1] - knots[low])
