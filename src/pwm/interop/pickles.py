"""Pickles read as data: nothing that a file names is imported, looked up or run.

A pickle is a program for a small machine, and the names it asks for are the machine's only way out. Here
this module answers every name: with a few plain containers, with the constructors of tensors, and for all
others with a class that has no behaviour and keeps what the file says about the object.
"""

from __future__ import annotations

import collections
import pickle
import struct
from collections.abc import Callable, Mapping
from typing import IO, Any

import numpy as np
import torch
from torch import Tensor

from pwm.errors import CheckpointError

# torch.save still writes the names of storage classes that older releases had, one for each dtype.
STORAGES = {
    "FloatStorage": torch.float32,
    "DoubleStorage": torch.float64,
    "HalfStorage": torch.float16,
    "BFloat16Storage": torch.bfloat16,
    "LongStorage": torch.int64,
    "IntStorage": torch.int32,
    "ShortStorage": torch.int16,
    "CharStorage": torch.int8,
    "ByteStorage": torch.uint8,
    "BoolStorage": torch.bool,
    "ComplexFloatStorage": torch.complex64,
    "ComplexDoubleStorage": torch.complex128,
    "UntypedStorage": torch.uint8,
}
DTYPES = {name: value for name, value in vars(torch).items() if isinstance(value, torch.dtype)}
CONTAINERS: dict[str, type] = {
    "collections.OrderedDict": collections.OrderedDict,
    "torch.Size": torch.Size,
    "builtins.set": set,
    "__builtin__.set": set,
    "builtins.frozenset": frozenset,
    "__builtin__.frozenset": frozenset,
}
# What a damaged or hostile file can make the machine run into.
FAILURES = (
    pickle.UnpicklingError,
    EOFError,
    ArithmeticError,
    AttributeError,
    LookupError,
    MemoryError,
    RecursionError,
    RuntimeError,
    TypeError,
    ValueError,
    struct.error,
)


class Record:
    """An object of a class that is not loaded.

    Attributes:
        origin: module and name of the class, as the file gives them.
        arguments: what would have been passed to its constructor.
        state: what it would have been restored from, often a dict of its attributes.
        entries: its items, if it is a kind of dict.
        elements: its elements, if it is a kind of list or set.
    """

    __slots__ = ("arguments", "elements", "entries", "state")
    arguments: tuple[Any, ...]
    state: Any
    entries: dict[Any, Any]
    elements: list[Any]
    origin = ""

    def __new__(cls, *arguments: Any, **_: Any) -> Record:
        """An object that has been made, and not been filled yet."""
        record = super().__new__(cls)
        record.arguments, record.state = arguments, None
        record.entries, record.elements = {}, []
        return record

    def __setstate__(self, state: Any) -> None:
        self.state = state

    def __setitem__(self, key: Any, value: Any) -> None:
        self.entries[key] = value

    def append(self, element: Any) -> None:
        """Keep an element of a list."""
        self.elements.append(element)

    def extend(self, elements: list[Any]) -> None:
        """Keep elements of a list."""
        self.elements.extend(elements)

    add = append

    @property
    def attributes(self) -> dict[str, Any]:
        """Attributes by name, as far as the state is a dict, or a pair of dicts for objects with slots."""
        parts = self.state if isinstance(self.state, tuple) else (self.state,)
        return {str(k): v for part in parts if isinstance(part, Mapping) for k, v in part.items()}


