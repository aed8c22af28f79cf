"""What is compiled from C where a compiler is at hand, such as the weight gradient of depthwise convolutions."""

from __future__ import annotations

import ctypes
import logging
import os
import shlex
import subprocess
import tempfile
from collections.abc import Callable
from functools import lru_cache
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

_logger = logging.getLogger(__name__)

SIZES = (3, 5, 7)
"""Of kernels that it is compiled for."""


class Geometry(NamedTuple):
    """A depthwise convolution of odd square kernel that pads the image by half of its kernel's extent.

    Args:
        size: k of the k x k kernel.
        stride: in both directions.
        dilation: in both directions.
    """

    size: int
    stride: int
    dilation: int

    @property
    def padding(self) -> int:
        """What is added on each side."""
        return self.dilation * (self.size // 2)

    def __str__(self) -> str:
        text = f"{self.size}x{self.size}"
        text += f" dilation {self.dilation}" if self.dilation > 1 else ""
        return text + (f" stride {self.stride}" if self.stride > 1 else "")


WeightGradient = Callable[[Tensor, Tensor, Geometry], Tensor]


def compile_c(source: str, *optimised: str) -> ctypes.CDLL | None:
    """Return the library that a source in C makes, None where it cannot be compiled; nobody needs to install anything.

    It is compiled by the command in the variable CC, else by cc; ``CC=false`` does without.

    Args:
        source: the text.
        optimised: options that say how much, -O3 by default, which takes about a second.
    """
    try:
        with tempfile.TemporaryDirectory() as folder:
            file, library = Path(folder, "source.c"), Path(folder, "library.so")
            file.write_text(source, encoding="utf-8")
            command = [*shlex.split(os.environ.get("CC") or "cc"), *(optimised or ["-O3"]), "-march=native", "-shared"]
            command += ["-fPIC", str(file), "-o", str(library), "-lm"]
            subprocess.run(command, check=True, capture_output=True, timeout=60)
            return ctypes.CDLL(str(library))
    except (OSError, ValueError, subprocess.SubprocessError) as error:
        _logger.debug("nothing is compiled from C: %s", error)
        return None


@lru_cache(maxsize=1)
def weight_gradient() -> WeightGradient | None:
    """Return (g, x, geometry) -> gradient, None where it cannot be compiled.

    Each image's part of the gradient is added up by itself, row by row: the result depends on no number of threads, and
    is nearer to that of float64 than oneDNN's.
    """
    loaded = compile_c(_SOURCE + "".join(f"ALL({size})\n" for size in SIZES))
    if loaded is None:
        return None
    functions: dict[int, Any] = {size: getattr(loaded, f"weight_gradient_{size}") for size in SIZES}
    for function in functions.values():
        function.argtypes = [ctypes.c_void_p] * 3 + [ctypes.c_ssize_t] * 9
        function.restype = None

    def compute(gradient: Tensor, x: Tensor, geometry: Geometry) -> Tensor:
        size, stride, dilation = geometry
        gradient, x = (t.contiguous(memory_format=torch.channels_last) for t in (gradient, x))
        examples, channels, height, width = x.shape
        found = x.new_zeros(examples, size * size, channels)
        pointers = gradient.data_ptr(), x.data_ptr(), found.data_ptr()
        sizes = examples, channels, height, width, *gradient.shape[2:]
        functions[size](*pointers, *sizes, geometry.padding, stride, dilation)
        return found.sum(0).t().reshape(channels, 1, size, size)

    return compute


_SOURCE = r"""
#include <stddef.h>
typedef ptrdiff_t I;
typedef float V1;
typedef float V4 __attribute__((vector_size(16), aligned(4), may_alias));
typedef float V8 __attribute__((vector_size(32), aligned(4), may_alias));
typedef float V16 __attribute__((vector_size(64), aligned(4), may_alias));

/* g (h, w, C) and x (H, W, C) are one image's; adds to found (K K, C), of the channels of one V. */
#define PART(K, V) \
static void part_##K##_##V(const float *g, const float *x, float *found, I C, I H, I W, I h, \
                           I w, I p, I s, I d) { \
    I low = (p + s - 1) / s, high = W - 1 + p - (K - 1) * d; \
    high = high < 0 ? 0 : high / s + 1; \
    if (high > w) high = w; \
    if (low > high) low = high; \
    for (I y = 0; y < h; y++) \
        for (I i = 0; i < K; i++) { \
            I from = y * s + i * d - p; \
            if (from < 0 || from >= H) continue; \
            const float *gs = g + y * w * C, *xs = x + from * W * C; \
            V sum[K] = {}; \
            for (I c = low; c < high; c++) { \
                V a = *(const V *)(gs + c * C); \
                const float *b = xs + (c * s - p) * C; \
                _Pragma("GCC unroll 8") \
                for (int j = 0; j < K; j++) sum[j] += a * *(const V *)(b + j * d * C); \
            } \
            for (I c = 0; c < w; c++) { \
                if (c == low && low < high) c = high; \
                if (c == w) break; \
                V a = *(const V *)(gs + c * C); \
                for (int j = 0; j < K; j++) { \
                    I at = c * s + j * d - p; \
                    if (at >= 0 && at < W) sum[j] += a * *(const V *)(xs + at * C); \
                } \
            } \
            for (int j = 0; j < K; j++) *(V *)(found + (i * K + j) * C) += sum[j]; \
        } \
}

#define BLOCKS(K, V, WIDTH) \
    for (; c + WIDTH <= C; c += WIDTH) \
        part_##K##_##V(g + c, x + c, found + c, C, H, W, h, w, p, s, d);

#define ALL(K) \
PART(K, V1) PART(K, V4) PART(K, V8) PART(K, V16) \
void weight_gradient_##K(const float *g, const float *x, float *found, I N, I C, I H, I W, I h, \
                         I w, I p, I s, I d) { \
    for (I n = 0; n < N; n++, g += h * w * C, x += H * W * C, found += K * K * C) { \
        I c = 0; \
        BLOCKS(K, V16, 16) BLOCKS(K, V8, 8) BLOCKS(K, V4, 4) BLOCKS(K, V1, 1) \
    } \
}
"""
