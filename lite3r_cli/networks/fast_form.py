"""Whether a network has a form for the fast engine, and that form, ready to run."""

from __future__ import annotations

import torch
from torch import nn

from lite3r_cli.engine import sparse
from lite3r_cli.engine.layers import Settings
from lite3r_cli.engine.runner import FastRunner
from lite3r_cli.errors import BackendError
from lite3r_cli.networks.family import family_of, require_family
from lite3r_cli.networks.sparsify import sparse_modules
from lite3r_cli.quant.swap import scaled_mm_reason


def reason_against(model: nn.Module, settings: Settings, device: torch.device) -> str | None:
    """Why `model` cannot run on the fast path here; None if it can."""
    family = family_of(model)
    if family is None or family.fast is None:
        return f"there is no fast path for {getattr(model, 'name', type(model).__name__)}"
    if settings.sparse:
        reasons = (sparse.reason_against(m) for m in sparse_modules(model) if m.backend != "dense")
        if (reason := next(filter(None, reasons), None)) is not None:
            return reason
    if settings.fp8 and device.type == "cuda":
        return scaled_mm_reason(device)
    return None


def fast_runner(model: nn.Module, settings: Settings, device: torch.device) -> FastRunner:
    """A loaded network on the fast engine. Raises BackendError for a network or settings without a fast path."""
    if (reason := reason_against(model, settings, device)) is not None:
        raise BackendError(f"fast path: {reason}")
    form = require_family(model).fast
    assert form is not None  # else there was a reason
    return FastRunner(form(model, settings), settings, device)
