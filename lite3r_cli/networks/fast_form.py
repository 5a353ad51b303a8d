"""The fast form of a network: whether it can run, how it is made, and switching between it and the ordinary form."""

from __future__ import annotations

import gc
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from lite3r_cli.engine.layers import Settings
from lite3r_cli.engine.runner import FastRunner, Stepwise
from lite3r_cli.engine.sparse_layers import reason_against_settings
from lite3r_cli.errors import BackendError
from lite3r_cli.networks.base import Prediction
from lite3r_cli.networks.family import family_of, require_family
from lite3r_cli.networks.sparsify import sparse_modules
from lite3r_cli.quant.swap import scaled_mm_reason


def form_reason(of: object, name: str) -> str | None:
    """Why a network (or any object with its `config`) has no fast path; None if it has one."""
    family = family_of(of)
    if family is None or family.fast is None:
        return f"there is no fast path for {name}"
    return None


def reason_against(model: nn.Module, settings: Settings, device: torch.device) -> str | None:
    """Why `model` with its current settings cannot run on the fast path of `device`; None if it can."""
    if (reason := form_reason(model, getattr(model, "name", type(model).__name__))) is not None:
        return reason
    if getattr(model, "ray_poses", False):
        return "the fast path has no cameras from rays"
    if settings.sparse:
        configs = {module.config for module in sparse_modules(model).values() if module.backend != "dense"}
        if (reason := next(filter(None, map(reason_against_settings, configs)), None)) is not None:
            return reason
    if settings.fp8 and device.type == "cuda":
        return scaled_mm_reason(device)
    return None


def fast_runner(model: nn.Module, settings: Settings, device: torch.device) -> FastRunner | Stepwise:
    """A runner of a loaded network on the fast engine. Raises BackendError if `reason_against` gives a reason."""
    if (reason := reason_against(model, settings, device)) is not None:
        raise BackendError(f"fast path: {reason}")
    form = require_family(model).fast
    assert form is not None  # else there was a reason
    made = form(model, settings)
    return made if isinstance(made, Stepwise) else FastRunner(made, device)


@torch.inference_mode()
def predict(runner: FastRunner | Stepwise, images: Sequence[Tensor], cameras: Any = None) -> Prediction:
    """`Network.predict` on the fast engine, for images (3, H, W) on the device; the result is on the device too, of a
    stream on the host.
    """
    if isinstance(runner, Stepwise):
        result: Prediction = runner.predict(images)
        return result
    out = runner(images, cameras)
    prediction = Prediction(*out.maps(), out.cam_from_world, out.K)
    return prediction if cameras is None else runner.form.with_known(prediction, cameras)


LITTLE = 0.05  # share of the free GPU memory: an unused form that needs no more stays there, to avoid copying it


class TwoForms:
    """A network in its ordinary and its fast form; each call chooses one.

    Unless the network is small, only one form is on the device; a change of form then moves the weights.
    """

    def __init__(self, backbone: nn.Module, settings: Settings, device: torch.device):
        self.backbone, self.settings, self.device = backbone, settings, device
        self.runner: FastRunner | Stepwise | None = None

    def fast(self) -> FastRunner | Stepwise:
        """The fast form, ready to run. Raises BackendError where `reason_against` has one."""
        if self.runner is None:
            self.runner = fast_runner(self.backbone, self.settings, self.device)
            self._make_room()
        return self.runner

    def _make_room(self) -> None:
        """Move the ordinary form to the CPU unless it is small compared with the free GPU memory."""
        size = sum(part.nbytes for part in self.backbone.state_dict().values())
        if self.device.type != "cuda" or size > LITTLE * torch.cuda.mem_get_info(self.device)[0]:
            self.backbone.to("cpu")

    def ordinary(self) -> nn.Module:
        """The ordinary form, on the device. Frees the fast form."""
        if self.runner is not None:
            self.runner = None
            gc.collect()  # a graph and its memory form a reference cycle
            self.backbone.to(self.device)
        return self.backbone
