"""Draws a contact sheet of training batches: random scenes as the network sees them, with all effects of the camera.

python benchmarks/training_sheet.py -o docs/training-scenes.webp [--scenes 20] [--views 2] [--textures FILE.npz]
    [--photos DIR] [--seed 0] [--columns 4] [--width 112] [--quality 55]
"""

from __future__ import annotations

import argparse
from itertools import islice
from pathlib import Path

import cv2
import numpy as np
import torch

from lite3r_cli.training.shape_schedule import Shape
from lite3r_cli.training.train_data import TrainingData

LARGER = 1.5  # the scenes are rendered larger than they are shown


def scenes(o: argparse.Namespace) -> list[np.ndarray]:
    """One strip (height, views × width, 3) uint8 RGB a scene."""
    height, width = (round(side * LARGER) for side in (0.75 * o.width, o.width))
    shape = Shape(1, o.views, height, width, photos=o.photos is not None)
    data = TrainingData(lambda step: shape, torch.device("cpu"), 0, 0, o.textures, o.photos, o.seed)
    batches = islice(data.batches(0), o.scenes)
    pictures = ((255 * batch.images[0]).round().byte().permute(0, 2, 3, 1).numpy() for batch in batches)
    return [np.concatenate(list(each), axis=1) for each in pictures]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("-o", "--output", type=Path, required=True)
    parser.add_argument("--scenes", type=int, default=20)
    parser.add_argument("--views", type=int, default=2)
    parser.add_argument("--textures", type=Path)
    parser.add_argument("--photos", type=Path)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--columns", type=int, default=4)
    parser.add_argument("--width", type=int, default=112)
    parser.add_argument("--quality", type=int, default=55)
    o = parser.parse_args()
    strips = scenes(o)
    strips = strips[: len(strips) // o.columns * o.columns]
    rows = [np.concatenate(strips[i : i + o.columns], axis=1) for i in range(0, len(strips), o.columns)]
    sheet = cv2.resize(np.concatenate(rows), None, fx=1 / LARGER, fy=1 / LARGER, interpolation=cv2.INTER_AREA)
    cv2.imwrite(str(o.output), sheet[..., ::-1], [cv2.IMWRITE_WEBP_QUALITY, o.quality])
    print(f"{o.output}: {sheet.shape[1]}x{sheet.shape[0]} pixels, {o.output.stat().st_size} bytes")


if __name__ == "__main__":
    main()
