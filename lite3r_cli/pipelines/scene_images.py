"""New photos and the photographs of a written scene as one set of images."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType

from ..errors import InputError
from ..io.codecs.header import Header
from ..io.decode import Picture
from ..io.images import ImageRecord, ImageSet
from ..io.names import printable
from ..io.regular import BadFile
from ..io.view_memory import ViewMemory
from ..scene.posed_view import View
from .written_scene import Photographs, WrittenScene


@dataclass
class SceneImages(ImageSet):
    """The new photos, then the photographs of a scene, upright and undistorted like its views."""

    new: int = 0  # number of new photos
    captured: list[View] = field(default_factory=list)  # views of the photographs that still exist
    photographs: Photographs | None = None

    @classmethod
    def of(
        cls,
        photos: ImageSet,
        scene: WrittenScene,
        views: Sequence[View],
        memories: Mapping[str, ViewMemory] = MappingProxyType({}),
    ) -> SceneImages:
        """`memories` identify unchanged files. Raises InputError if none of the scene's photographs is left."""
        found = scene.photographs()
        found.sources = {name: kept.source for name, kept in memories.items() if kept.source is not None}
        captured = [view for view in views if view.depth is not None and found.has(view)]
        if not captured:
            raise InputError(
                f"{printable(scene.folder)}: none of its {len(views)} photos is found, and new ones are located among "
                f"them: {found.why_missing([view.name for view in views])}"
            )
        records = [ImageRecord(view.name, Path(view.name), view.width, view.height) for view in captured]
        return cls([*photos.records, *records], photos.skipped, new=len(photos), captured=captured, photographs=found)

    def view(self, i: int) -> View:
        """The scene's view of image i, which is not new."""
        return self.captured[i - self.new]

    def read_picture(self, i: int, least: tuple[int, int] | None = None) -> Picture:
        if i < self.new:
            return super().read_picture(i, least)
        assert self.photographs is not None
        rgb = self.photographs.read(self.view(i))
        if rgb is None:
            raise BadFile(self.records[i].path, "has become another image since the scene was made")
        return Picture(rgb, None, Header("captured", rgb.shape[1], rgb.shape[0]))
