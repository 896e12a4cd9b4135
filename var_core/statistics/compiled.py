"""How loops over decisions are compiled, for a CPU: by numba, once, and kept on disk.

Tensor operations pass over a batch dozens of times; loops pass over it a few times, and only the scores cost E steps a
decision: all counting costs k, or k squared for pairs. What the loops do is defined by the tensor operations of
:mod:`var_core.statistics.by_tensors`, which run on a GPU; tests hold the two to each other.
"""

from collections.abc import Callable
from typing import Any, TypeVar

import numba
import numpy as np
from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic
from numpy.typing import NDArray

_Function = TypeVar("_Function", bound=Callable[..., Any])
Floats = NDArray[np.float32]
Doubles = NDArray[np.float64]
Wholes = NDArray[np.int64]
ShortWholes = NDArray[np.int32]
Flags = NDArray[np.bool_]

AS_WRITTEN = frozenset({"contract"})
"""Operations stay in the order in which they stand."""
REORDERED = frozenset({"reassoc", "contract", "nsz"})
"""Sums may be reordered to use vector instructions; NaN keeps its meaning."""


def compiled(function: _Function, fastmath: frozenset[str] = REORDERED) -> _Function:
    """Compile a function; `fastmath` says what the compiler may change about arithmetic."""
    options: dict[str, Any] = {"nogil": True, "fastmath": set(fastmath), "error_model": "numpy"}
    try:
        return numba.njit(cache=True, **options)(function)
    except RuntimeError:  # nowhere to keep the compiled code: neither beside its file nor in the user's cache
        return numba.njit(**options)(function)


def _prefetch(typing_context: Any, array: Any, index: Any) -> Any:
    """Have the cache line that holds an element of a one-dimensional array fetched, to be written to soon.

    State by token id is far larger than a cache and is reached in no order; without this the processor waits for
    every line in turn.
    """

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        data = context.make_array(signature.args[0])(context, builder, arguments[0]).data
        byte = ir.IntType(8).as_pointer()
        word = ir.IntType(32)
        kind = ir.FunctionType(ir.VoidType(), [byte, word, word, word])
        function = cgutils.get_or_insert_function(builder.module, kind, "llvm.prefetch.p0")
        to_write, keep_close, is_data = (ir.Constant(word, number) for number in (1, 3, 1))
        pointer = builder.bitcast(builder.gep(data, [arguments[1]]), byte)
        builder.call(function, [pointer, to_write, keep_close, is_data])
        return context.get_dummy_value()

    return types.void(array, types.intp), generate


prefetch: Any = intrinsic(_prefetch)
"""Called with an array and an index from compiled code; see `_prefetch`."""
