"""Temperature scaling of a finished run: fitted on what was held out, kept beside the model, used by predict."""

import json
import math
import shutil

import pytest
import torch
from PIL import Image
from torch.nn import functional

import pldistill
from pldistill.__main__ import main
from pldistill.data import make_loader, open_data
from pldistill.models import NormalizedModel, load_folder
from pldistill.recipe import make_recipe
from pldistill.tasks.calibration import TEMPERATURE
from pldistill.training.calibrate import calibrate
from tiny_runs import CE

DATA = "digits:validation=200"


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    recipe = make_recipe({**CE, "data": DATA, "epochs": 2})
    return pldistill.train(recipe, out=tmp_path_factory.mktemp("calibrate") / "run", device="cpu", workers=0)


@pytest.fixture
def run(trained, tmp_path):
    shutil.copytree(trained.folder, tmp_path / "run")
    return pldistill.load_run(tmp_path / "run")


def logits_of(run, part):
    loaded = load_folder(run.folder)
    model = NormalizedModel(loaded.model, mean=loaded.mean, std=loaded.std).eval()
    loader = make_loader(
        part,
        batch_size=100,
        image_size=loaded.image_size,
        augment=None,
        seed=0,
        shuffle=False,
        device=torch.device("cpu"),
    )
    with torch.no_grad():
        answers = [(model(batch.images).logits, batch.labels) for batch in loader.epoch(0)]
    return [torch.cat(each) for each in zip(*answers, strict=True)]


def test_it_is_fitted_on_the_held_out_and_measured_on_the_others(run):
    figures, data = calibrate(run, device="cpu"), open_data(DATA)
    held, labels = logits_of(run, data.holdout)
    losses = {t: functional.cross_entropy(held / (t * figures["temperature"]), labels) for t in (0.98, 1.0, 1.02)}
    assert min(losses, key=losses.get) == 1.0
    logits, labels = logits_of(run, data.val)
    assert figures["nats"] == pytest.approx(functional.cross_entropy(logits, labels).item(), rel=1e-4)
    scaled = functional.cross_entropy(logits / figures["temperature"], labels).item()
    assert figures["nats_scaled"] == pytest.approx(scaled, rel=1e-4)
    assert (figures["fitted_on"], figures["measured_on"], figures["samples"]) == ("held-out", "validation", 200)
    assert figures["ece"] == pytest.approx(run.record.epochs()[-1]["ece"], abs=0.5)  # of the run, in bfloat16


def test_predict_divides_by_it_and_the_order_stays(run, tmp_path):
    Image.effect_noise((32, 32), 90).convert("RGB").save(tmp_path / "x.png")
    before = pldistill.predict(run, [tmp_path / "x.png"], top=10)[0]
    temperature = calibrate(run, device="cpu")["temperature"]
    after = pldistill.predict(run, [tmp_path / "x.png"], top=10)[0]
    assert [name for name, _ in before] == [name for name, _ in after]
    expected = (torch.tensor([p for _, p in before], dtype=torch.float64).log() / temperature).softmax(0)
    torch.testing.assert_close(torch.tensor([p for _, p in after], dtype=torch.float64), expected, rtol=1e-3, atol=1e-6)


def test_the_command_says_what_it_did_and_the_model_is_untouched(run, capsys):
    weights = (run.folder / "model.safetensors").read_bytes()
    with pytest.raises(SystemExit, match="0"):
        main(["calibrate", str(run.folder), "--device", "cpu"])
    out = capsys.readouterr().out
    content = json.loads((run.folder / TEMPERATURE).read_text())
    assert f"temperature {content['temperature']:.4f}, fitted on 200 held-out images" in out
    assert f"cross-entropy {content['nats']:.4f} -> {content['nats_scaled']:.4f} nats" in out
    assert (run.folder / "model.safetensors").read_bytes() == weights
    assert pldistill.evaluate(run, device="cpu", workers=0)["top1"] == pytest.approx(run.result["top1_last"])


def test_other_data_is_fitted_and_measured_on(run):
    figures = calibrate(run, data="digits", device="cpu")
    assert (figures["samples"], figures["fitted_on"]) == (len(open_data("digits").val), "digits")
    assert figures["nats_scaled"] <= figures["nats"]


def test_the_best_epochs_model_has_its_own(run):
    calibrate(run, device="cpu", weights="best")
    assert (run.folder / "best" / TEMPERATURE).is_file()
    assert not (run.folder / TEMPERATURE).exists()


def test_a_run_that_held_nothing_out_is_refused(tmp_path, teacher):
    with pytest.raises(ValueError, match=r"data: expected other data than that which scores the run, .*validation=N"):
        calibrate(teacher, device="cpu")
    assert not (teacher.folder / TEMPERATURE).exists()


def test_of_another_model_or_damaged_it_is_refused(run, tmp_path):
    Image.new("RGB", (32, 32)).save(tmp_path / "x.png")
    calibrate(run, device="cpu")
    file = run.folder / TEMPERATURE
    content = json.loads(file.read_text())
    for change, says in (
        ({"model_sha256": "0" * 64}, "is of another model: `pldistill calibrate` makes it anew"),
        ({"temperature": 0}, "key temperature: expected greater than 0"),
        ({"temperature": None}, "key temperature"),
    ):
        file.write_text(json.dumps({**content, **change}))
        with pytest.raises(ValueError, match=says):
            pldistill.predict(run, [tmp_path / "x.png"])
    file.write_text("[")
    with pytest.raises(ValueError, match=r"temperature\.json"):
        pldistill.predict(run, [tmp_path / "x.png"])
    file.unlink()
    assert math.isclose(sum(p for _, p in pldistill.predict(run, [tmp_path / "x.png"], top=10)[0]), 1, rel_tol=1e-5)


def test_a_run_that_is_not_finished_is_said_to_be(run):
    (run.folder / "result.json").unlink()
    with pytest.raises(ValueError, match="is not finished: go on with"):
        calibrate(run, device="cpu")
