"""The passes of a cell in C, where a compiler is at hand: each tensor is read and written as seldom as can be.

Tensors are in channels-last memory, so an image is P pixels of C channels; lanes of one convolution lie side by side in
its result, which then has more channels, its stride. Sums over pixels are added up in float64.
"""

from __future__ import annotations

import ctypes
from collections.abc import Sequence
from functools import lru_cache
from typing import Any

import torch
from torch import Tensor

from balenas_plugin.fused.compiled import compile_c

_TYPES = {torch.float32: ("float", "int"), torch.float64: ("double", "long long")}

LANE = ("z", "stride", "g", "weight", "gamma", "beta", "mean", "r", "of_weight", "of_gamma", "of_beta", "of_z")
"""Addresses, 0 where there is none: of what goes into a node, weight (gamma (z - mean) r + beta), or weight z without a
gamma; of the node's gradient g; and of where the gradients go."""


class Kernels:
    """The compiled passes for one type of numbers; lanes are rows of addresses, see `LANE`."""

    def __init__(self, library: ctypes.CDLL) -> None:
        number, size = ctypes.c_void_p, ctypes.c_ssize_t
        self._moments = _function(library.moments, number, size, size, ctypes.c_double, number, number, number)
        self._mix = _function(library.mix, number, number, size, size, size, number)
        self._gradients = _function(library.gradients, size, size, size, number)
        self._input = _function(library.input, number, size, size, number, size, number, number)
        self._pool = _function(library.pool, number, number, size, size, size, size, size)

    def moments(self, z: Tensor, eps: float, found: Tensor, first: int) -> None:
        """Write the mean, 1 / sqrt(variance + eps) and unbiased variance of each channel into rows of (3, lanes, C)."""
        examples, channels, height, width = z.shape
        rows = found.data_ptr() + first * found.stride(1) * found.element_size()
        step = found.stride(0) * found.element_size()
        arguments = z.data_ptr(), examples * height * width, channels, eps
        self._moments(*arguments, rows, rows + step, rows + 2 * step)

    def mix(self, node: Tensor, rectified: Tensor | None, lanes: Sequence[Sequence[int]]) -> None:
        """Write the sum of lanes into a node, and the ReLU of it."""
        examples, channels, height, width = node.shape
        where = 0 if rectified is None else rectified.data_ptr()
        self._mix(node.data_ptr(), where, examples * height * width, channels, len(lanes), _table(lanes))

    def gradients(self, like: Tensor, lanes: Sequence[Sequence[int]]) -> None:
        """Write the gradients of lanes, whose nodes are of the shape of `like`."""
        examples, channels, height, width = like.shape
        self._gradients(examples * height * width, channels, len(lanes), _table(lanes))

    def input(self, node: Tensor, terms: Sequence[tuple[Tensor, int]], behind: Sequence[Tensor], mask: Tensor) -> None:
        """Write into a node the sum of (tensor, address of its weight), and of gradients where the mask is positive."""
        each = [address for tensor, weight in terms for address in (tensor.data_ptr(), weight)]
        rectified = [tensor.data_ptr() for tensor in behind]
        arguments = len(terms), _table([each]), len(behind), _table([rectified]), mask.data_ptr()
        self._input(node.data_ptr(), node.numel(), *arguments)

    def pool(self, y: Tensor, x: Tensor, *, adjoint: bool = False) -> None:
        """Write the mean of each 3x3 neighbourhood in the image into y; or add the adjoint of that."""
        examples, channels, height, width = x.shape
        self._pool(y.data_ptr(), x.data_ptr(), examples, height, width, channels, adjoint)


@lru_cache(maxsize=2)
def kernels(dtype: torch.dtype) -> Kernels | None:
    """Return the passes for a type, None where they cannot be compiled."""
    if dtype not in _TYPES:
        return None
    number, mask = _TYPES[dtype]
    source = f"typedef {number} T;\ntypedef {mask} Bits;\n{_SOURCE}"
    library = compile_c(source, "-O1", "-ftree-vectorize")  # as fast as with -O3, and compiled in half of the time
    return None if library is None else Kernels(library)


def _function(found: Any, *arguments: Any) -> Any:
    found.argtypes, found.restype = arguments, None
    return found


def _table(rows: Sequence[Sequence[int]]) -> Any:
    flat = [number for row in rows for number in row]
    return (ctypes.c_int64 * len(flat))(*flat)


