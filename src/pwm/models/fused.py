"""LayerNorm and Mish in one pass over memory: a small C program in place of about twenty operations.

PyTorch's elementwise operations read and write whole matrices, and a Mish needs a dozen of them in each
direction. ``normed_mish.c`` does all of it while a row is in the nearest cache. It is compiled on first use
into the user's cache folder, and only inside ``enabled`` (``general.compile``); everything works without it,
with results that are equal to float32 rounding.

Only training uses it. Without gradients, where policies act and are evaluated, PyTorch's operations run, so
that a policy acts alike wherever it is loaded.
"""

from __future__ import annotations

import contextlib
import ctypes
import hashlib
import os
import shutil
import subprocess
import tempfile
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable

from pwm.errors import ConfigError
from pwm.files import write_atomically

SOURCE = Path(__file__).with_name("normed_mish.c")
# Sums may be reordered for the sake of vectors; NaN and infinity keep their meaning.
FLAGS = (
    *("-O3", "-march=native", "-fopenmp-simd", "-shared", "-fPIC"),
    *("-fno-math-errno", "-fno-trapping-math", "-fno-signed-zeros", "-fassociative-math"),
)
COMPILE_SECONDS = 60
# The kernels use one thread. PyTorch's operations, spread over more than these, are about as fast.
MOST_THREADS = 4
EPS = 1e-5
TOLERANCE = 1e-4

_library: ctypes.CDLL | None = None


class Unavailable(Exception):
    """The kernels cannot be had on this machine, and why."""


@contextlib.contextmanager
def enabled(mode: str) -> Iterator[bool]:
    """Let networks use the kernels inside the block, and say whether they do.

    Args:
        mode: ``off``, ``on``, or ``auto``: where a C compiler is found; a warning says if that fails.

    Raises:
        ConfigError: ``on``, but they cannot be had.
    """
    library = None
    if mode == "on" or (mode == "auto" and _compiler() is not None):
        try:
            library = _load()
        except Unavailable as reason:
            if mode == "on":
                raise ConfigError(f"general.compile=on cannot be had: {reason}") from reason
            warnings.warn(f"training without compiled kernels, which is slower: {reason}", RuntimeWarning, 3)
    with _using(library):
        yield library is not None


@contextlib.contextmanager
def _using(library: ctypes.CDLL | None) -> Iterator[None]:
    global _library
    before, _library = _library, library
    try:
        yield
    finally:
        _library = before


def usable(x: Tensor) -> bool:
    """True if ``normed_mish`` can take what a linear layer makes of ``x``."""
    return (
        _library is not None
        and torch.is_grad_enabled()
        and x.device.type == "cpu"
        and x.dtype == torch.float32
        and torch.get_num_threads() <= MOST_THREADS
        and not torch._C._are_functorch_transforms_active()
    )


def normed_mish(h: Tensor, bias: Tensor, gain: Tensor, shift: Tensor) -> Tensor:
    """Return mish(LayerNorm(h + bias)), differentiable once in everything.

    Args:
        h: float32 [..., D], or [M, N, D] where M members have parameters of their own.
        bias, gain, shift: [D], or [M, D].
    """
    y: Tensor = _NormedMish.apply(h, bias, gain, shift)  # type: ignore[no-untyped-call]
    return y


def products(x: Tensor, weight: Tensor) -> Tensor:
    """Return x [M, N, in] times the transposed weight [M, out, in] of every member, differentiable once."""
    y: Tensor = _Products.apply(x, weight)  # type: ignore[no-untyped-call]
    return y


