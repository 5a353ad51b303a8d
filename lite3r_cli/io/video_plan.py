"""Plans the frames of videos besides images, and plans again if a video is shorter or longer than stated."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

from .names import printable
from .picture_sources import Journal
from .regular import BadImage
from .video import DEFAULT_VIEWS, Clip, OnFrame, even_indices

T = TypeVar("T")  # represents an image


@dataclass(frozen=True)
class FrameChoice:
    """The choice of a video's frames without `stride` and `max_views`."""

    how: str = "even"  # "auto": key frames, "even", "all", or a number of key frames
    most: int | None = DEFAULT_VIEWS  # maximum number of frames of each video

    def of(self, clip: Clip, stride: int, max_views: int | None) -> Sequence[int]:
        """The frames of a clip, in order. With `max_views` it may return more than are used in the end."""
        every = range(0, clip.count, stride)
        if stride > 1 or self.how in ("even", "all"):
            if max_views is not None or self.how == "all":
                return every
            return [every[i] for i in even_indices(len(every), self.most or DEFAULT_VIEWS)]
        looks = clip.looks()
        count = int(self.how) if self.how != "auto" else None
        return [i for i in looks.key_frames(count, max_views or self.most) if i < clip.count]

    def told(self, clip: Clip, stride: int, max_views: int | None) -> str | None:
        """Warnings about frames that were left out because there are too many."""
        if max_views is not None or self.how == "all":
            return None
        if stride > 1 or self.how == "even":
            most = self.most or DEFAULT_VIEWS
            if len(range(0, clip.count, stride)) <= most:
                return None
            return f"{most} of {clip.count} frames are used, evenly spread; --max-views takes more or fewer"
        if self.how != "auto" or self.most is None:
            return None
        without = len(clip.looks().key_frames())
        if without <= self.most:
            return None
        return f"{self.most} of {without} key frames ({clip.count} frames) are used; --max-views takes more or fewer"


def plan_frames(
    items: Sequence[T | Clip], max_views: int | None, stride: int, choice: FrameChoice
) -> list[tuple[T | Clip, int | None]]:
    """The plan: an image with None, or a video with the index of a frame."""
    images = itertools.count()
    plan: list[tuple[T | Clip, int | None]] = []
    for item in items:
        if isinstance(item, Clip):
            plan += [(item, frame) for frame in choice.of(item, stride, max_views)]
        elif next(images) % stride == 0:
            plan.append((item, None))
    return plan if max_views is None else [plan[i] for i in even_indices(len(plan), max_views)]


def decode_videos(
    items: Sequence[T | Clip],
    max_views: int | None,
    stride: int,
    journal: Journal,
    on_frame: OnFrame | None,
    choice: FrameChoice,
) -> tuple[list[tuple[T | Clip, int | None]], list[dict[str, Any]]]:
    """The final plan with decoded frames, and statistics of each video; planned again while the true length of a video
    differs from the stated one.
    """
    items = list(items)
    while True:
        plan, settled = plan_frames(items, max_views, stride, choice), True
        for clip in [item for item in items if isinstance(item, Clip)]:
            try:
                settled &= clip.fetch([frame for item, frame in plan if item is clip and frame is not None], on_frame)
                if settled and clip.damaged == clip.count:  # nothing is left after a cut behind its first frame
                    raise BadImage(f"damaged: none of its {clip.count or clip.stated} frames is whole")
            except BadImage as error:
                journal.skip(clip.path, str(error))
                items.remove(clip)
                settled = False
        if settled:
            break
    clips = [item for item in items if isinstance(item, Clip)]
    for clip in clips:
        _tell(clip, journal, choice.told(clip, stride, max_views))
    accounts = []
    for clip in clips:
        if clip.looked is not None:
            used = [frame for item, frame in plan if item is clip and frame is not None]
            accounts.append({"video": printable(clip.path), **clip.looked.as_dict(used)})
    return plan, accounts


def _tell(clip: Clip, journal: Journal, thinned: str | None) -> None:
    if clip.is_joined:
        text = "two videos joined in one file: only the first is seen; join them with ffmpeg, or give both"
        journal.warnings.append(f"{printable(clip.path)}: {text}")
    if clip.ends_early:
        stated = clip.stated - clip.dropped
        journal.degrade(clip.path, f"ends early: {clip.count} of {stated} frames can be decoded and are used")
    if clip.missing:
        journal.degrade(clip.path, f"damaged: {_frames(clip.missing)} missing in the middle")
    if clip.damaged:
        others = f"; neighbours take the places of {len(clip.instead)} wanted" if clip.instead else ""
        text = f"{clip.damaged} of {_frames(clip.count)} damaged and left out{others}"
        journal.degrade(clip.path, text)
    if thinned is not None:
        journal.warnings.append(f"{printable(clip.path)}: {thinned}")


def _frames(count: int) -> str:
    return "1 frame is" if count == 1 else f"{count} frames are"
