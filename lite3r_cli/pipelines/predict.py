"""Images → views: reads and resizes images, predicts all of them in one pass, and converts to original pixels."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from contextlib import ExitStack, nullcontext
from dataclasses import asdict, dataclass, field, replace
from hashlib import blake2b
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from .. import runtime
from ..config import PredictConfig
from ..console import Progress
from ..errors import BackendError, InputError, MemoryLimitError
from ..io.images import Skipped
from ..io.regular import reason_of
from ..io.resize import network_size
from ..networks.base import Network, Prediction
from ..networks.checkpoint import Checkpoint, open_checkpoint
from ..networks.family import own_family, preparation_of
from ..networks.layer_steps import Told
from ..networks.pictures import NetworkInput
from ..refine.backend import require_pycolmap
from ..scene.device_maps import DeviceMaps
from ..scene.frame import FIRST_CAMERA, WorldFrame
from ..scene.posed_view import View
from ..scene.priors import CameraPriors
from ..scene.sparse_points import SparseModel
from ..stopping import responsive
from ..world.given_cameras import place
from ..world.undistort import UndistortedImages
from . import known_cameras, streams
from .ahead import Edges
from .as_views import as_rigs, shown_colors, to_views
from .bars import Bars, find_bars, fit_between
from .beforehand import Beforehand, focal_notes, known_warnings
from .engine_choice import FAST, Asked, Machine, Plan, resolve
from .later import Later
from .lens_hints import lens_warnings, no_lens_warnings
from .no_scene import border_warnings, in_window, shown_to_network, with_masks
from .parallax import parallax_warnings
from .planned import PlannedNetwork, Ran
from .preprocess import align, fit, pixels_needed
from .refinement import begun_early, beside, refined

if TYPE_CHECKING:
    from ..io.images import ImageRecord, ImageSet
    from ..refine.early import EarlyMatches
    from .team import Team

NOTHING_READ: Mapping[int, NetworkInput] = MappingProxyType({})


@dataclass(frozen=True)
class Predictions:
    """The prediction for an image set."""

    views: list[View]  # in `frame`
    indices: list[int]  # views[j] is image indices[j] of the set
    network_sizes: list[tuple[int, int]]  # (h, w) that each view had inside the network
    skipped: list[Skipped] = field(default_factory=list)  # images that could not be decoded
    warnings: list[str] = field(default_factory=list)
    sparse: SparseModel | None = None  # with --refine
    verdicts: list[dict[str, object]] | None = None  # per view, the decision of the refinement
    account: dict[str, object] | None = None  # of the camera search in the refinement
    anchor: dict[str, Any] | None = None  # source of the metric scale and of the location
    priors: CameraPriors = CameraPriors.nothing(0)  # known cameras, per view
    inputs: list[NetworkInput] = field(default_factory=list, repr=False)  # per view, the input of the network
    frame: WorldFrame = FIRST_CAMERA  # the world of poses and points
    colors: list[np.ndarray | None] = field(default_factory=list)  # per view (h, w, 3) uint8, the reduced photograph
    held: DeviceMaps = field(default_factory=DeviceMaps, repr=False)  # maps of the views that are still on the device
    sample: Predictions | None = None  # some of many views, with `inputs`, for estimating the up direction
    early: EarlyMatches | None = field(default=None, repr=False)  # begun for --refine while the network ran


@dataclass(frozen=True)
class Pictures:
    """Pictures of a set at the network's size."""

    indices: list[int]  # of the set
    inputs: list[NetworkInput]
    skipped: list[Skipped] = field(default_factory=list)  # that could not be decoded
    bending: Later[list[str]] | None = None  # warnings about lens distortion, computed in the background
    edges: Edges = field(default_factory=Edges)  # straight ones of the pictures

    def only(self, positions: Sequence[int]) -> Pictures:
        """The pictures at these positions, without the list of undecodable ones."""
        return Pictures([self.indices[k] for k in positions], [self.inputs[k] for k in positions])


