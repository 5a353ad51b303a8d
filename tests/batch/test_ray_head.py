"""`--ray` where no head node listens: an error at once, where Ray would try for minutes. Ray need not be installed."""

from __future__ import annotations

import socket

import pytest

from lite3r_cli.batch.ray_pool import require_head
from lite3r_cli.errors import BackendError


@pytest.fixture
def listener():
    with socket.create_server(("127.0.0.1", 0)) as head:
        yield head


def test_an_address_where_nobody_listens_is_refused(listener):
    port = listener.getsockname()[1]
    require_head(f"127.0.0.1:{port}")
    listener.close()
    for address in (f"127.0.0.1:{port}", "127.0.0.1:99999", f"{'a' * 70}.invalid:6379", "..:1"):
        with pytest.raises(BackendError, match="no cluster there .*ray start --head"):
            require_head(address)
    for left_to_ray in ("nonsense", "ray://127.0.0.1:1", ":", "127.0.0.1:"):
        require_head(left_to_ray)


def test_auto_is_the_last_cluster_of_this_machine(listener, tmp_path, monkeypatch):
    port = listener.getsockname()[1]
    monkeypatch.setenv("RAY_TMPDIR", str(tmp_path))
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    require_head("auto")  # Ray searches
    note = tmp_path / "ray" / "ray_current_cluster"
    note.parent.mkdir()
    note.write_text(f"127.0.0.1:{port}\n")
    require_head("auto")
    listener.close()
    with pytest.raises(BackendError, match="ray_current_cluster"):
        require_head("auto")
    monkeypatch.setenv("RAY_ADDRESS", "127.0.0.1:1")
    with pytest.raises(BackendError, match="from RAY_ADDRESS"):
        require_head("auto")
