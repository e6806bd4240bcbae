"""What the tests of the Gymnasium adapter share."""

from __future__ import annotations

import pytest

from pwm.envs.gym import processes


@pytest.fixture(params=["sync", "async"])
def mode(request: pytest.FixtureRequest) -> str:
    """Both values of ``env.vectorization``."""
    return str(request.param)


@pytest.fixture(autouse=True)
def two_cores(monkeypatch: pytest.MonkeyPatch) -> None:
    """Divide copies among processes as on a machine of two cores."""
    monkeypatch.setattr(processes, "_cores", lambda: 2)
