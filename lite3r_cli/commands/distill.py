"""`lite3r distill`: train the sparse-linear, FP8-aware form of a network to match its dense form."""

from __future__ import annotations

from .. import console
from ..config.distill_recipe import DistillConfig
from ..io.texture_file import require_textures
from .options import command


@command(DistillConfig)
def distill(config: DistillConfig) -> None:
    """Train the sparse-linear form of a network to match its dense form.

    Example: lite3r distill sample_scenes procedural -o mini-sla.safetensors
    Several GPUs: torchrun --nproc-per-node 4 -m lite3r_cli distill …
    """
    require_textures(config.textures)  # before torch is imported
    from ..pipelines.distill_student import run

    report = run(config, console.progress(), console.warn)
    if report is None:
        return
    if console.settings.json:
        console.document(report.as_dict())
        return
    before = "" if report.measured_before is None else f"{report.measured_before:.4f} → "
    console.table(
        ["", ""],
        [
            ["trained parameters", f"{report.trained:,} of {report.parameters:,}"],
            ["attention skipped", f"{100 * report.skipped:.1f} %"],
            ["steps", f"{report.steps} in {report.seconds / 60:.1f} min"],
            ["distance from the teacher, held out", f"{before}{report.measured:.4f}"],
            ["checkpoint", str(report.output)],
        ],
    )
