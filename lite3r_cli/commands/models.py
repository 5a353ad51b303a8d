"""`lite3r models`: the networks, their licences, and whether their weights are on this machine."""

from __future__ import annotations

from typing import Any

from .. import console
from .options import command


@command(general=("json", "quiet", "debug"))
def models() -> None:
    """List the networks: size, licence, source of the weights, accepted inputs, published accuracy."""
    from ..networks.installed import load_installed
    from ..networks.registry import MODELS, find_checkpoint

    load_installed()
    rows: list[dict[str, Any]] = []
    for info in MODELS.values():
        path = find_checkpoint(info.name)
        rows.append(
            {
                "name": info.name,
                "parameters": info.parameters,
                "licence": info.licence,
                "source": info.source,
                "path": None if path is None else str(path),
                "summary": info.summary,
                "takes": ["images", *info.takes],
                "metric": info.metric,
                "streams": info.streams,
                "engine": "fast" if info.fast else "ordinary",
                "engines": ["ordinary", *(["fast"] if info.fast else [])],
                "forms": ["dense", "sparse-linear", "fp8"],  # of every network
                "figures": info.figures,
            }
        )
    if console.settings.json:
        console.document({"models": rows})
        return
    console.table(
        ("model", "parameters", "licence", "weights from", "downloaded", "takes", "what it is", "published accuracy"),
        [
            (
                row["name"],
                f"{row['parameters'] / 1e6:.1f} M",
                row["licence"],
                row["source"],
                "yes" if row["path"] else "no",
                info.inputs,
                row["summary"],
                row["figures"] or "–",
            )
            for info, row in zip(MODELS.values(), rows)
        ],
        numbers=False,
    )
    slow = ", ".join(info.name for info in MODELS.values() if not info.fast)
    console.info(
        "Forms of every network: dense, sparse-linear, FP8; engines: ordinary and fast"
        + (f" (not fast: {slow})" if slow else "")
    )
