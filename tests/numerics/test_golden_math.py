"""Targets, running statistics, integrators, two-hot helpers and ESNR, compared number by number."""

from __future__ import annotations

import ast
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from tests.numerics.golden import FOLDER, Golden, assert_close
from torch import Tensor

from pwm import components
from pwm.algorithm.returns import td_lambda
from pwm.analysis.model_quality.esnr import ESNRTracker, compute_esnr, compute_esnr_db
from pwm.models.dynamics.flow import compute_flow_matching_loss
from pwm.models.normalization import RunningMeanStd
from pwm.models.scalar_heads import TwoHotHead, symexp, symlog

UNIT = Path(__file__).parents[1] / "unit"


def test_td_lambda() -> None:
    golden = Golden("pwm_td_lambda")
    gamma, lam = golden.config["gamma"], golden.config["lam"]
    rewards, next_values = golden["in/rew_buf"], golden["in/next_values"]
    out = {}
    for mask in ("mixed", "last", "all"):
        ends = golden[f"in/done_mask_{mask}"].bool()
        out[f"out/td_lambda_{mask}"] = td_lambda(rewards, next_values, ends, gamma, lam)
        out[f"out/one_step_{mask}"] = td_lambda(rewards, next_values, ends, gamma, 0.0)
    golden.check(out)


def test_running_mean_std() -> None:
    golden = Golden("running_mean_std")
    out = {}
    for case, shape in (("vec", (golden.config["dim"],)), ("scalar", (1,))):
        statistics = RunningMeanStd(shape, golden.config["epsilon"])
        for i in range(len(golden.config["batch_sizes"])):
            statistics.update(golden[f"in/{case}/batch{i}"])
            out[f"out/{case}/mean{i}"] = statistics.mean.clone()
            out[f"out/{case}/var{i}"] = statistics.var.clone()
            out[f"out/{case}/count{i}"] = statistics.count.clone()
        out[f"out/{case}/normalized"] = statistics.normalize(golden[f"in/{case}/query"])
        recovered = out[f"out/{case}/normalized"] * statistics.std + statistics.mean
        out[f"out/{case}/unnormalized"] = recovered
    golden.check(out)


def small_network(golden: Golden) -> tuple[Callable[..., Tensor], dict[str, Tensor]]:
    """v = W2 tanh(W1 [z, a, tau] + b1) + b2, and its weights with gradient."""
    weights = {key: value.clone().requires_grad_() for key, value in golden.below("param/").items()}

    def velocity(z: Tensor, a: Tensor, tau: Tensor, task: object) -> Tensor:
        hidden = torch.tanh(torch.cat((z, a, tau), dim=-1) @ weights["W1"].T + weights["b1"])
        return hidden @ weights["W2"].T + weights["b2"]

    return velocity, weights


def test_integrators_and_flow_loss() -> None:
    golden = Golden("flow_integrators")
    velocity, weights = small_network(golden)
    out: dict[str, Tensor] = {}

    def gradients(case: str, value: Tensor, inputs: dict[str, Tensor]) -> None:
        wanted = inputs | weights
        grads = torch.autograd.grad(value, list(wanted.values()))
        out.update({f"grad/{case}/{key}": grad for key, grad in zip(wanted, grads, strict=True)})

    z, a, target = (golden[f"in/{name}"].clone().requires_grad_() for name in ("z", "a", "z_target"))
    for name in ("euler", "heun"):
        step = getattr(components.load("integrator", name), f"{name}_step")
        for substeps in golden.config["substeps"]:
            result = step(velocity, z, a, None, substeps)
            out[f"out/{name}_{substeps}"] = result
            value = (golden["in/cotangent"] * result).sum()
            gradients(f"{name}_{substeps}", value, {"z": z, "a": a})
    for sampling, tau in (("uniform", golden["in/tau"]), ("midpoint", None)):
        loss = compute_flow_matching_loss(
            velocity, z, target, a, None, sampling, golden.config["gamma_t"], tau=tau
        )
        out[f"out/fm_loss_{sampling}"] = loss
        gradients(f"fm_{sampling}", loss, {"z_start": z, "z_target": target, "a": a})
    golden.check(out)


