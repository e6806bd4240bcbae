"""Matrix products in lower precision, for the parts of a run that can do with it."""

from __future__ import annotations

import contextlib
import warnings
from collections.abc import Iterator

import torch


@contextlib.contextmanager
def products_in(precision: str) -> Iterator[None]:
    """Let float32 products be made in ``precision`` inside the block: ``float32`` changes nothing.

    With ``bfloat16`` the factors are rounded to eight bits of mantissa and the products summed in float32
    (``torch.set_float32_matmul_precision``); tensors stay float32.
    """
    if precision == "float32":
        yield
        return
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("medium")
    try:
        yield
    finally:
        torch.set_float32_matmul_precision(before)


def bfloat16_is_fast() -> bool:
    """Whether the processor has instructions for products in bfloat16."""
    # PyTorch says it by no public name.
    return torch.cpu._is_avx512_bf16_supported()


def warn_if_slow(precision: str, device: torch.device) -> None:
    """Warn where ``precision`` gains nothing because the processor has no instructions for it."""
    if precision == "bfloat16" and device.type == "cpu" and not bfloat16_is_fast():
        warnings.warn(
            "general.precision=bfloat16: this processor has no instructions for bfloat16, so training "
            "will not be faster",
            RuntimeWarning,
            stacklevel=2,
        )
