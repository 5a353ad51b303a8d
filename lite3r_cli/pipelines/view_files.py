"""Writes the files of each view in threads during fusion: depth, pictures of depth and confidence, and memory/."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType, TracebackType
from typing import TYPE_CHECKING, Any, TypeVar

from ..cores import count_cores
from ..io import depth_files
from ..io.atomic import OutputSet, Place
from ..io.files import link_file
from ..scene.posed_view import View
from .depth_request import DepthFiles

if TYPE_CHECKING:
    from .scene_memory import Memories

T = TypeVar("T")
MOST_THREADS = 6  # more of them would wait for Python's interpreter lock, and fusion on a GPU for them


@dataclass(frozen=True)
class Kept:
    """Files of a view that an older output has, under the name `stem` in its folder."""

    folder: Path
    stem: str
    scale: float | None = None  # of the depth file; None: depth is written again

    def link(self, out: OutputSet | Place, name: str, stem: str) -> bool:
        """Link the file `name` ("depth/{}.png"), whose stem is `stem` in the new output; False if it does not exist."""
        source = self.folder / name.format(self.stem)
        if not source.is_file():
            return False
        link_file(source, out.path(name.format(stem)))
        return True


class ViewFiles:
    """`with ViewFiles(out, …) as files: files.start(views, stems); …; scales = files.scales()`.

    At the end of the block, files that were not begun are dropped, and those in progress are waited for: nothing is
    written into a folder that is about to be removed.
    """

    def __init__(
        self,
        out: OutputSet | Place,
        previews: bool,
        save_npy: bool,
        depth: DepthFiles = DepthFiles(),
        kept: Mapping[str, Kept] = MappingProxyType({}),
    ) -> None:
        self.kept = kept  # by stem
        self.out, self.previews, self.save_npy, self.depth = out, previews, save_npy, depth
        self._pool = ThreadPoolExecutor(min(MOST_THREADS, count_cores()), thread_name_prefix="view files")
        self.remembered = False  # whether memory/ is among the files
        self._scales: list[Future[float]] = []
        self._pictures: list[Future[None]] = []
        self._failure: BaseException | None = None

    def start(
        self, views: Sequence[View], stems: Sequence[str], memories: Memories | None = None, first: int = 0
    ) -> None:
        """Start writing the files of views; with `memories` also these. `first` is the number of views[0] there."""
        self.depth, self.remembered = self.depth.settled(views), memories is not None
        for k, (view, stem) in enumerate(zip(views, stems, strict=True)):
            if memories is not None:
                self._pictures.append(self._submit(memories.write, self.out, first + k, view))
            self._scales.append(self._submit(self._depth, view, stem))
            if self.previews:
                self._pictures.append(self._submit(self._look, view, stem))

    @property
    def started(self) -> bool:
        return bool(self._scales)

    def _submit(self, write: Callable[..., T], *arguments: Any) -> Future[T]:
        def run() -> T:
            try:
                return write(*arguments)
            except BaseException as error:
                self._failure = self._failure or error
                raise

        return self._pool.submit(run)

    def raise_failure(self) -> None:
        """Raises the error of the first file that failed."""
        if self._failure is not None:
            raise self._failure

    def wait_for(self, views: int) -> None:
        """Wait for the depth files of the first views that were begun; their other files were begun before those of
        later views. Raises OutputError.
        """
        for scale in self._scales[:views]:
            scale.result()

    def scales(self) -> list[float]:
        """Waits for all files; the scales of the depth files, in the order of the views. Raises OutputError."""
        for picture in self._pictures:
            picture.result()
        return [scale.result() for scale in self._scales]

    def _depth(self, view: View, stem: str) -> float:
        assert view.depth is not None  # every predicted view has depth and confidence
        kept = self.kept.get(stem)
        if kept is not None and self._stays(kept) and kept.link(self.out, "depth/{}.png", stem):
            if self.save_npy and not kept.link(self.out, "depth/{}.npy", stem):
                depth_files.write_depth_npy(self.out.path(f"depth/{stem}.npy"), self.depth.sized(view))
            assert kept.scale is not None
            return kept.scale
        depth = self.depth.sized(view)
        path = self.out.path(f"depth/{stem}.png")
        scale = depth_files.write_depth_png(path, depth, self.depth.scale)
        self.out.note(path)
        if self.save_npy:
            path = self.out.path(f"depth/{stem}.npy")
            depth_files.write_depth_npy(path, depth)
            self.out.note(path)
        return scale

    def _stays(self, kept: Kept) -> bool:
        """Whether an older depth file has the scale that this output needs."""
        return kept.scale is not None and (not self.depth.one_scale or kept.scale == self.depth.scale)

    def _look(self, view: View, stem: str) -> None:
        assert view.depth is not None and view.confidence is not None
        kept = self.kept.get(stem)
        if kept is None or not kept.link(self.out, "depth_preview/{}.png", stem):
            path = self.out.path(f"depth_preview/{stem}.png")
            depth_files.write_depth_preview(path, view.depth)
            self.out.note(path)
        if kept is None or not kept.link(self.out, "confidence/{}.png", stem):
            path = self.out.path(f"confidence/{stem}.png")
            depth_files.write_confidence(path, view.confidence)
            self.out.note(path)

    def __enter__(self) -> ViewFiles:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._pool.shutdown(wait=True, cancel_futures=True)
