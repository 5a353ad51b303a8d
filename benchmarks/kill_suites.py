"""The cases of benchmarks/kill.py: every command, with what exists before it runs."""

from __future__ import annotations

import re

# Hold times, or come from an encoder that does not give the same bytes twice: another run writes other ones.
TIMED = ("run.json", "batch.json", "log.jsonl", "losses.png", "bench.png", "scene-splats.json", ".mp4")
# Exit codes of a run that was not stopped: a network of random values locates nothing; all photos are added already.
WELL = {"locate": 3, "add": 3}
PREVIEW = "--preview -f colmap -f nerfstudio -f glb -f tum --device cpu -r 56 -q"
TRAINED = "--steps 6 --views 2 -r 56 --calibration-batches 1 --validate-every 2 --device cpu -q"
KEPT = re.compile(r"b/\.batch/[a-z]+\.json")  # records of a batch, which stay with it
SCENE = "-m tiny.safetensors --device cpu -r 56 -q"
FLIGHT = "--seconds 0.4 --fps 10 --size 64x48 --device cpu -q"
BENCH = "bench -m tiny.safetensors --views 2 -r 56 --repeats 1 --device cpu -q --plot {}/bench.png"
SPLAT = "--steps 2 --no-hold-out --device cpu -q"
PAIR = f"reconstruct photos -o {{}}/scene.ply {SCENE}; reconstruct second -o {{}}/second.ply {SCENE}"
RENDERED = "--scenes 2 --width 64 --height 48 --samples 1 --device cpu -q"

# Suite → the command lines that make the old result (or None) and the one that is stopped. {} is the place.
SUITES: dict[str, tuple[str | None, str]] = {
    "reconstruct, new": (None, f"reconstruct photos -m tiny.safetensors -o {{}}/scene.ply {PREVIEW}"),
    "reconstruct, overwrite": (f"reconstruct others -m tiny.safetensors -o {{}}/scene.ply {PREVIEW}",
                               f"reconstruct photos -m tiny.safetensors -o {{}}/scene.ply {PREVIEW} --overwrite"),
    "reconstruct all formats, new": (
        None, f"reconstruct photos -o {{}}/scene/ {SCENE} -f html -f mesh -f 3dgs -f tum-rgbd --save-npy"),
    "reconstruct with refinement, overwrite": (  # needs pycolmap; database.db is made and copied by the way
        f"reconstruct others -o {{}}/scene.ply {SCENE} -f colmap",
        "reconstruct facade -o {}/scene.ply -m mini -r 112 --refine -f colmap --device cpu -q --overwrite"),
    "reconstruct in chunks, resume": (
        None, f"reconstruct walk -o {{}}/scene.ply {SCENE} --chunk 3 --no-loops --resume"),
    "reconstruct in chunks, overwrite": (
        f"reconstruct photos -o {{}}/scene.ply {SCENE}",
        f"reconstruct walk -o {{}}/scene.ply {SCENE} --chunk 3 --no-loops --overwrite"),
    "convert, new": (None, "convert tiny.safetensors -o {}/c.safetensors -q"),
    "convert, overwrite": ("convert other.safetensors -o {}/c.safetensors -q",
                           "convert tiny.safetensors -o {}/c.safetensors -q --overwrite"),
    "convert shards, overwrite": ("convert other.safetensors -o {}/c.safetensors --shard-size 30K -q",
                                  "convert tiny.safetensors -o {}/c.safetensors --shard-size 50K -q --overwrite"),
    "distill, new": (None, f"distill photos -m tiny.safetensors -o {{}}/d.safetensors {TRAINED}"),
    "distill, overwrite": (f"distill others -m tiny.safetensors -o {{}}/d.safetensors {TRAINED} --seed 5",
                           f"distill photos -m tiny.safetensors -o {{}}/d.safetensors {TRAINED} --overwrite"),
    "train, new": (None, "train -o {}/t --max-steps 8 --save-minutes 0.001 --device cpu -q"),
    "synth, new": (None, f"synth -o {{}}/s --views 2 {RENDERED}"),
    "synth, overwrite": (f"synth -o {{}}/s --views 3 --seed 4 {RENDERED}",
                         f"synth -o {{}}/s --views 2 {RENDERED} --overwrite"),
    "batch, new": (None, f"batch sets -o {{}}/b {SCENE}"),
    "batch, overwrite": (f"batch othersets -o {{}}/b {SCENE}", f"batch sets -o {{}}/b {SCENE} --overwrite"),
    "batch with workers, new": (None, f"batch sets -o {{}}/b {SCENE} --workers 2"),
    "render film, new": (f"reconstruct photos -o {{}}/scene.ply {SCENE}", f"render {{}}/scene.ply {FLIGHT}"),
    "render film and frames, overwrite": (
        f"reconstruct photos -o {{}}/scene.ply {SCENE}; "
        f"render {{}}/scene.ply {FLIGHT} --path orbit -o {{}}/f.mp4 --frames {{}}/f --condition 2",
        f"render {{}}/scene.ply {FLIGHT} -o {{}}/f.mp4 --frames {{}}/f --overwrite"),
    "bench, plot": (None, BENCH),
    "bench, overwrite": (BENCH, f"{BENCH} --overwrite"),
    "add": (f"reconstruct photos -o {{}}/scene.ply {SCENE}",
            "add {}/scene.ply new --cameras new/cameras.json --device cpu -q"),
    "add with a trajectory": (f"reconstruct photos -o {{}}/scene.ply {SCENE}",
                              "add {}/scene.ply new --cameras new/walk.txt --device cpu -q"),
    "merge, new": (PAIR, "merge {}/scene.ply {}/second.ply -o {}/both.ply --device cpu -q"),
    "merge, overwrite": (f"{PAIR}; reconstruct others -o {{}}/both.ply {SCENE}",
                         "merge {}/scene.ply {}/second.ply -o {}/both.ply --device cpu -q --overwrite"),
    "splat, new": (f"reconstruct photos -o {{}}/scene.ply {SCENE}", f"splat {{}}/scene.ply {SPLAT}"),
    "splat, overwrite": (f"reconstruct photos -o {{}}/scene.ply {SCENE}; splat {{}}/scene.ply {SPLAT} --seed 3",
                         f"splat {{}}/scene.ply {SPLAT} --overwrite"),
    "locate, writes nothing": (f"reconstruct photos -o {{}}/scene.ply {SCENE}",
                               "locate {}/scene.ply photos -m tiny.safetensors --device cpu -q"),
    "eval, writes nothing": (f"synth -o {{}}/s --views 2 {RENDERED}", f"eval {{}}/s/scene-000 {SCENE}"),
    "view, new": (f"reconstruct photos -o {{}}/scene.ply {SCENE}", "view {}/scene.ply -q"),
    "view, again": (f"reconstruct others -o {{}}/scene.ply {SCENE}; view {{}}/scene.ply -q; "
                    f"reconstruct photos -o {{}}/scene.ply {SCENE} --overwrite", "view {}/scene.ply -q"),
}  # fmt: skip
