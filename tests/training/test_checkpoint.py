"""A checkpoint is whole or not there, and a damaged one is refused."""

import pytest
import torch

from pldistill.training import checkpoint


def test_comes_back_bit_for_bit(tmp_path):
    state = {"weights": torch.randn(5, dtype=torch.bfloat16), "epoch": 3, "rng": torch.get_rng_state(), "none": None}
    checkpoint.save(tmp_path / "c", state, step=7)
    loaded = checkpoint.load(tmp_path / "c")
    assert torch.equal(loaded["weights"], state["weights"])
    assert torch.equal(loaded["rng"], state["rng"])
    assert (loaded["epoch"], loaded["none"]) == (3, None)


def test_the_last_two_are_kept_and_leftovers_go(tmp_path):
    for number in (0, 1):
        checkpoint.save(tmp_path, {"x": number}, step=number)
    (tmp_path / ".step-00000002.pt.part").write_bytes(b"torn")
    checkpoint.save(tmp_path, {"x": 2}, step=2)
    assert checkpoint.load(tmp_path) == {"x": 2}
    assert sorted(path.name[:13] for path in tmp_path.iterdir()) == ["index.json", "step-00000001", "step-00000002"]


def test_a_power_cut_before_the_index_moves_leaves_the_older_state(tmp_path, monkeypatch):
    checkpoint.save(tmp_path, {"x": 1}, step=1)
    written = checkpoint.write_atomically

    def cut(path, data):
        if path.name == checkpoint.INDEX:
            raise OSError("power cut")
        written(path, data)

    monkeypatch.setattr(checkpoint, "write_atomically", cut)
    with pytest.raises(OSError, match="power cut"):
        checkpoint.save(tmp_path, {"x": 2}, step=2)
    assert checkpoint.load(tmp_path) == {"x": 1}


def test_damage_is_named(tmp_path):
    checkpoint.save(tmp_path, {"x": torch.zeros(100)}, step=1)
    (path,) = tmp_path.glob("step-*.safetensors")
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)
    with pytest.raises(ValueError, match="is damaged: expected SHA-256"):
        checkpoint.load(tmp_path)
    path.unlink()
    with pytest.raises(ValueError, match="which is missing"):
        checkpoint.load(tmp_path)


def test_none_where_none_was_written(tmp_path):
    assert checkpoint.load(tmp_path / "nothing") is None