class Reader(pickle.Unpickler):
    """Reads one pickle of tensors, plain values and records.

    Args:
        file: where the pickle begins.
        storage: gives the data of a tensor, one-dimensional, for what ``torch.save`` wrote about it: dtype,
            key, location, number of elements, and in old files the part of it that is meant.
    """

    def __init__(self, file: IO[bytes], storage: Callable[..., Tensor]) -> None:
        # Python 2 wrote bytes where Python 3 writes text.
        super().__init__(file, encoding="latin1")
        self._storage = storage
        self._classes: dict[str, type[Record]] = {}
        self._functions: dict[str, Callable[..., Any]] = {
            "_codecs.encode": self._encode,
            "torch._utils._rebuild_tensor": self._tensor,
            "torch._utils._rebuild_tensor_v2": self._tensor,
            "torch._utils._rebuild_tensor_v3": self._untyped_tensor,
            "torch._utils._rebuild_parameter": self._parameter,
            "torch._utils._rebuild_parameter_with_state": self._parameter,
            "torch._utils._rebuild_meta_tensor_no_storage": self._meta_tensor,
            "torch._tensor._rebuild_from_type_v2": self._subclass,
        }

    def find_class(self, module: str, name: str) -> Any:
        """Return the stand-in for ``module.name``: nothing outside this file, except the containers."""
        path = f"{module}.{name}"
        if module in ("torch", "torch.storage") and name in STORAGES:
            return STORAGES[name]
        if module == "torch" and name in DTYPES:
            return DTYPES[name]
        known = CONTAINERS.get(path) or self._functions.get(path)
        if known is not None:
            return known
        # Made anew for every file: a pickle can set attributes of the classes it is given.
        if path not in self._classes:
            self._classes[path] = type(name, (Record,), {"__slots__": (), "origin": path})
        return self._classes[path]

    def persistent_load(self, saved: Any) -> Tensor:
        """Data of a tensor, which stand outside the pickle."""
        kind, dtype, *place = saved
        if kind not in ("storage", b"storage") or not isinstance(dtype, torch.dtype):
            raise pickle.UnpicklingError(f"a reference to {kind!r}")
        return self._storage(dtype, *place)

    # Methods, not functions: a pickle cannot set attributes of a bound method.

    def _encode(self, text: str, encoding: str) -> bytes:
        """Bytes, as pickles of protocol 2 write them."""
        if encoding != "latin1":
            raise pickle.UnpicklingError(f"bytes in the encoding {encoding!r}")
        return text.encode("latin1")

    def _tensor(
        self, storage: Tensor, offset: int, size: tuple[int, ...], stride: tuple[int, ...], *_: Any
    ) -> Tensor:
        shape = torch.Size(size)
        if shape.numel() > storage.numel():
            # Repeated values, or a lie about how many there are: its shape is kept, not its data.
            return torch.empty(shape, dtype=storage.dtype, device="meta")
        return storage.as_strided(shape, stride, offset)

    def _untyped_tensor(
        self,
        storage: Tensor,
        offset: int,
        size: tuple[int, ...],
        stride: tuple[int, ...],
        requires_grad: bool,
        hooks: Any,
        dtype: torch.dtype,
        *_: Any,
    ) -> Tensor:
        return self._tensor(storage.view(dtype), offset, size, stride)

    def _parameter(self, data: Any, *_: Any) -> Any:
        return data

    def _meta_tensor(self, dtype: torch.dtype, size: tuple[int, ...], *_: Any) -> Tensor:
        return torch.empty(torch.Size(size), dtype=dtype, device="meta")

    def _subclass(self, rebuild: Callable[..., Any], _: Any, arguments: tuple[Any, ...], *__: Any) -> Any:
        """A tensor of a subclass, as a plain one."""
        return rebuild(*arguments)


def read_pickle(file: IO[bytes], storage: Callable[..., Tensor]) -> Any:
    """Content of the pickle that begins at the position of ``file``; see ``Reader``.

    Raises:
        CheckpointError: it is damaged, or of a kind that nobody writes.
    """
    try:
        return Reader(file, storage).load()
    except FAILURES as error:
        first = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise CheckpointError(f"its pickle is damaged: {first}") from error


def array(record: Record) -> Tensor | None:
    """Values of a NumPy array or scalar of floats, integers or booleans; None for any other object."""
    module, _, name = record.origin.rpartition(".")
    if module.split(".")[0] != "numpy":
        return None
    order = "C"
    try:
        if name == "_reconstruct":
            _, shape, kind, fortran, data = record.state
            order = "F" if fortran else "C"
        elif name == "_frombuffer":  # protocol 5
            data, kind, shape, order = record.arguments
        elif name == "scalar":
            (kind, data), shape = record.arguments, ()
        else:
            return None
        code, byte_order = str(kind.arguments[0]), str(kind.state[1])
        if code[:1] not in ("f", "i", "u", "b") or not isinstance(data, (bytes, bytearray)):
            return None
        dtype = np.dtype(f"{byte_order}{code}" if byte_order in ("<", ">") else code)
        values = np.frombuffer(data, dtype).reshape(shape, order="F" if order == "F" else "C")
        return torch.from_numpy(values.astype(dtype.newbyteorder("="), order="C", copy=True))
    except (AttributeError, TypeError, ValueError, IndexError):
        return None
