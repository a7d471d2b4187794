// Products of matrices by register tiles of ROWS x WIDE sums; maps in any order to rows of float32, and back.
#pragma once

#include "vectors.h"

namespace {

constexpr long DEPTH = 256;                // of a product between two passes over its sums
constexpr long GROUP = 4 * ROWS;           // columns of a turned matrix, whole vectors

// C (rows, WIDE) = or += A B; A's element (i, k) at A[i * row + k] or, if turned, A[k * row + i]; B (depth, WIDE)
template <int N, bool TURNED>
void tile(long depth, const float* A, long row, const float* B, long b_row, float* C, long c_row, bool add) {
    vec sums[N][2];
#pragma GCC unroll 12
    for (int i = 0; i < N; i++) {
        sums[i][0] = sums[i][1] = vec{};
        __builtin_prefetch(C + i * c_row, 1);
    }
    for (long k = 0; k < depth; k++) {
        const vec left = load(B + k * b_row), right = load(B + k * b_row + LANES);
#pragma GCC unroll 12
        for (int i = 0; i < N; i++) {
            const float a = TURNED ? A[k * row + i] : A[i * row + k];
            sums[i][0] += a * left;
            sums[i][1] += a * right;
        }
    }
#pragma GCC unroll 12
    for (int i = 0; i < N; i++) {
        float* c = C + i * c_row;
        store(c, add ? load(c) + sums[i][0] : sums[i][0]);
        store(c + LANES, add ? load(c + LANES) + sums[i][1] : sums[i][1]);
    }
}

template <int N, bool TURNED>
void tile_of(long rows, long depth, const float* A, long row, const float* B, long b_row, float* C, long c_row,
             bool add) {
    if (rows == N) return tile<N, TURNED>(depth, A, row, B, b_row, C, c_row, add);
    if constexpr (N > 1) tile_of<N - 1, TURNED>(rows, depth, A, row, B, b_row, C, c_row, add);
}

// C (rows, columns) = A B; B in panels of WIDE columns, one after the other
void product(long rows, long columns, long depth, const float* A, long row, const float* B, float* C, long c_row) {
    for (long k = 0; k < depth; k += DEPTH)
        for (long j = 0; j < columns; j += WIDE)
            for (long i = 0; i < rows; i += ROWS)
                tile_of<ROWS, false>(std::min<long>(ROWS, rows - i), std::min(DEPTH, depth - k), A + i * row + k, row,
                                     B + j * depth + k * WIDE, WIDE, C + i * c_row + j, c_row, k > 0);
}

// C (rows, columns) = or += A' B; B in panels of WIDE columns. GROUP of A's columns are copied and stay in the cache.
void turned_product(long rows, long columns, long depth, const float* A, long row, const float* B, float* C, bool add,
                    float* group) {
    for (long i = 0; i < rows; i += GROUP) {
        const long count = std::min(GROUP, rows - i);
        for (long k = 0; k < depth; k++)
            for (long r = 0; r < count; r += LANES) store(group + k * GROUP + r, load(A + k * row + i + r));
        for (long j = 0; j < columns; j += WIDE)
            for (long r = 0; r < count; r += ROWS)
                tile_of<ROWS, true>(std::min<long>(ROWS, count - r), depth, group + r, GROUP, B + j * depth, WIDE,
                                    C + (i + r) * columns + j, columns, add);
    }
}

// Pixels of any type and order -> rows of float32
template <class S> void gather(const S* from, long next, long step, long n, long C, float* to, long to_row) {
    long p = 0;
    for (; next == 1 && p + LANES <= n; p += LANES) {
        float block[8 * LANES];
        long c = 0;
        for (; c + 8 <= C; c += 8) {
            for (int i = 0; i < 8; i++) store(block + i * LANES, load(from + (c + i) * step + p));
            for (int j = 0; j < LANES; j += 8) transpose8(block + j, LANES, to + (p + j) * to_row + c, to_row);
        }
        for (; c < C; c++)
            for (int j = 0; j < LANES; j++) to[(p + j) * to_row + c] = widen(from[c * step + p + j]);
    }
    for (; p < n; p++) {
        long c = 0;
        for (; step == 1 && c + LANES <= C; c += LANES) store(to + p * to_row + c, load(from + p * next + c));
        for (; c < C; c++) to[p * to_row + c] = widen(from[p * next + c * step]);
    }
}

// Rows of float32 -> pixels of any type and order
template <class S> void scatter(const float* from, long from_row, long n, long C, S* to, long next, long step) {
    long p = 0;
    for (; next == 1 && p + 8 <= n; p += 8) {
        float block[64];
        long c = 0;
        for (; c + 8 <= C; c += 8) {
            transpose8(from + p * from_row + c, from_row, block, 8);
            for (int i = 0; i < 8; i++)
                for (int j = 0; j < 8; j++) narrow(block[8 * i + j], to[(c + i) * step + p + j]);
        }
        for (; c < C; c++)
            for (int j = 0; j < 8; j++) narrow(from[(p + j) * from_row + c], to[c * step + p + j]);
    }
    for (; p < n; p++)
        if (step == 1)
            for (long c = 0; c < C; c++) narrow(from[p * from_row + c], to[p * next + c]);
        else
            for (long c = 0; c < C; c++) narrow(from[p * from_row + c], to[p * next + c * step]);
}

}  // namespace
