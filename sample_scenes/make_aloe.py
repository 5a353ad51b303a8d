"""The Aloe scene from Debian's package opencv-doc: `python sample_scenes/make_aloe.py /usr/share/doc/opencv-
doc/examples/data`.

Depth follows from the left view's disparity d (pixels of the full-size pair): z = FOCAL * BASELINE / (d + CROP).
The scene is stored at half size: pictures by area, depth by taking every second pixel of every second row.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

import cv2
import numpy as np

from lite3r_cli.io.cameras_json import CONVENTION
from lite3r_cli.io.depth_files import write_depth_png

FOCAL, BASELINE = 3740.0, 0.16  # pixels at full size, metres: as the Middlebury 2006 page states for all its scenes
CROP = 270  # pixels by which the two images were cropped apart (the data set's dmin.txt)


SHRINK = 2


def main(source: Path, target: Path) -> None:
    disparity = cv2.imread(str(source / "aloeGT.png"), cv2.IMREAD_GRAYSCALE).astype(np.float32)
    width, height = disparity.shape[1] // SHRINK, disparity.shape[0] // SHRINK
    disparity = disparity[: height * SHRINK : SHRINK, : width * SHRINK : SHRINK]
    depth = np.where(disparity > 0, FOCAL * BASELINE / (disparity + CROP), 0).astype(np.float32)
    (target / "images").mkdir(parents=True, exist_ok=True)
    images = {}
    for name, side in (("aloeL.jpg", 0), ("aloeR.jpg", 1)):
        full = cv2.imread(str(source / name))[: height * SHRINK, : width * SHRINK]
        picture = cv2.resize(full, (width, height), interpolation=cv2.INTER_AREA)
        cv2.imwrite(str(target / "images" / name), picture, [cv2.IMWRITE_JPEG_QUALITY, 92])
        center = (1282 / 2 + (side - 0.5) * CROP) / SHRINK
        pose = [[1, 0, 0, -BASELINE * side], [0, 1, 0, 0], [0, 0, 1, 0]]
        images[name] = {
            "K": [[FOCAL / SHRINK, 0, center], [0, FOCAL / SHRINK, 1110 / 2 / SHRINK], [0, 0, 1]],
            "cam_from_world": pose,
            "width": width,
            "height": height,
        }
    scale = write_depth_png(target / "depth" / "aloeL.png", depth)
    images["aloeL.jpg"] |= {"depth": "depth/aloeL.png", "depth_scale": scale}
    (target / "cameras.json").write_text(json.dumps({"convention": CONVENTION, "images": images}, indent=1) + "\n")


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(__file__).parent / "aloe")
