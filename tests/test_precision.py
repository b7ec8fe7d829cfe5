"""What auto becomes on a device, what the record says of it, and that runs of two precisions are not averaged."""

import dataclasses
import json
from functools import partial

import pytest
import torch

import pldistill
from pldistill import precision
from pldistill.__main__ import main
from pldistill.recipe import make_recipe
from pldistill.record import RunRecord
from pldistill.reports.runs import group_runs
from tiny_runs import CE, StopAt, rows, weights

CPU = torch.device("cpu")
NOT = ("_is_avx512_bf16_supported", "_is_amx_tile_supported")


@pytest.fixture
def told(monkeypatch):
    """Sets what torch says of an x86 CPU, and takes the variables away that would make it be timed."""
    for name in precision._HELD_BACK:
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(precision.platform, "machine", lambda: "x86_64")

    def tell(**has):
        for name in NOT:
            monkeypatch.setattr(torch.cpu, name, partial(has.get, name, False), raising=False)

    return tell


@pytest.mark.parametrize("name", NOT)
def test_a_cpu_that_computes_in_bfloat16_takes_it(told, name):
    told(**{name: True})
    assert precision.resolve("auto", CPU) == "bf16"


def test_a_cpu_that_does_not_takes_float32(told):
    told()
    assert precision.resolve("auto", CPU) == "off"
    assert precision.cpu_capability().endswith("no bf16")


@pytest.mark.parametrize("amp", ["bf16", "fp16", "off"])
def test_what_is_asked_for_by_name_is_taken(told, amp):
    told()
    assert precision.resolve(amp, CPU) == amp


@pytest.mark.parametrize(("factor", "found"), [(13.0, "off"), (0.6, "bf16")])
@pytest.mark.parametrize("why", ["another processor", "held back", "another torch"])
def test_where_torch_does_not_tell_a_convolution_is_timed(told, monkeypatch, why, factor, found):
    told()
    if why == "another processor":
        monkeypatch.setattr(precision.platform, "machine", lambda: "aarch64")
    elif why == "held back":
        monkeypatch.setenv("ONEDNN_MAX_CPU_ISA", "AVX2")
    else:
        monkeypatch.delattr(torch.cpu, NOT[0])
    monkeypatch.setattr(precision, "slowdown", lambda: factor)
    assert precision.resolve("auto", CPU) == found


def test_the_probe_is_timed_once_and_touches_no_random_state():
    precision._slowdown.cache_clear()
    before = torch.get_rng_state()
    factor = precision.slowdown()
    assert factor > 0
    assert precision.slowdown() == factor
    assert precision._slowdown.cache_info().misses == 1
    assert torch.equal(torch.get_rng_state(), before)


def test_an_emulated_bf16_is_warned_of_with_the_measured_factor(told, monkeypatch):
    told()
    monkeypatch.setattr(precision, "slowdown", lambda: 12.96)
    assert "takes 13.0 times as long as in float32" in precision.warning("bf16", CPU)
    assert precision.warning("auto", CPU) is None
    told(_is_amx_tile_supported=True)
    assert precision.warning("bf16", CPU) is None


@pytest.mark.parametrize("native", [False, True])
def test_the_record_says_what_auto_became_and_a_run_goes_on_in_it(tmp_path, monkeypatch, native):
    monkeypatch.setattr(precision, "has_bf16", lambda device: native)
    monkeypatch.setattr("pldistill.training.loop.Loop.LOOK_EVERY", -1.0)
    expected = "bf16" if native else "off"
    auto = make_recipe({**CE, "amp": "auto", "epochs": 2})
    named = pldistill.train(make_recipe({**CE, "amp": expected, "epochs": 2}), out=tmp_path / "named", device="cpu")
    with pytest.raises(pldistill.launch.Interrupted):
        pldistill.train(auto, out=tmp_path / "auto", device="cpu", callback=StopAt(0, 2))
    record = RunRecord(tmp_path / "auto")
    assert (record.read_recipe()["amp"], record.read_environment()["precision"]) == ("auto", expected)
    monkeypatch.setattr(precision, "has_bf16", lambda device: not native)  # another machine
    run = pldistill.train(auto, out=tmp_path / "auto", resume=True, device="cpu")
    assert rows(run.folder) == rows(named.folder)
    one, other = weights(run.folder), weights(named.folder)
    assert all(torch.equal(one[name], other[name]) for name in one)
    assert pldistill.evaluate(run, device="cpu", workers=0)["precision"] == "off"  # what both can
    monkeypatch.setattr(precision, "has_bf16", lambda device: native)
    assert pldistill.evaluate(run, device="cpu", workers=0)["precision"] == expected


def test_runs_of_two_precisions_are_two_groups(tmp_path, monkeypatch):
    records = []
    for seed, native in ((0, True), (1, True), (2, False)):
        monkeypatch.setattr(precision, "has_bf16", lambda device, native=native: native)
        recipe = make_recipe({**CE, "amp": "auto", "epochs": 1, "seed": seed})
        records.append(pldistill.train(recipe, out=tmp_path / str(seed), device="cpu").record)
    assert sorted(len(group.runs) for group in group_runs(records)) == [1, 2]


def test_no_recipe_that_is_shipped_names_a_precision():
    from pldistill.studies import SEARCHES, STUDIES, demo

    for study in STUDIES.values():
        assert "amp" not in study.setting
        for scale in study.scales.values():
            assert "amp" not in {**scale.setting, **scale.teacher}
    for search in SEARCHES.values():
        sizes = [size.setting | dict(pair) for size in search.sizes.values() for pair in size.teachers.values()]
        assert all(fields.get("amp", "off") == "off" for fields in (search.setting, *sizes))
    assert "amp" not in {**demo.TEACHER, **demo.STUDENT}
    assert dataclasses.is_dataclass(demo.WHOLE)


def test_the_command_line_says_the_precision_before_the_first_step(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(precision, "has_bf16", lambda device: False)
    line = ["train", "--data", "glyphs:train=100,val=100", "--student", "resnet8", "--method", "ce", "--epochs", "1"]
    with pytest.raises(SystemExit) as ended:
        main([*line, "--out", str(tmp_path / "run"), "--device", "cpu"])
    assert ended.value.code == 0
    said = capsys.readouterr().out
    assert "float32 (amp auto)" in said
    assert said.index("float32 (amp auto)") < said.index("epoch   1/1")
    assert json.loads((tmp_path / "run" / "env.json").read_text())["precision"] == "off"
