"""Measures the memory of the process that distributes the scenes of a batch, for a manifest of many scenes that are
never computed:

python benchmarks/batch_memory.py 100000
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from pathlib import Path

from lite3r_cli.batch.job import DONE, Outcome
from lite3r_cli.batch.manifest import SceneInput
from lite3r_cli.batch.past import Past
from lite3r_cli.batch.scene_queue import SceneQueue
from lite3r_cli.config import InputConfig, ReconstructConfig

SECONDS = {"Start": 0.0, "Read images": 0.5, "Predict": 1.0, "Fuse": 0.9, "Write": 0.3}


def resident() -> float:
    """MiB of this process."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * 4096 / 2**20


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("scenes", type=int)
    parser.add_argument("--json")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        row = {"scenes": arguments.scenes, "begin_mib": resident()}
        config = ReconstructConfig(InputConfig((Path(folder),)), output=folder)
        scenes = [
            SceneInput(f"part{k // 1000:03d}/scene{k:06d}", Path(folder, f"part{k // 1000:03d}/scene{k:06d}"))
            for k in range(arguments.scenes)
        ]
        scene_queue = SceneQueue(scenes, Past(config, time.time()), lambda text: None, lambda *texts: None)
        row["manifest_mib"] = resident()
        start = time.perf_counter()
        while isinstance(scene := scene_queue.next(), SceneInput):
            path, out = str(scene.path), f"{folder}/out/{scene.name}/"
            scene_queue.ended(Outcome(scene.name, path, out, DONE, 8, 8, 200_000, [], dict(SECONDS), 2.7))
        row["handing_out_seconds"] = time.perf_counter() - start
        row["all_made_mib"] = resident()
        document = json.dumps(scene_queue.report(Path(folder), {}).document(), indent=1)
        row["report_mib"] = len(document) / 2**20
        row["report_written_mib"] = resident()
    print(json.dumps(row, indent=1))
    if arguments.json:
        Path(arguments.json).write_text(json.dumps(row, indent=1) + "\n")


if __name__ == "__main__":
    main()
