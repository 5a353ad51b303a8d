"""The entry point of sparse-linear attention: chooses a back end, computes both branches and mixes them.

sum     O = O_sparse + W · O_linear             (SLA, arXiv 2509.24006; W (D, D) = 0 switches the linear branch off)
convex  O = α · O_sparse + (1 − α) · O_linear   (SLA2, arXiv 2602.12675; one α per head; α = 1 where nothing is skipped)
"""

from __future__ import annotations

import torch
from torch import Tensor

from lite3r_cli.attention import torch_backend
from lite3r_cli.attention.block_map import BlockMap, block_map
from lite3r_cli.attention.features import FEATURES, widened
from lite3r_cli.attention.packed import PackedPlan, packed_attention
from lite3r_cli.attention.reference import EPSILON, both_branches
from lite3r_cli.attention.sparse_config import Formula
from lite3r_cli.attention.tiling import TokenTiling, packed_tiling
from lite3r_cli.errors import BackendError, UsageError
from lite3r_cli.layers.dense import dense
from lite3r_cli.runtime import Choice

BACKENDS = ("auto", "dense", "torch", "triton", "reference")


def triton_reason() -> str | None:
    """Why the Triton kernels cannot run here; None if they can."""
    try:
        import triton  # noqa: F401
    except ImportError as error:
        return f"Triton is not installed ({error})"
    from lite3r_cli.attention import triton_backend

    if triton_backend.INTERPRETED or torch.cuda.is_available():
        return None
    return "Triton needs a GPU"


def choose_backend(asked: str, device: torch.device, tokens: int, crossover: int = 0, head_dim: int = 64) -> Choice:
    """The back end for a sequence of `tokens` tokens. Below `crossover` tokens "auto" chooses dense attention;
    `pipelines/engine_choice.py` sets the crossover.

    Raises UsageError for an unknown name, BackendError if the requested back end cannot run here.
    """
    if asked not in BACKENDS:
        raise UsageError(f"the attention back end must be one of {', '.join(BACKENDS)}, not {asked!r}")
    if asked == "triton" and (reason := triton_reason()) is not None:
        raise BackendError(f"attention back end triton: {reason}; use torch")
    if asked != "auto":
        return Choice(asked, asked, "asked for")
    if tokens < crossover:
        return Choice(asked, "dense", f"{tokens} tokens, sparse attention is faster from {crossover} on")
    if device.type != "cuda":
        return Choice(asked, "torch", f"the back end of a {device.type.upper()}")
    if (reason := triton_reason()) is not None:
        return Choice(asked, "torch", reason)
    from lite3r_cli.attention.triton_backend import HEAD_DIMS

    if head_dim not in HEAD_DIMS:
        return Choice(asked, "torch", f"the kernels have no head dimension of {head_dim}")
    return Choice(asked, "triton", "a GPU, and Triton is installed")


def _reference(
    q: Tensor, k: Tensor, v: Tensor, blocks: BlockMap, layout: TokenTiling, feature: str, linear_over: str,
    summaries: bool = False,
) -> tuple[Tensor, Tensor]:  # fmt: skip
    keys = layout.keys
    rows, columns = layout.index.shape[1], keys.index.shape[1]
    q_valid, k_valid = layout.valid.flatten()[:, None], keys.valid.flatten()

    def per_token(mask: Tensor) -> Tensor:
        """(…, query blocks, key blocks) → (…, query slots, key slots)"""
        return mask.repeat_interleave(rows, 2).repeat_interleave(columns, 3)

    linear_mask = k_valid.expand(len(q_valid), -1)
    if linear_over == "rest":
        linear_mask = linear_mask & per_token(blocks.linear)
    critical = (per_token(blocks.critical) & k_valid) | ~q_valid  # empty query slots attend to all keys: no NaN rows
    summary = None
    if summaries:
        own = torch.eye(keys.blocks, dtype=torch.bool, device=k_valid.device).repeat_interleave(columns, 1)
        own = own & k_valid  # (blocks, tokens): the tokens of each key block
        summary = blocks.linear.repeat_interleave(rows, 2)[..., None] & own
    sparse, linear = both_branches(
        q.flatten(2, 3), k.flatten(2, 3), v.flatten(2, 3), critical, linear_mask.expand_as(critical), feature, summary
    )
    return (sparse * q_valid).unflatten(2, layout.index.shape), (linear * q_valid).unflatten(2, layout.index.shape)


