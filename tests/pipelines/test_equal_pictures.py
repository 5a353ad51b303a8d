"""Equal images are reported; images without any feature are not called equal."""

import numpy as np

from lite3r_cli.pipelines.parallax import parallax_warnings
from lite3r_cli.scene.posed_view import View


def test_what_is_masked_as_a_whole_is_not_called_the_same_picture():
    pose = np.eye(4)[:3]
    K = np.array([[50.0, 0, 24], [0, 50, 18], [0, 0, 1]])
    seen, masked = np.ones((36, 48), np.float32), np.zeros((36, 48), np.float32)
    for depth, says in ((seen, 1), (masked, 0)):
        views = [View(name, 48, 36, K, pose + [[0, 0, 0, i]] * np.ones((3, 1)), depth) for i, name in enumerate("ab")]
        said = [text for text in parallax_warnings(views, [b"x", b"x"]) if "same image" in text]
        assert len(said) == says
