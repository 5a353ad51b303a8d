"""One process of `test_two_processes.py`: a short distillation together with another process; prints the result."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import torch
from test_distill import distiller

from lite3r_cli.training.worker import worker_process

STEPS = {"steps": 3, "validate_every": 3, "log_every": 1, "start": "zero", "fp8_from": 1.0, "lr": 3e-2}


def trained(worker, seed: int) -> tuple[list[float], list[float]]:
    """The totals of the logged losses, and the weights that were trained."""
    losses: list[float] = []
    made = distiller(None, targets=False, summaries=False, worker=worker, seed=seed, **STEPS)
    made.report = lambda record: losses.append(record["total"]) if "total" in record else None
    made.run()
    return losses, torch.cat([p.detach().flatten() for p in made.trained.parameters()]).tolist()


def means(worker) -> dict[str, float]:
    """Of three steps of the first process and two of the second, which alone has a term `truth`."""
    steps = [{"total": torch.tensor(float(10 * worker.rank + k))} for k in range(3 - worker.rank)]
    if worker.rank == 1:
        steps[0]["truth"] = torch.tensor(7.0)
    return worker.means(steps)


def main() -> None:
    torch.set_num_threads(1)
    with worker_process("cpu") as worker:
        found = {"same": trained(worker, 0), "other": trained(worker, 50 * worker.rank), "means": means(worker)}
    Path(sys.argv[1], f"{worker.rank}.json").write_text(json.dumps(found))


if __name__ == "__main__":
    main()
