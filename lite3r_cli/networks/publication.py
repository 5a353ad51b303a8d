"""What is said of a published checkpoint before it is here: its size, licence and place. Imports no torch."""

from __future__ import annotations

from dataclasses import dataclass

from lite3r_cli.checkpoints import hub

APACHE, NON_COMMERCIAL = "Apache-2.0", "CC-BY-NC-4.0"
COMPARED = "ETH3D {}, 7-Scenes {}, TUM-dynamics {} (AUC@30 in %, reproduction report of VGGT-Ω's authors)"
LITE3R = "AIGeeksGroup/Lite3R"  # the repository of the authors of Lite3R


@dataclass(frozen=True)
class ModelInfo:
    """A checkpoint that can be asked for by name. It ships with this package where it has no `repository`."""

    name: str
    parameters: int
    licence: str
    summary: str
    repository: str | None = None  # OWNER/NAME on the hub
    revision: str = hub.MAIN  # a commit, where one is pinned
    file: str | None = None  # of the package or the repository; None: the only checkpoint of the repository
    takes: tuple[str, ...] = ()  # beside pictures: "cameras", "depth"
    metric: bool = False  # it answers in metres
    fast: bool = False  # it runs on the fast engine
    streams: bool = False  # it sees the frames of a video one after the other, many of them
    figures: str = ""  # what is published of its accuracy, with the source

    @property
    def inputs(self) -> str:
        """What it takes and in which unit it answers, for people."""
        first = "a stream" if self.streams else "pictures"
        return ", ".join((first, *self.takes)) + (" → metres" if self.metric else "")

    @property
    def source(self) -> str:
        """Where the weights come from, for people."""
        return f"{hub.PREFIX}{self.repository}" if self.repository else "ships with this package"
