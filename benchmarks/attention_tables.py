"""Heads and rows of the tables that `figures.py` makes of `dense_attention.py`'s and `many_views.py`'s measurements."""

from __future__ import annotations

from statistics import fmean

Table = tuple[tuple[str, ...], list[list[str]]]


def _ms(value: float) -> str:
    return f"{value:.3f}" if value < 1 else f"{value:.2f}" if value < 10 else f"{value:,.1f}"


def layers(document: dict) -> Table:
    """One layer of dense attention by three kernels, and how long a call keeps the host."""
    head = (
        "one layer, ms (TF/s)",
        "FlashAttention-4",
        "cuDNN",
        "torch's FlashAttention",
        "host, µs: FlashAttention-4",
        "torch",
    )
    lines = []
    for row in document["layers"]:
        cells = [f"{_ms(row[f'{way}_ms'])} ({row[f'{way}_tflops']:.0f})" for way in ("fa4", "cudnn", "flash")]
        name = f"{row['what']}: {row['sequences']} × {row['tokens']:,} tokens, {row['heads']} heads"
        lines.append([name, *cells, f"{row['fa4_host_us']:.0f}", f"{row['torch_host_us']:.0f}"])
    return head, lines


def sparse(document: dict) -> Table:
    """Block-sparse attention: queries × keys of a block, 10 % of the pairs."""
    rows = document["sparse"]
    tokens = list(dict.fromkeys(row["tokens"] for row in rows))
    head = ["10 % of the pairs, ms"]
    for count in tokens:
        head += [f"{count:,} tokens", "TF/s", "with means"]
    lines = []
    for what in dict.fromkeys(row["what"] for row in rows):
        own = [next(row for row in rows if (row["what"], row["tokens"]) == (what, count)) for count in tokens]
        cells = [(_ms(row["ms"]), f"{row['tflops']:.0f}", _ms(row["ms_with_means"])) for row in own]
        lines.append([what, *(cell for part in cells for cell in part)])
    return tuple(head), lines


def with_flash(row: dict) -> float:
    """Mean of the two turns."""
    return fmean((row["fa4_ms"], row["fa4_again_ms"]))


def networks(document: dict) -> Table:
    """VGGT-1B with and without FlashAttention-4, in turns."""
    rows = {(row["variant"], row["views"]): row for row in document["networks"]}
    views = sorted({views for _, views in rows})
    lines = []
    for variant in dict.fromkeys(variant for variant, _ in rows):
        own = [rows[variant, count] for count in views]
        fast = [with_flash(row) for row in own]
        lines.append([f"`{variant}`, cuDNN", *(f"{row['cudnn_ms']:,.1f}" for row in own)])
        lines.append([f"`{variant}`, FlashAttention-4", *(f"{value:,.1f}" for value in fast)])
        lines.append(["times as fast", *(f"{row['cudnn_ms'] / value:.2f}" for row, value in zip(own, fast))])
    return ("VGGT-1B, ms", *(f"{count} views" for count in views)), lines


def fewer_queries(document: dict) -> Table:
    """The variants of `many_views.py` whose queries are merged, and the form that they change, beside dense attention
    on the same scenes.
    """
    rows = document["rows"]
    base = {row["window"]: row for row in rows if row["name"] == "dense"}
    head = ("", "queries saved", "AbsRel", "AUC@30, points", "AUC@5, points", "dense: AbsRel")
    lines = []
    for name in dict.fromkeys(row["name"] for row in rows):
        if name.startswith("dense"):
            continue
        own = [row for row in rows if row["name"] == name]
        beside = [base[row["window"]] for row in own]
        size = 4 if " of 4 " in name else 2
        saved = 100 * fmean(row.get("merged", 0.0) for row in own) * (1 - 1 / size)
        cells = [f"{100 * (sum(r['absrel'] for r in own) / sum(r['absrel'] for r in beside) - 1):+.1f} %"]
        cells += [f"{100 * fmean(r[k] - b[k] for r, b in zip(own, beside)):+.1f}" for k in ("auc30", "auc5")]
        cells = [cell.replace("-", "−") for cell in cells]
        lines.append([name, f"{saved:.0f} %", *cells, f"{fmean(row['depth'] for row in own):.3f}"])
    return head, lines