class Predictor:
    """A network on a device, ready for image sets. `checkpoint` is that of `config.model`, if it is already open.

    With `background` a thread reads its values while `read` decodes pictures. Predictions of up to `repeats` pixels are
    recorded if their shapes repeat. The constructor raises BackendError (device) and WeightsError (checkpoint); errors
    in the values are raised by the first call that needs them.
    """

    def __init__(
        self,
        config: PredictConfig,
        progress: Progress | None = None,
        checkpoint: Checkpoint | None = None,
        background: bool = False,
        repeats: int = 0,
    ) -> None:
        self.config, self._repeats = config, repeats
        self.team: Team | None = None  # other processes that take part in predictions
        self.lens_warnings = lens_warnings  # `no_lens_warnings` for a caller that shows none
        self._progress = progress = progress or Progress()
        if config.refine:
            require_pycolmap()  # reported before the network is loaded
        known_cameras.require_options(config, own_family(config.model), config.model)  # before a download
        self.beforehand = Beforehand.read(config)
        with progress.stage("Load model", minor=background):  # then `_loaded` tells all of it
            self.runtime = runtime.choose(config.device, config.dtype)
            device = self.runtime.torch_device
            if device.type == "cuda":
                Later(lambda: runtime.warm_up(device, self.runtime.torch_dtype), "warm up")
            opened = open_checkpoint(config.model, progress.note) if checkpoint is None else nullcontext(checkpoint)
            with ExitStack() as stack:
                self.checkpoint = stack.enter_context(opened)
                self.origin, self.fingerprint = self.checkpoint.origin, self.checkpoint.fingerprint
                known_cameras.require_options(config, self.checkpoint.spec.family, self.checkpoint.spec.name)
                machine = Machine.of(device, self.runtime.torch_dtype)
                plan = resolve(Asked.of(config), self.checkpoint.facts, machine)
                if device.type == "cuda" and plan.engine.chosen == FAST:
                    Later(runtime.warm_up_compiler, "warm up compiler")
                self.built = self.checkpoint.build()  # gets its values in the background
                self._prepare, self._patch_size = preparation_of(self.built), self.built.patch_size
                closing = stack.pop_all()
            self._told = not background
            self._loading = Later(lambda: self._load(self.built, plan, device, closing), "load model")
            if not background:
                self._loading.result()
        for text in (*plan.notes, *self.origin.notes):
            progress.note(text)

    def _load(
        self, built: Network, plan: Plan, device: torch.device, closing: ExitStack
    ) -> tuple[Network, PlannedNetwork, float]:
        """The loaded network and the planned one, and the seconds of loading."""
        start = time.perf_counter()
        with closing:
            backbone = self.checkpoint.load(device, plan.loaded_dtype, built)
        known_cameras.configure(backbone, self.config)
        network = PlannedNetwork(backbone, plan, device, self._repeats)
        network.prepare()
        return backbone, network, time.perf_counter() - start

    def _loaded(self) -> tuple[Network, PlannedNetwork]:
        backbone, network, seconds = self._loading.result()
        if not self._told:
            self._told = True
            self._progress.record("Load model", seconds)
        return backbone, network

    @property
    def streams(self) -> bool:
        """Whether the network processes pictures one by one; known before it is loaded."""
        return self.checkpoint.spec.family.streams

    @property
    def backbone(self) -> Network:
        """The loaded network."""
        return self._loaded()[0]

    @property
    def network(self) -> PlannedNetwork:
        """The network in its planned form."""
        return self._loaded()[1]

    def settle(self) -> None:
        """Wait for the loading thread, whatever its result."""
        self._loading.wait()

    def choices(self, ran: Sequence[Ran] | None = None) -> dict[str, dict[str, Any]]:
        """Device, precision, attention, FP8 and engine: request, choice and reason, as in run.json; measurements are
        those of the predictions `ran`, None: of all.
        """
        divided = {} if self.team is None else {"processes": asdict(self.team.choice)}
        return self.runtime.as_dict() | self.network.choices(ran) | divided

    def predict(
        self,
        images: ImageSet,
        progress: Progress | None = None,
        *,
        indices: Sequence[int] | None = None,
        strict: bool = False,
    ) -> Predictions:
        """Views of the images `indices` (default: all), in that order.

        An undecodable image is skipped and listed, or raises InputError if `strict`; a set without a usable image also
        raises it. Raises MemoryLimitError if the device has too little memory.
        """
        progress = progress or Progress()
        images = self.as_pinholes(images)
        pictures = self.read(images, progress, indices=indices, strict=strict)
        return self.refine(images, self.predict_pictures(images, pictures, progress), progress)

    def predict_pictures(
        self, images: ImageSet, pictures: Pictures, progress: Progress | None = None, refined_next: bool = True
    ) -> Predictions:
        """Views of pictures that have been read, without refinement. If `refine` comes next, the images are matched
        beside the network.
        """
        progress = progress or Progress()
        kept = pictures.indices
        inputs, bars = self._between_bars(images, kept, pictures.inputs, progress)
        inputs = with_masks(images, kept, inputs)
        batch = [shown_to_network(item) for item in inputs]
        digests = Later(lambda: [blake2b(rgb.tobytes(), digest_size=16).digest() for rgb in batch], "digests")
        records = [images.records[i] for i in kept]
        priors = self.beforehand.priors(records)
        for text in [*focal_notes(priors, records), *streams.notes(self.backbone, batch)]:
            progress.note(text)
        told = known_cameras.for_inputs(self.backbone, self.beforehand, priors, records, inputs)
        cameras: dict[str, Any] = {} if told is None else {"cameras": told}
        known = None if bars else pictures.bending
        bending = known or Later(lambda: self.lens_warnings(self.config, records, inputs, pictures.edges), "lens")
        early = begun_early(self, images, kept, inputs) if refined_next else None
        with progress.stage("Predict") as step:
            unseen = [in_window(item) for item in inputs]
            run = beside(early, lambda: self._run(batch, unseen, cameras, lambda where: step(where=where)))
            prediction = responsive(run)
        held = DeviceMaps()
        views = to_views(images, kept, inputs, prediction, held)
        del prediction
        frame = known_cameras.frame_of(self.backbone, priors, self.config.depth is not None)
        warnings = parallax_warnings(views, digests.result(), frame.metric)
        warnings += border_warnings(inputs) + known_warnings(priors, records) + bending.result()
        placed = as_rigs(place(views, priors).views, priors.known_poses)
        warnings += known_cameras.measured_warnings(self.beforehand.depth, told, placed, records)
        if bars:
            warnings.append(f"all {len(inputs)} images have plain bars ({bars}): left out, no part of the scene")
        return Predictions(
            views=placed,
            indices=kept,
            network_sizes=[rgb.shape[:2] for rgb in batch],
            skipped=pictures.skipped,
            warnings=warnings,
            priors=priors,
            inputs=list(inputs),
            frame=frame,
            colors=[shown_colors(record, item) for record, item in zip(records, inputs)],
            held=held,
            early=early,
        )

    def refine(
        self, images: ImageSet, found: Predictions, progress: Progress | None = None, camera_model: str | None = None
    ) -> Predictions:
        """Apply `--refine`, if requested, in a frame with small coordinates. `camera_model`: None as requested."""
        if not self.config.refine:
            return found
        config = self.config if camera_model is None else replace(self.config, camera_model=camera_model)
        found.held.release()  # the depth has changed
        return refined(config, images, found, progress or Progress(), self.runtime.torch_device)

    def tokens(self, record: ImageRecord) -> int:
        """Number of patches of a picture in the network."""
        longest = self.config.resolution or self._prepare.longest_side(record.height, record.width)
        height, width = network_size(record.width, record.height, longest, self._patch_size)
        return height * width // self._patch_size**2

    def as_pinholes(self, images: ImageSet) -> ImageSet:
        """The set in which pictures with known lens distortion are read undistorted; the other methods
        need this set.
        """
        return UndistortedImages.through(images, self.beforehand.lenses([*images.records, *images.spares]))

    def read(
        self,
        images: ImageSet,
        progress: Progress | None = None,
        *,
        indices: Sequence[int] | None = None,
        strict: bool = False,
        known: Mapping[int, NetworkInput] = NOTHING_READ,
        look_at_lens: bool = True,
    ) -> Pictures:
        """The images `indices` (default: all) at the network's size, those `known` without reading them again. Raises
        like `predict`. Warnings about the lens are looked for if `look_at_lens`.
        """
        progress = progress or Progress()
        indices = range(len(images)) if indices is None else indices
        prepare, size, native = self._prepare, self._patch_size, self.config.preprocess == "native"
        found = {} if native else {i: known[i] for i in indices if i in known}  # the authors crop them as a set
        skipped: list[Skipped] = []
        with progress.stage("Read images", total=len(indices)) as step:
            how = (prepare, self.config.resolution, size, native)
            for i, result in images.read_each(
                lambda rgb, record: fit(rgb, *how, (record.height, record.width)),
                [i for i in indices if i not in found],
                least=lambda record: pixels_needed((record.height, record.width), *how),
            ):
                if not isinstance(result, InputError):
                    found[i] = result
                elif strict:
                    raise result
                else:
                    skipped.append(Skipped(images.records[i].name, reason_of(result)))
                step()
        kept = [i for i in indices if i in found]
        if not kept:
            reasons = "; ".join(f"{s.name}: {s.reason}" for s in skipped[:3]) or "the set is empty"
            raise InputError(f"none of the {len(indices)} images can be used: {reasons}")
        inputs, records = align([found[i] for i in kept], prepare, native), [images.records[i] for i in kept]
        if self.runtime.torch_device.type == "cuda":
            self.settle()  # its short operations would wait for Python's lock among the threads that begin now
        edges, warn = Edges(), self.lens_warnings if look_at_lens else no_lens_warnings
        return Pictures(kept, inputs, skipped, Later(lambda: warn(self.config, records, inputs, edges), "lens"), edges)

    def _between_bars(
        self, images: ImageSet, kept: Sequence[int], inputs: list[NetworkInput], progress: Progress
    ) -> tuple[list[NetworkInput], Bars]:
        """Read pictures with bars again, so that the network gets only what is between the bars."""
        native = self.config.preprocess == "native"
        bars = Bars() if native else find_bars([item.rgb for item in inputs])
        if not bars:
            return inputs, bars
        prepare, size = self._prepare, self._patch_size
        with progress.stage("Read images", total=len(kept)) as step:
            for j, i in enumerate(kept):
                inputs[j] = fit_between(
                    images.read(i), bars, lambda rgb: fit(rgb, prepare, self.config.resolution, size)
                )
                step()
        return inputs, bars

    def _run(
        self, batch: Sequence[np.ndarray], unseen: Sequence[np.ndarray | None], cameras: dict[str, Any], tell: Told
    ) -> Prediction:
        """One forward pass over (h, w, 3) uint8 images, whose pixels `unseen` (h, w) show no scene. Results are
        float32, cameras on the CPU, maps possibly on the device.
        """
        try:
            if self.team is not None and len(batch) >= self.team.rank.count:
                return self._finite(self.team.predict(self.network, batch, unseen, tell, **cameras))
            prediction = self.network.answer(batch, unseen, tell, **cameras)
        except (MemoryError, RuntimeError) as error:
            if not runtime.is_out_of_memory(error):
                raise
            raise MemoryLimitError(self._memory_message(batch)) from error
        return self._finite(prediction)

    def _finite(self, prediction: Prediction) -> Prediction:
        """Raises BackendError for cameras that are not finite."""
        if not (torch.isfinite(prediction.cam_from_world).all() and torch.isfinite(prediction.K).all()):
            exact = self.runtime.torch_dtype == torch.float32
            raise BackendError(
                f"{self.backbone.name} predicted cameras that are not finite in {self.runtime.dtype.chosen} on "
                f"{self.runtime.device.chosen}: try "
                + ("another --resolution or checkpoint" if exact else "--dtype float32 or another --resolution")
            )
        return prediction

    def _memory_message(self, batch: Sequence[np.ndarray]) -> str:
        tokens = max(rgb.shape[0] * rgb.shape[1] for rgb in batch) // self._patch_size**2
        longest = max(max(rgb.shape[:2]) for rgb in batch)
        peak = runtime.peak_memory(self.runtime.torch_device)
        used = peak.get("device_bytes", peak["host_bytes"]) / 2**30
        return (
            f"out of memory on {self.runtime.device.chosen}: {len(batch)} views × {tokens} tokens, "
            f"{used:.1f} GiB at the peak; "
            f"lower --resolution (now {longest}) or limit the images with --max-views"
        )