def _triton(
    q: Tensor, k: Tensor, v: Tensor, blocks: BlockMap, layout: TokenTiling, feature: str, linear_over: str,
    summaries: bool = False,
) -> tuple[Tensor, Tensor]:  # fmt: skip
    from lite3r_cli.attention import triton_backend

    return triton_backend.attend(q, k, v, blocks, layout, feature, linear_over, summaries)


ATTEND = {"reference": _reference, "torch": torch_backend.attend, "triton": _triton}


def mixed(
    sparse: Tensor, linear: Tensor, blocks: BlockMap, formula: Formula, weight: Tensor | None, alpha: Tensor | None
) -> Tensor:
    """The sum (`weight` (D, D) projects the linear branch) or the convex mix (`alpha` (H,)) of both branches.

    Branches and result are tiles (B, H, blocks, T, D). See the top of this file for the formulas.
    """
    if weight is not None:
        linear = linear @ weight.T
    if alpha is None:
        return sparse + linear
    counted = blocks.linear.any(-1) if formula.linear_over == "rest" else ~blocks.critical.all(-1)
    share = torch.where(counted, alpha.to(sparse.dtype)[:, None], 1)[..., None, None]
    return share * sparse + (1 - share) * linear


def sparse_linear(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    formula: Formula,
    weight: Tensor | None = None,
    alpha: Tensor | None = None,
    layout: TokenTiling | None = None,
    backend: str = "torch",
) -> tuple[Tensor, BlockMap | None]:
    """Sparse-linear attention of q, k, v (B, H, N, D) of one dtype → output (B, H, N, D) and the block map.

    `weight` (D, D) or `alpha` (H,) mixes the branches. `layout` groups tokens into blocks (None: runs of 64); tokens
    outside of it are ignored as keys and get zeros as output. `backend` is the name that `choose_backend` chose; for
    "dense" the map is None.
    """
    if backend == "dense":
        return dense(q, k, v), None
    tokens = q.shape[2]
    layout = packed_tiling(tokens, device=q.device) if layout is None else layout
    layout = layout if layout.index.device == q.device else layout.to(q.device)
    with torch.autocast(q.device.type, enabled=False):  # the code below sets the precision of each step itself
        q, k, v = layout.tiles(q, k, v)
        blocks = block_map(q, k, layout, formula.keep_ratio, formula.drop_ratio, formula.scores)
        settings = (blocks, layout, formula.feature, formula.linear_over, formula.summaries)
        sparse, linear = ATTEND[backend](q, k, v, *settings)
        return layout.untile(mixed(sparse, linear, blocks, formula, weight, alpha), tokens), blocks


def packed_sparse_linear(
    q: Tensor, k: Tensor, v: Tensor, plan: PackedPlan, formula: Formula, weight: Tensor | None, alpha: Tensor | None
) -> Tensor:
    """`sparse_linear` over the packed tokens of `packed.py`: q, k, v (B, H, N, D) → (B, H, N, D).

    The linear branch is not computed if its projection is zero and not being trained.
    """
    with torch.autocast(q.device.type, enabled=False):
        if weight is not None and not weight.requires_grad and not weight.any():
            return packed_attention(q, k, v, plan, formula.ratio(plan.views))
        sparse, linear = packed_branches(q, k, v, plan, formula)
        return mix_packed(sparse, linear, plan, formula.ratio(plan.views), weight, alpha).to(v.dtype)


def packed_branches(q: Tensor, k: Tensor, v: Tensor, plan: PackedPlan, formula: Formula) -> tuple[Tensor, Tensor]:
    """The sparse and the linear branch of `packed_sparse_linear`, each (B, H, N, D) in float32 or float64."""
    sparse = packed_attention(q, k, v, plan, formula.ratio(plan.views))
    phi = FEATURES[formula.feature]
    fq, fk, values = phi(widened(q)), phi(widened(k)), widened(v)
    return widened(sparse), fq @ (fk.mT @ values) / (fq @ fk.sum(2)[..., None] + EPSILON)


def mix_packed(
    sparse: Tensor, linear: Tensor, plan: PackedPlan, keep_ratio: float, weight: Tensor | None, alpha: Tensor | None
) -> Tensor:
    """The mix of both branches (…, H, N, D), see the top of this file. With α, a layer that keeps every block is not
    mixed.
    """
    if weight is not None:
        return sparse + linear @ widened(weight).T
    if plan.count(keep_ratio) >= plan.blocks:
        return sparse
    assert alpha is not None
    share = widened(alpha)[:, None, None]
    return share * sparse + (1 - share) * linear
