"""Facts about a published checkpoint that are known before the download: size, licence, source. Imports no torch."""

from __future__ import annotations

from dataclasses import dataclass

from lite3r_cli.checkpoints import hub

APACHE, NON_COMMERCIAL = "Apache-2.0", "CC-BY-NC-4.0"
COMPARED = "ETH3D {}, 7-Scenes {}, TUM-dynamics {} (AUC@30 in %, reproduction report of VGGT-Ω's authors)"
LITE3R = "AIGeeksGroup/Lite3R"  # the repository of Lite3R's authors


@dataclass(frozen=True)
class ModelInfo:
    """A checkpoint with a model name. Without a `repository` it ships with this package."""

    name: str
    parameters: int
    licence: str
    summary: str
    repository: str | None = None  # OWNER/NAME on the hub
    revision: str = hub.MAIN  # a branch, or a pinned commit
    file: str | None = None  # file in the package or repository; None: the only checkpoint of the repository
    takes: tuple[str, ...] = ()  # inputs besides images: "cameras", "depth"
    metric: bool = False  # depth and positions are in metres
    fast: bool = True  # it runs on the fast engine
    streams: bool = False  # it processes the frames of a long video one after the other
    figures: str = ""  # published accuracy, with the source

    @property
    def inputs(self) -> str:
        """Its inputs and the unit of its output, as text."""
        first = "a stream" if self.streams else "images"
        return ", ".join((first, *self.takes)) + (" → metres" if self.metric else "")

    @property
    def source(self) -> str:
        """Where the weights come from, as text."""
        return f"{hub.PREFIX}{self.repository}" if self.repository else "ships with this package"