def test_two_hot() -> None:
    golden = Golden("tdmpc2_math")
    config = golden.config
    head = TwoHotHead(config["num_bins"], config["vmin"], config["vmax"])
    x = golden["in/x"]
    logits = golden["in/logits"].clone().requires_grad_()
    cross_entropy = head.loss(logits, x.squeeze(-1)).unsqueeze(-1)
    cross_entropy.mean().backward()
    golden.check(
        {
            "out/symlog": symlog(x),
            "out/symexp": symexp(x.clamp(-8, 8)),
            # The reference puts the last bin's zero weight on bin (i + 1) mod K; ours never wraps.
            "out/two_hot": head.two_hot(x.squeeze(-1)),
            "out/two_hot_inv": head.decode(logits).unsqueeze(-1),
            "out/soft_ce": cross_entropy,
            "grad/soft_ce_logits": logits.grad,
        }
    )


def test_esnr() -> None:
    golden = Golden("esnr")
    out: dict[str, Tensor] = {}
    for key, samples in golden.below("in/").items():
        if key != "tracker_stream":
            out[f"out/{key}/esnr"] = compute_esnr(samples)
            out[f"out/{key}/esnr_db"] = compute_esnr_db(samples)
    tracker = ESNRTracker(**golden.config["tracker"])
    reports = [tracker.update(sample) for sample in golden["in/tracker_stream"]]
    out["out/tracker"] = torch.tensor(reports, dtype=torch.float64)
    golden.check(out)


def test_esnr_of_noise_and_of_a_large_mean() -> None:
    generator = torch.Generator().manual_seed(0)
    noise = torch.randn(16, 20_000, generator=generator)
    assert float(compute_esnr(noise)) == pytest.approx(1 / 15, rel=0.05)
    # In float32 the difference of two numbers near 1e12 would lose the variance of 1 per entry.
    shifted = 1e4 + noise.double()[:, :100]
    expected = 100 * 1e8 / float(shifted.var(0, correction=0).sum())
    assert float(compute_esnr(shifted.float())) == pytest.approx(expected, rel=1e-2)
    with pytest.raises(ValueError):
        compute_esnr(torch.zeros(0, 3))
    with pytest.raises(ValueError):
        ESNRTracker(buffer_size=1)


def test_every_golden_file_is_loaded_by_a_test() -> None:
    """``Golden.check`` compares every name in a file, so loading every file covers every number."""
    texts = {
        node.value
        for path in [*Path(__file__).parent.glob("test_golden_*.py"), *UNIT.glob("test_published_files.py")]
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.Constant) and isinstance(node.value, str)
    }
    files = {path.stem for path in FOLDER.glob("*.safetensors")}
    assert files
    assert files <= texts
    checkpoints = {path.name for path in FOLDER.glob("*.pt")}
    loaded = {f"{stem}{end}" for stem in files for end in texts}
    assert checkpoints <= loaded | texts


def test_comparison_notices_what_it_should() -> None:
    golden = Golden("pwm_td_lambda")
    complete = {key: value for key, value in golden.tensors.items() if key.startswith("out/")}
    golden.check(complete)
    with pytest.raises(AssertionError, match="not computed"):
        golden.check(dict(list(complete.items())[1:]))
    with pytest.raises(AssertionError, match="not recorded"):
        golden.check(complete | {"out/other": torch.zeros(1)})
    first = next(iter(complete))
    with pytest.raises(AssertionError, match="times the tolerance"):
        golden.check(complete | {first: complete[first] + 1e-3})
    tolerance = {"atol": 1.0, "rtol": 0.0}
    reference = torch.tensor([1.0, -float("inf")])
    assert_close(reference, reference, tolerance)
    for wrong in ([1.0, 0.0], [float("nan"), -float("inf")]):
        with pytest.raises(AssertionError):
            assert_close(torch.tensor(wrong), reference, tolerance)
