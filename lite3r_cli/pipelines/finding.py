"""Finds the pictures of a run, reports unusable ones, and splits 360° pictures into views."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from ..config import InputConfig, ReconstructConfig
from ..console import Progress, Tell
from ..data.content import content_of, file_content, joined
from ..io.control_points import read_control_points
from ..io.documents import require_folder
from ..io.images import ImageSet, Skipped, discover
from ..io.video import DEFAULT_VIEWS
from ..scene.facing import VIEWS
from ..world.panorama import CutImages, all_around


def find_images(
    config: InputConfig, progress: Progress, tell: Tell, model: str, most: int | None = DEFAULT_VIEWS
) -> ImageSet:
    """The usable images of the inputs, in order. Of a video at most `most` frames (None: any number of key frames), or
    as many as a streaming `model` handles. `tell` is called for what is skipped. Raises InputError, UsageError.
    """
    with progress.stage("Find images", minor=True):
        images = discover(
            config.inputs,
            masks=config.masks,
            max_views=config.max_views,
            stride=config.stride,
            max_pixels=config.max_pixels,
            strict=config.strict,
            recursive=config.recursive,
            of_video=most,
            frames=config.frames,
            of_stream=lambda: _of_stream(model),
        )
    for text in [*lines_of(images.skipped), *images.warnings]:
        tell(text)
    if config.frames != InputConfig.frames and not images.videos:
        tell(f"--frames {config.frames} is for videos, and there is none; --max-views N takes N of the photos")
    if config.panorama == "off":
        return images
    with progress.stage("Find images", minor=True):
        chosen, said = all_around(images, always=config.panorama == "on")
    for text in said:
        tell(text)
    if not chosen:
        return images
    names = ", ".join(images.records[i].name for i in chosen[:3]) + (", …" if len(chosen) > 3 else "")
    progress.note(f"{len(chosen)} of {len(images)} images are 360° images, cut into {VIEWS} views each: {names}")
    return CutImages.of(images, chosen)


def _of_stream(model: str) -> int | None:
    """Imported late: a wrong path is reported, and images are found, before torch is loaded."""
    from ..networks.checkpoint import frames_of_video

    return frames_of_video(model)


def lines_of(skipped: Sequence[Skipped]) -> list[str]:
    """One line per file, or per reason that many files share: a folder may have hundreds of unsupported files."""
    names: dict[str, list[str]] = {}
    for item in skipped:
        names.setdefault(item.reason, []).append(item.name)
    lines = []
    for reason, those in names.items():
        if len(those) > 3:
            those = [f"{', '.join(those[:3])}, … ({len(those)} files)"]
        lines += [f"skipped {name}: {reason}" for name in those]
    return lines


def require_named_files(config: ReconstructConfig) -> None:
    """Raises UsageError or InputError for files of options that are only needed after the network has run."""
    if config.input.masks is not None:
        require_folder(Path(config.input.masks), "--masks")
    if config.world.gcp is not None:
        read_control_points(Path(config.world.gcp))


def what_is_read(config: ReconstructConfig, images: ImageSet) -> dict[Path, str]:
    """The user's files that --overwrite must not replace, and what each is."""
    given = {path: f"what {option} names" for option, path in _named_files(config).items()}
    return given | {record.path: "a photo that is read" for record in images.records}


def content_of_inputs(config: ReconstructConfig, images: ImageSet) -> dict[str, str | None]:
    """What is read → the hash of its content. Raises InputError."""
    files = dict.fromkeys(record.path for record in images.records)  # of a video, one for all frames
    named = {f"the content of {option}": content_of(path) for option, path in _named_files(config).items()}
    return {"the content of the images": joined(map(file_content, files)), **named}


def _named_files(config: ReconstructConfig) -> dict[str, Path]:
    """Option → the file or folder that it names."""
    predict = config.predict
    named = {
        "--masks": config.input.masks, "--cameras": predict.cameras, "--depth": predict.depth,
        "--intrinsics": predict.intrinsics_file, "--gcp": config.world.gcp,
    }  # fmt: skip
    return {option: Path(path) for option, path in named.items() if path is not None}
