"""The listings of the page on new components, each put into its folder and trained with."""

from __future__ import annotations

import importlib
import json
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from tests.end_to_end.tiny import ANALYTIC, overrides

from pwm import components
from pwm.analysis.cost.operations import epoch_flops
from pwm.configuration.config import compose_config
from pwm.errors import ConfigError
from pwm.runs.run import train

ROOT = Path(__file__).resolve().parents[2]
PAGE = ROOT / "docs" / "extending.md"
LISTING = re.compile(r'```python title="([\w/.]+)"\n(.*?)```', re.DOTALL)
LISTINGS = dict(LISTING.findall(PAGE.read_text(encoding="utf-8")))
KINDS = {
    "models/dynamics/gated.py": ("dynamics", ["alg.dynamics.name=gated", "alg.dynamics.units=[12]"]),
    "models/integrators/ralston.py": ("integrator", ["dynamics=flow", "alg.flow_integrator=ralston"]),
    "models/actors/fixed_noise.py": ("actor", ["alg.actor.name=fixed_noise", "alg.actor.std=0.3"]),
    "envs/point.py": ("env", ["env.name=point", "env.speed=0.2"]),
    "envs/disturbances/sensor_noise.py": ("disturbance", ["env.disturbance=sensor_noise"]),
    "training/trainers/system_identification.py": ("trainer", ["alg.trainer=system_identification"]),
}


@pytest.fixture
def installed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """All listings, in folders that the package also looks into."""
    names = []
    for title, code in LISTINGS.items():
        folder = tmp_path / "added" / Path(title).parent
        folder.mkdir(parents=True, exist_ok=True)
        (folder / Path(title).name).write_text(code, encoding="utf-8")
        package = importlib.import_module("pwm." + ".".join(Path(title).parent.parts))
        monkeypatch.setattr(package, "__path__", [*package.__path__, str(folder)])
        names.append(f"{package.__name__}.{Path(title).stem}")
    yield
    for name in names:
        sys.modules.pop(name, None)


def test_every_kind_has_a_listing() -> None:
    assert set(LISTINGS) == set(KINDS)
    # An engine is a part of an environment, not of a configuration.
    assert {kind for kind, _ in KINDS.values()} == set(components.KINDS) - {"engine"}


@pytest.mark.parametrize("title", KINDS)
def test_a_listing_trains(title: str, installed: None, tmp_path: Path) -> None:
    kind, choice = KINDS[title]
    assert Path(title).stem in components.names(kind)
    words = [*overrides(tmp_path, *ANALYTIC), *choice]
    if kind == "env":
        words = [word for word in words if word not in ("env=analytic", "env.episode_length=40")]
    if kind == "dynamics":
        words.remove("alg.dynamics.units=[16]")
    if kind == "actor":
        words.remove("alg.actor.units=[16]")
    if kind == "trainer":
        # Without an actor there are no keys for it.
        words = [word for word in words if not re.match(r"alg\.(actor|critic|warmup|buffer)", word)]
    config = compose_config(words)
    result = train(config)
    assert result.outcome == "finished"
    last = json.loads((result.folder / "metrics.jsonl").read_text().splitlines()[-1])
    assert last["epoch"] == config.epochs
    # What was trained continues when it is to be longer, and is recognised when it is not.
    assert train(compose_config(words)).outcome == "already finished"
    words[words.index(f"general.epochs={config.epochs}")] = f"general.epochs={config.epochs + 1}"
    assert train(compose_config(words)).outcome == "finished"


def test_a_trainer_has_the_keys_of_its_parts_alone(installed: None) -> None:
    config = compose_config(["alg=pwm_small", "alg.trainer=system_identification", "alg.collected_steps=50"])
    assert config.alg.collected_steps == 50
    assert set(config.chosen) == {"dynamics"}
    assert "critic_units" not in config.to_dict()["alg"]
    counted = epoch_flops(config, 4, 2)
    assert counted["total"] == counted["world_model"] > 0
    with pytest.raises(ConfigError, match=r"unknown key alg\.critic_lr"):
        compose_config(["alg.trainer=system_identification", "alg.critic_lr=1e-3"])
    with pytest.raises(ConfigError, match=r"alg\.collected_steps=0; it must be at least 1"):
        compose_config(["alg.trainer=system_identification", "alg.collected_steps=0"])


def test_the_identified_model_predicts(installed: None, tmp_path: Path) -> None:
    changes = ["env=analytic", "env.task=lqr", "alg=pwm_small", "alg.trainer=system_identification"]
    config = compose_config(
        [*changes, "general.epochs=40", f"general.logdir={tmp_path}", "general.progress=false"]
    )
    torch.manual_seed(0)
    result = train(config)
    assert result.best_return > 0.9


def test_listings_are_in_the_style_of_the_package(tmp_path: Path) -> None:
    for title, code in LISTINGS.items():
        (tmp_path / Path(title).name).write_text(code, encoding="utf-8")
    for command in (["check"], ["format", "--check"]):
        ran = subprocess.run(
            [sys.executable, "-m", "ruff", *command, "--config", str(ROOT / "pyproject.toml"), str(tmp_path)],
            capture_output=True,
            text=True,
            check=False,
        )
        assert ran.returncode == 0, ran.stdout