class _Products(torch.autograd.Function):
    """The gradient of the weights lies in memory as they do; that of ``bmm`` would have to be transposed."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor) -> Tensor:
        ctx.save_for_backward(x, weight)
        return torch.bmm(x, weight.transpose(1, 2))

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, Tensor | None]:
        x, weight = ctx.saved_tensors
        for_x, for_weight = ctx.needs_input_grad
        return (
            torch.bmm(grad, weight) if for_x else None,
            torch.bmm(grad.transpose(1, 2), x) if for_weight else None,
        )


class _NormedMish(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, h: Tensor, bias: Tensor, gain: Tensor, shift: Tensor) -> Tensor:
        h = h.contiguous()
        y, moments = torch.empty_like(h), h.new_empty(2, *h.shape[:-1])
        _call("forward", (h, bias, gain, shift, y, moments), h, gain, EPS)
        ctx.save_for_backward(h, bias, gain, shift, moments)
        return y

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        h, bias, gain, shift, moments = ctx.saved_tensors
        grad_h, sums = torch.empty_like(h), gain.new_zeros(3, *gain.shape)
        _call("backward", (grad.contiguous(), h, bias, gain, shift, moments, grad_h, sums), h, gain)
        return grad_h, *sums.unbind()


def _call(name: str, tensors: tuple[Tensor, ...], h: Tensor, gain: Tensor, *rest: float) -> None:
    """Call ``normed_mish_<name>`` with the addresses of contiguous ``tensors`` and their sizes."""
    dim = h.shape[-1]
    rows, members = h.numel() // dim, gain.numel() // dim
    run = max(rows // members, 1)
    getattr(_library, f"normed_mish_{name}")(*[t.data_ptr() for t in tensors], rows, dim, members, run, *rest)


def _load() -> ctypes.CDLL:
    """Return the compiled kernels, after compiling them if this machine has not done so yet."""
    compiler = _compiler()
    if compiler is None:
        raise Unavailable("there is no C compiler (looked for $CC, cc, gcc and clang)")
    try:
        # Its predefined macros tell compilers, their versions and instruction sets apart.
        facts = _output([compiler, *FLAGS[:2], "-dM", "-E", "-x", "c", os.devnull])
        digest = hashlib.sha256(b"\0".join([SOURCE.read_bytes(), " ".join(FLAGS).encode(), facts]))
        path = _cache_folder() / f"normed_mish-{digest.hexdigest()[:16]}.so"
        if not path.exists():
            with tempfile.TemporaryDirectory() as folder:
                made = Path(folder) / "kernels.so"
                _output([compiler, *FLAGS, "-o", str(made), str(SOURCE), "-lm"])
                write_atomically(path, lambda file: file.write(made.read_bytes()))
        library = ctypes.CDLL(str(path))
    except (OSError, subprocess.SubprocessError) as error:
        said = getattr(error, "stderr", None) or str(error)
        text = said.decode(errors="replace") if isinstance(said, bytes) else said
        raise Unavailable(f"{compiler} could not make them: {text.strip()[:300]}") from error
    _declare(library)
    _check(library)
    return library


def _compiler() -> str | None:
    names = [os.environ.get("CC", ""), "cc", "gcc", "clang"]
    return next((found for name in names if name and (found := shutil.which(name))), None)


def _cache_folder() -> Path:
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "flow-pwm"


def _output(command: list[str]) -> bytes:
    done = subprocess.run(
        command, stdin=subprocess.DEVNULL, capture_output=True, check=True, timeout=COMPILE_SECONDS
    )
    return done.stdout


def _declare(library: ctypes.CDLL) -> None:
    sizes: list[Any] = [ctypes.c_int64] * 4
    library.normed_mish_forward.argtypes = [*[ctypes.c_void_p] * 6, *sizes, ctypes.c_float]
    library.normed_mish_backward.argtypes = [*[ctypes.c_void_p] * 8, *sizes]
    library.normed_mish_forward.restype = library.normed_mish_backward.restype = None


def _check(library: ctypes.CDLL) -> None:
    """Raise Unavailable unless the kernels compute what PyTorch does: no compiler is above suspicion."""
    generator = torch.Generator().manual_seed(0)
    shapes = (2, 9, 21), (2, 21), (2, 21), (2, 21)
    inputs = [torch.randn(*shape, generator=generator) for shape in shapes]
    grad = torch.randn(2, 9, 21, generator=generator)
    with _using(library), torch.enable_grad():
        found = _with_gradients(normed_mish, inputs, grad)
        expected = _with_gradients(reference, [x.double() for x in inputs], grad.double())
    pairs = zip(found, expected, strict=True)
    if not all(torch.allclose(a.double(), b, rtol=TOLERANCE, atol=TOLERANCE) for a, b in pairs):
        raise Unavailable("what the compiler made of them gives wrong results")


def reference(h: Tensor, bias: Tensor, gain: Tensor, shift: Tensor) -> Tensor:
    """Return what ``normed_mish`` computes, for parameters [M, D], by operations of PyTorch."""
    members = [parameter.unsqueeze(-2) for parameter in (bias, gain, shift)]
    normed = F.layer_norm(h + members[0], h.shape[-1:], eps=EPS)
    return F.mish(normed * members[1] + members[2])


def _with_gradients(function: Callable[..., Tensor], inputs: list[Tensor], grad: Tensor) -> list[Tensor]:
    leaves = [x.clone().requires_grad_() for x in inputs]
    y = function(*leaves)
    return [y.detach(), *torch.autograd.grad(y, leaves, grad)]
