"""The script that draws the pictures of the documents draws them, from runs of a second."""

from __future__ import annotations

import runpy
import shutil
import sys
from pathlib import Path

import pytest
from PIL import Image
from tests.docs.documented import ROOT, without_pictures

SCRIPT = ROOT / "docs" / "pictures.py"
BROWSERS = ("chromium", "chromium-browser", "google-chrome")
# docs/diagnosis.md tells of the run behind this one.
OTHERS = {"diagnosis.png"}


# Slow for the sake of the browser: on a machine that is full, it may fail to deliver its picture.
@pytest.mark.slow
@pytest.mark.skipif(not any(map(shutil.which, BROWSERS)), reason="no Chromium is installed")
def test_all_pictures_are_drawn(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    quick = ["general.epochs=2", "general.eval_every=1", "general.eval_runs=2", "alg.warmup_env_steps=300"]
    quick += ["alg.warmup_updates=5", "general.esnr_every=0"]
    places = ["--logdir", str(tmp_path / "logs"), "--images", str(tmp_path / "images")]
    places += ["--demo-epochs", "2"]
    monkeypatch.setattr(sys, "argv", [str(SCRIPT), *places, *quick])
    without_pictures(monkeypatch)
    runpy.run_path(str(SCRIPT), run_name="__main__")
    drawn = {path.name for path in (tmp_path / "images").iterdir()}
    assert drawn | OTHERS == {path.name for path in (ROOT / "docs" / "images").iterdir()}
    for name in drawn:
        with Image.open(tmp_path / "images" / name) as image:
            assert min(image.size) > 300
