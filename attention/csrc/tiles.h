// What one panel of query rows does with one chunk of keys and values: scores, softmax, weighted values.

#pragma once

#include <algorithm>
#include <cmath>
#include <limits>
#include <utility>

#include "vectors.h"

namespace plait {

constexpr int kGroup = 16;                   // tokens that the score kernel takes at once; divides the block size
constexpr int kPerGroup = kGroup / kWidth;   // registers for one such group
constexpr int kPanel = kWidth == 16 ? 8 : 4;  // query rows of one register tile (32 or 16 registers)
constexpr int kChunk = 128;                  // tokens per partial result: scores of a panel stay in the L1 cache
constexpr int kMaxGroups = kChunk / kGroup;

constexpr float kLog2e = 1.4426950408889634f;
constexpr float kLn2 = 0.6931471805599453f;
constexpr float kMinusInf = -std::numeric_limits<float>::infinity();

// Scores of R rows and NB groups of kGroup tokens: out[r][j] = sum over d of q[d][r] * k[j][d].
// q: (D, kPanel); k[b]: group b's keys, (D, kGroup) with `stride` between dims; out: (R, kChunk).
template <class T, int R, int NB>
void score_tile(const float* q, const T* const* k, int64_t stride, int size, float* out) {
    constexpr int NV = NB * kPerGroup;
    vfloat acc[R][NV] = {};
    const T* key[NB];
    for (int b = 0; b < NB; b++) key[b] = k[b];
    for (int d = 0; d < size; d++) {
        vfloat column[NV];
#pragma GCC unroll 8
        for (int b = 0; b < NB; b++) {
#pragma GCC unroll 4
            for (int i = 0; i < kPerGroup; i++) column[b * kPerGroup + i] = load(key[b] + d * stride + i * kWidth);
        }
#pragma GCC unroll 8
        for (int r = 0; r < R; r++) {
            const vfloat query = splat(q[d * kPanel + r]);
#pragma GCC unroll 8
            for (int j = 0; j < NV; j++) acc[r][j] += query * column[j];
        }
    }
#pragma GCC unroll 8
    for (int r = 0; r < R; r++) {
#pragma GCC unroll 8
        for (int j = 0; j < NV; j++) store(out + r * kChunk + j * kWidth, acc[r][j]);
    }
}

// Groups taken at once: enough accumulators to hide the latency of a multiply-add, few enough to stay in registers.
constexpr int group_batch(int rows) {
    return kWidth < 16 ? (rows == 1 ? 2 : 1) : rows <= 2 ? 8 : rows <= 4 ? 4 : 2;
}

template <class T, int R>
void scores(const float* q, const T* const* k, int groups, int64_t stride, int size, float* out) {
    constexpr int NB = group_batch(R);
    int g = 0;
    for (; g + NB <= groups; g += NB) score_tile<T, R, NB>(q, k + g, stride, size, out + g * kGroup);
    if constexpr (NB > 4) {
        for (; g + 4 <= groups; g += 4) score_tile<T, R, 4>(q, k + g, stride, size, out + g * kGroup);
    }
    if constexpr (NB > 2) {
        for (; g + 2 <= groups; g += 2) score_tile<T, R, 2>(q, k + g, stride, size, out + g * kGroup);
    }
    if constexpr (NB > 1) {
        for (; g < groups; g++) score_tile<T, R, 1>(q, k + g, stride, size, out + g * kGroup);
    }
}

// Weighted values of R rows in NV registers of columns: out[r][..] = sum over tokens t of p[r][t] * v[t][..].
// p: (R, kChunk); v[g]: values of group g, (kGroup, D); tokens begin .. end - 1 of the chunk; column[j]: first column
// of register j. The last register of a row may overlap the one before it; both then hold the same sums.
template <class T, int R, int NV>
void value_tile(const float* p, const T* const* v, int begin, int end, int size, const int* column, float* out) {
    vfloat acc[R][NV] = {};
    int first[NV];
    for (int j = 0; j < NV; j++) first[j] = column[j];
    for (int t = begin; t < end;) {
        const int stop = std::min(end, (t / kGroup + 1) * kGroup);
        const T* value = v[t / kGroup] + (int64_t)(t % kGroup) * size;
        for (; t < stop; t++, value += size) {
            vfloat row[NV];
#pragma GCC unroll 8
            for (int j = 0; j < NV; j++) row[j] = load(value + first[j]);
#pragma GCC unroll 8
            for (int r = 0; r < R; r++) {
                const vfloat weight = splat(p[r * kChunk + t]);
#pragma GCC unroll 8
                for (int j = 0; j < NV; j++) acc[r][j] += weight * row[j];
            }
        }
    }
#pragma GCC unroll 8
    for (int r = 0; r < R; r++) {
#pragma GCC unroll 8
        for (int j = 0; j < NV; j++) store(out + (int64_t)r * size + first[j], acc[r][j]);
    }
}

constexpr int column_batch(int rows) {
    return kWidth < 16 ? (rows == 1 ? 4 : rows == 2 ? 3 : 2) : rows <= 2 ? 8 : rows <= 6 ? 4 : 3;
}

template <class T, int R, int NV>
void value_step(int count, const float* p, const T* const* v, int begin, int end, int size, const int* column,
                float* out) {
    if (count == NV) {
        value_tile<T, R, NV>(p, v, begin, end, size, column, out);
    } else if constexpr (NV > 1) {
        value_step<T, R, NV - 1>(count, p, v, begin, end, size, column, out);
    }
}

template <class T, int R>
void values(const float* p, const T* const* v, int begin, int end, int size, float* out) {
    const int registers = (size + kWidth - 1) / kWidth;
    const int steps = (registers + column_batch(R) - 1) / column_batch(R);
    int column[column_batch(R)];
    for (int step = 0, j = 0; step < steps; step++) {
        const int count = (registers - j + steps - step - 1) / (steps - step);
        for (int i = 0; i < count; i++, j++) column[i] = std::min(j * kWidth, size - kWidth);
        value_step<T, R, column_batch(R)>(count, p, v, begin, end, size, column, out);
    }
}

template <class T>
struct Kernels {
    using Scores = void (*)(const float*, const T* const*, int, int64_t, int, float*);
    using Values = void (*)(const float*, const T* const*, int, int, int, float*);
    Scores score[kPanel + 1];  // by number of rows
    Values value[kPanel + 1];

