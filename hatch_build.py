"""README for a package index, where relative links and pictures do not work."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from hatchling.metadata.plugin.interface import MetadataHookInterface

IMAGE = re.compile(r"!\[([^\]]*)\]\((?!https?:)([^)\s]+)\)")
LINK = re.compile(r"(?<!!)\[([^\]]+)\]\((?!https?:|#)([^)\s]+)\)")


class ReadmeHook(MetadataHookInterface):
    """Sets `readme` from README.md."""

    def update(self, metadata: dict[str, Any]) -> None:
        """Called by hatchling for the metadata of wheel and source archive."""
        text = Path(self.root, "README.md").read_text(encoding="utf-8")
        repository = self.config.get("repository")
        metadata["readme"] = {"content-type": "text/markdown", "text": for_index(text, repository)}


def for_index(text: str, repository: str | None = None) -> str:
    """README with absolute links into `repository`. Without a repository, a picture becomes its description and a link
    the name of the file in the source archive.
    """
    if repository is not None:
        root = repository.rstrip("/")
        text = IMAGE.sub(lambda m: f"![{m[1]}]({root}/raw/main/{m[2]})", text)
        return LINK.sub(lambda m: f"[{m[1]}]({root}/blob/main/{m[2]})", text)
    text = IMAGE.sub(lambda m: f"*[picture: {m[1]}]*", text)
    return LINK.sub(in_archive, text)


def in_archive(link: re.Match[str]) -> str:
    """The text of a Markdown link, and its file where the text does not name it."""
    text, file = " ".join(link[1].split()), link[2].partition("#")[0]
    return text if text == file else f"{text} (`{file}` in the source archive)"