_SOURCE = r"""
#include <math.h>
#include <stddef.h>
#include <stdlib.h>
typedef ptrdiff_t I;
#define VECTOR(W) \
typedef T V##W __attribute__((vector_size(W * sizeof(T)), aligned(sizeof(T)), may_alias)); \
typedef Bits B##W __attribute__((vector_size(W * sizeof(T)), aligned(sizeof(T)), may_alias));
VECTOR(1) VECTOR(4) VECTOR(8) VECTOR(16)

typedef struct {
    const T *z; I stride;
    const T *g, *weight, *gamma, *beta, *mean, *r;
    T *of_weight, *of_gamma, *of_beta, *of_z;
} Lane;

#define AT(V, p) (*(const V *)(p))
#define EACH(FUNCTION, C, ...) { I c = 0; \
    for (; c + 16 <= C; c += 16) FUNCTION##16(__VA_ARGS__); \
    for (; c + 8 <= C; c += 8) FUNCTION##8(__VA_ARGS__); \
    for (; c + 4 <= C; c += 4) FUNCTION##4(__VA_ARGS__); \
    for (; c < C; c++) FUNCTION##1(__VA_ARGS__); }

/* s += sum (x - k), q += sum (x - k) (y - l) */
#define SUMS(W) \
static void sums##W(const T *x, I along_x, const T *k, const T *y, I along_y, const T *l, I P, \
                    double *s, double *q) { \
    V##W from_x = AT(V##W, k), from_y = AT(V##W, l); \
    for (I p = 0; p < P;) { \
        I end = p + 32 < P ? p + 32 : P; \
        V##W s0 = {0}, s1 = {0}, q0 = {0}, q1 = {0}; \
        for (; p + 1 < end; p += 2, x += 2 * along_x, y += 2 * along_y) { \
            V##W a = AT(V##W, x) - from_x, b = AT(V##W, x + along_x) - from_x; \
            s0 += a; q0 += a * (AT(V##W, y) - from_y); \
            s1 += b; q1 += b * (AT(V##W, y + along_y) - from_y); \
        } \
        for (; p < end; p++, x += along_x, y += along_y) { \
            V##W a = AT(V##W, x) - from_x; \
            s0 += a; q0 += a * (AT(V##W, y) - from_y); \
        } \
        s0 += s1; q0 += q1; \
        for (int j = 0; j < W; j++) { s[j] += s0[j]; q[j] += q0[j]; } \
    } \
}
SUMS(1) SUMS(4) SUMS(8) SUMS(16)

/* Pixels whose values stay in the cache while they are read again. */
#define CHUNKS(C) for (I p = 0, step = 4096 / C + 32, n; n = P - p < step ? P - p : step, p < P; p += step)

void moments(const T *z, I P, I C, double eps, T *mean, T *r, T *variance) {
    double *s = calloc(2 * C, sizeof(double)), *q = s + C;
    CHUNKS(C) EACH(sums, C, z + p * C + c, C, z + c, z + p * C + c, C, z + c, n, s + c, q + c)
    for (I c = 0; c < C; c++) {
        double about = s[c] / P, squares = q[c] - s[c] * about;
        if (squares < 0) squares = 0;
        mean[c] = z[c] + about;
        r[c] = 1 / sqrt(squares / P + eps);
        variance[c] = squares / (P - 1);
    }
    free(s);
}

#define PIXELS(W, n) \
    for (; p + n <= P; p += n) { \
        V##W y[n]; \
        for (int i = 0; i < n; i++) y[i] = AT(V##W, b); \
        for (I l = 0; l < L; l++) { \
            V##W factor = AT(V##W, a + l * C); \
            const T *z = lanes[l].z + p * lanes[l].stride + c; \
            for (int i = 0; i < n; i++, z += lanes[l].stride) y[i] += factor * AT(V##W, z); \
        } \
        for (int i = 0; i < n; i++) { \
            *(V##W *)(node + (p + i) * C + c) = y[i]; \
            if (rectified) *(V##W *)(rectified + (p + i) * C + c) = (V##W)((B##W)y[i] & ~(B##W)(y[i] < 0)); \
        } \
    }
#define MIX(W) \
static void mix##W(T *node, T *rectified, I P, I C, I L, const Lane *lanes, const T *a, const T *b, I c) { \
    I p = 0; \
    PIXELS(W, 8) PIXELS(W, 1) \
}
MIX(1) MIX(4) MIX(8) MIX(16)

void mix(T *node, T *rectified, I P, I C, I L, const Lane *lanes) {
    T *a = malloc((L + 1) * C * sizeof(T)), *b = a + L * C;
    for (I c = 0; c < C; c++) {
        double constant = 0;
        for (I l = 0; l < L; l++) {
            const Lane *lane = lanes + l;
            double factor = *lane->weight;
            if (lane->gamma) {
                factor *= (double)lane->gamma[c] * lane->r[c];
                constant += (double)*lane->weight * lane->beta[c] - factor * lane->mean[c];
            }
            a[l * C + c] = factor;
        }
        b[c] = constant;
    }
    EACH(mix, C, node, rectified, P, C, L, lanes, a + c, b + c, c)
    free(a);
}

/* z' = a g + b z + k */
#define BACK(W) \
static void back##W(T *of_z, const T *g, const T *z, I P, I C, I stride, const T *a, const T *b, const T *k) { \
    V##W by_g = AT(V##W, a), by_z = AT(V##W, b), constant = AT(V##W, k); \
    for (I p = 0; p < P; p++, of_z += stride, z += stride, g += C) \
        *(V##W *)of_z = by_g * AT(V##W, g) + by_z * AT(V##W, z) + constant; \
}
BACK(1) BACK(4) BACK(8) BACK(16)

void gradients(I P, I C, I L, const Lane *lanes) {
    double *s = calloc(2 * C * L, sizeof(double)), *q = s + C * L;
    T *a = calloc((3 * L + 1) * C, sizeof(T)), *b = a + C * L, *k = b + C * L, *zero = k + C * L;
    CHUNKS(C) for (I l = 0; l < L; l++) {
        const Lane *lane = lanes + l;
        const T *g = lane->g + p * C, *z = lane->z + p * lane->stride, *from = lane->gamma ? lane->mean : zero;
        double *s_l = s + l * C, *q_l = q + l * C;
        EACH(sums, C, g + c, C, zero + c, z + c, lane->stride, from + c, n, s_l + c, q_l + c)
    }
    for (I l = 0; l < L; l++) {
        const Lane *lane = lanes + l;
        double weight = *lane->weight, of_weight = 0;
        for (I c = 0, at = l * C; c < C; c++, at++) {
            if (!lane->gamma) { of_weight += q[at]; continue; }
            double r = lane->r[c], with_x = r * q[at], factor = weight * lane->gamma[c] * r;
            of_weight += lane->gamma[c] * with_x + lane->beta[c] * s[at];
            if (lane->of_gamma) { lane->of_gamma[c] = weight * with_x; lane->of_beta[c] = weight * s[at]; }
            a[at] = factor;
            b[at] = -factor * r * with_x / P;
            k[at] = factor * (r * with_x * lane->mean[c] - s[at]) / P;
        }
        if (lane->of_weight) *lane->of_weight = of_weight;
    }
    CHUNKS(C) for (I l = 0; l < L; l++) {
        const Lane *lane = lanes + l;
        I at = p * lane->stride, f = l * C;
        if (lane->of_z)
            EACH(back, C, lane->of_z + at + c, lane->g + p * C + c, lane->z + at + c, n, C, lane->stride,
                 a + f + c, b + f + c, k + f + c)
    }
    free(s); free(a);
}

#define INPUT(W) \
    for (; i + W <= n; i += W) { \
        V##W y = {0}; \
        for (I k = 0; k < K; k++) y += AT(V##W, behind[k] + i); \
        y = (V##W)((B##W)y & (B##W)(AT(V##W, mask + i) > 0)); \
        for (I l = 0; l < L; l++) y += *terms[2 * l + 1] * AT(V##W, terms[2 * l] + i); \
        *(V##W *)(node + i) = y; \
    }
void input(T *node, I n, I L, const T *const *terms, I K, const T *const *behind, const T *mask) {
    I i = 0;
    INPUT(16) INPUT(1)
}

static T share(I k, I n) { return (T)1 / (1 + (k > 0) + (k < n - 1)); }

/* The adjoint divides by the number of pixels first. */
void pool(T *y, const T *x, I N, I H, I W, I C, I adjoint) {
    I line = W * C;
    T *row = calloc(line + 2 * C, sizeof(T));  /* a pixel of zeros on each side */
    for (I h = 0; h < N * H; h++, y += line) {
        I in_image = h % H;
        for (I d = in_image ? -1 : 0; d <= (in_image < H - 1); d++) {
            const T *from = x + (h + d) * line;
            T *sum = row + C, factor = adjoint ? share(in_image + d, H) : 1;
            if (d == (in_image ? -1 : 0)) for (I i = 0; i < line; i++) sum[i] = factor * from[i];
            else for (I i = 0; i < line; i++) sum[i] += factor * from[i];
        }
        for (I w = 0; adjoint && w < W; w++) {
            T factor = share(w, W), *sum = row + (w + 1) * C;
            for (I c = 0; c < C; c++) sum[c] *= factor;
        }
        if (adjoint) for (I i = 0; i < line; i++) y[i] += row[i] + row[i + C] + row[i + 2 * C];
        else for (I w = 0; w < W; w++) {
            T factor = share(in_image, H) * share(w, W), *sum = row + w * C;
            for (I c = 0; c < C; c++) y[w * C + c] = factor * (sum[c] + sum[c + C] + sum[c + 2 * C]);
        }
    }
    free(row);
}
"""