    template <int... R>
    static constexpr Kernels make(std::integer_sequence<int, R...>) {
        return {{nullptr, scores<T, R + 1>...}, {nullptr, values<T, R + 1>...}};
    }
};

template <class T>
constexpr Kernels<T> kKernels = Kernels<T>::make(std::make_integer_sequence<int, kPanel>());

struct Partial {
    float top = kMinusInf;  // maximum score, base 2
    float sum = 0;          // of 2^(score - top); 0 means empty
};

// Scores of one row, tokens 0 .. 16 * groups - 1 of which it sees lo .. hi - 1, become weights 2^(score - maximum), 0
// where it sees nothing. Returns their maximum and sum.
inline Partial softmax_row(float* s, int groups, int lo, int hi) {
    const int count = groups * kPerGroup;
    const vint lane = lane_numbers();
    vfloat top = splat(kMinusInf);
    for (int j = 0; j < count; j++) {
        vfloat x = load(s + j * kWidth);
        if (j * kWidth < lo || (j + 1) * kWidth > hi) {
            const vint token = lane + j * kWidth;
            x = ((token >= lo) & (token < hi)) ? x : splat(kMinusInf);
            store(s + j * kWidth, x);
        }
        top = x > top ? x : top;
    }
    const float maximum = largest(top);
    vfloat sum = {};
    const vfloat shift = splat(maximum);
    for (int j = 0; j < count; j++) {
        const vfloat p = exp2_below_one(load(s + j * kWidth) - shift);
        store(s + j * kWidth, p);
        sum += p;
    }
    return {maximum, total(sum)};
}

// Log-sum-exp merge of `from` into `to`. Never inlined, so that every merge rounds alike.
__attribute__((noinline)) inline void fold(Partial& to, float* __restrict values, Partial from, const float* __restrict more,
                                    int size) {
    if (from.sum == 0) return;
    if (to.sum == 0) {
        to = from;
        std::memcpy(values, more, size * sizeof(float));
        return;
    }
    const float top = std::max(to.top, from.top);
    const float a = std::exp2(to.top - top), b = std::exp2(from.top - top);
    to = {top, to.sum * a + from.sum * b};
    for (int i = 0; i < size; i++) values[i] = values[i] * a + more[i] * b;
}

}  // namespace plait
