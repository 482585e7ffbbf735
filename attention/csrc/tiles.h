// What one panel of query rows does with one chunk of keys and values: scores, softmax, weighted values.

#pragma once

#include <algorithm>
#include <cmath>
#include <limits>
#include <utility>

#if defined(__AVX512BF16__)
#include <immintrin.h>
#endif

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

// How queries meet keys and weights meet values of type T. Queries and weights come in units of 4 bytes, each for kDepth
// neighbouring dims or tokens; so many dims of a key, or tokens of a value column, make up one register.
template <class T>
struct Products {
    static constexpr int kDepth = 1;
    // Two rows of keys or values, of which only the first counts where kDepth is 1.
    static vfloat pair(const T* first, const T*) { return load(first); }
    static vfloat broadcast(const float* unit) { return splat(*unit); }
    static vfloat multiply_add(vfloat total, vfloat unit, vfloat column) { return total + unit * column; }
    static void pack(const float* row, int size, float* panel) {
        for (int d = 0; d < size; d++) panel[d * kPanel] = row[d];
    }
    static void store_weights(float* row, int j, vfloat p) { store(row + j * kWidth, p); }
    static void store_weights(float* row, int j, vfloat p, vfloat next) {
        store_weights(row, j, p);
        store_weights(row, j + 1, next);
    }
};

#if defined(__AVX512BF16__) && defined(__AVX512BW__)
// Two products per lane, summed in float32 (vdpbf16ps). Queries and weights are rounded to bfloat16, as keys and values
// were; the sum of the weights is not.
template <>
struct Products<bf16> {
    static constexpr int kDepth = 2;

    static vfloat pair(const bf16* first, const bf16* second) {
        const __m512i order = _mm512_set_epi16(
            47, 15, 46, 14, 45, 13, 44, 12, 43, 11, 42, 10, 41, 9, 40, 8, 39, 7, 38, 6, 37, 5, 36, 4, 35, 3, 34, 2,
            33, 1, 32, 0);
        const __m512i a = _mm512_castsi256_si512(_mm256_loadu_si256((const __m256i*)first));
        const __m512i b = _mm512_castsi256_si512(_mm256_loadu_si256((const __m256i*)second));
        return (vfloat)_mm512_permutex2var_epi16(a, order, b);
    }
    static vfloat broadcast(const float* unit) {
        int32_t bits;
        std::memcpy(&bits, unit, sizeof bits);
        return (vfloat)_mm512_set1_epi32(bits);
    }
    static vfloat multiply_add(vfloat total, vfloat unit, vfloat column) {
        return (vfloat)_mm512_dpbf16_ps((__m512)total, (__m512bh)unit, (__m512bh)column);
    }
    static void pack(const float* row, int size, float* panel) {
        for (int d = 0; d < size; d += kDepth) {
            const __m128bh rounded = _mm_cvtneps_pbh(_mm_castsi128_ps(_mm_loadl_epi64((const __m128i*)(row + d))));
            std::memcpy(panel + d / kDepth * kPanel, &rounded, sizeof *panel);
        }
    }
    static void store_weights(float* row, int j, vfloat p) {
        const __m256bh rounded = _mm512_cvtneps_pbh((__m512)p);
        std::memcpy((char*)row + j * sizeof rounded, &rounded, sizeof rounded);
    }
    static void store_weights(float* row, int j, vfloat p, vfloat next) {
        const __m512bh rounded = _mm512_cvtne2ps_pbh((__m512)next, (__m512)p);
        std::memcpy((char*)row + j * sizeof rounded / 2, &rounded, sizeof rounded);
    }
};
#endif

// Scores of R rows and NB groups of kGroup tokens: out[r][j] = sum over d of q[d][r] * k[j][d].
// q: (D / kDepth, kPanel) units; k[b]: group b's keys, (D, kGroup) with `stride` between dims; out: (R, kChunk).
// `next`: keys that are wanted soon, laid out as k.
template <class T, bool kFetch, int R, int NB>
void score_tile(const float* q, const T* const* k, const T* const* next, int64_t stride, int size, float* out) {
    using P = Products<T>;
    constexpr int NV = NB * kPerGroup;
    vfloat acc[R][NV] = {};
    const T* key[NB];
    for (int b = 0; b < NB; b++) key[b] = k[b];
    for (int d = 0; d < size; d += P::kDepth, q += kPanel) {
        vfloat column[NV];
#pragma GCC unroll 8
        for (int b = 0; b < NB; b++) {
            if constexpr (kFetch) __builtin_prefetch(next[b] + d * stride, 0, 2);
#pragma GCC unroll 4
            for (int i = 0; i < kPerGroup; i++) {
                const T* at = key[b] + d * stride + i * kWidth;
                column[b * kPerGroup + i] = P::pair(at, at + stride);
            }
        }
#pragma GCC unroll 8
        for (int r = 0; r < R; r++) {
            const vfloat query = P::broadcast(q + r);
#pragma GCC unroll 8
            for (int j = 0; j < NV; j++) acc[r][j] = P::multiply_add(acc[r][j], query, column[j]);
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

template <class T, bool kFetch, int R>
void scores(const float* q, const T* const* k, const T* const* next, int groups, int64_t stride, int size, float* out) {
    constexpr int NB = group_batch(R);
    int g = 0;
    for (; g + NB <= groups; g += NB) score_tile<T, kFetch, R, NB>(q, k + g, next + g, stride, size, out + g * kGroup);
    if constexpr (NB > 4) {
        for (; g + 4 <= groups; g += 4) score_tile<T, kFetch, R, 4>(q, k + g, next + g, stride, size, out + g * kGroup);
    }
    if constexpr (NB > 2) {
        for (; g + 2 <= groups; g += 2) score_tile<T, kFetch, R, 2>(q, k + g, next + g, stride, size, out + g * kGroup);
    }
    if constexpr (NB > 1) {
        for (; g < groups; g++) score_tile<T, kFetch, R, 1>(q, k + g, next + g, stride, size, out + g * kGroup);
    }
}

// Weighted values of R rows in NV registers of columns: out[r][..] = sum over tokens t of p[r][t] * v[t][..].
// p: (R, kChunk) floats or units; v[g]: values of group g, (kGroup, D); tokens begin .. end - 1 of the chunk; column[j]:
// first column of register j. The last register of a row may overlap the one before it; both then hold the same sums.
// `next`: values that are wanted soon, laid out as v.
template <class T, bool kFetch, int R, int NV>
void value_tile(const float* p, const T* const* v, const T* const* next, int begin, int end, int size,
                const int* column, float* out) {
    using P = Products<T>;
    vfloat acc[R][NV] = {};
    int first[NV];
    for (int j = 0; j < NV; j++) first[j] = column[j];
    for (int t = begin / P::kDepth * P::kDepth; t < end;) {
        const int64_t offset = (int64_t)(t % kGroup) * size;
        const T *value = v[t / kGroup] + offset, *soon = next[t / kGroup] + offset;
        const int stop = std::min(end, (t / kGroup + 1) * kGroup);
        for (; t < stop; t += P::kDepth, value += P::kDepth * size, soon += P::kDepth * size) {
            // Of a pair that is cut by `begin` or `end` only one token may be read; the other one's weight is 0.
            const T* one = t >= begin ? value : value + size;
            const T* other = t + 1 < end ? value + size : value;
            vfloat row[NV];
#pragma GCC unroll 8
            for (int j = 0; j < NV; j++) {
                row[j] = P::pair(one + first[j], other + first[j]);
                if constexpr (kFetch) {
                    for (int i = 0; i < P::kDepth; i++) __builtin_prefetch(soon + first[j] + i * size, 0, 2);
                }
            }
#pragma GCC unroll 8
            for (int r = 0; r < R; r++) {
                const vfloat weight = P::broadcast(p + r * kChunk + t / P::kDepth);
#pragma GCC unroll 8
                for (int j = 0; j < NV; j++) acc[r][j] = P::multiply_add(acc[r][j], weight, row[j]);
            }
        }
    }
#pragma GCC unroll 8
    for (int r = 0; r < R; r++) {
#pragma GCC unroll 8
        for (int j = 0; j < NV; j++) store(out + (int64_t)r * size + first[j], acc[r][j]);
    }
}

template <class T>
constexpr int column_batch(int rows) {
    if (kWidth < 16) return rows == 1 ? 4 : rows == 2 ? 3 : 2;
    if (Products<T>::kDepth > 1) return rows <= 2 ? 8 : rows <= 4 ? 4 : 2;
    return rows <= 2 ? 8 : rows <= 6 ? 4 : 3;
}

template <class T, bool kFetch, int R, int NV>
void value_step(int count, const float* p, const T* const* v, const T* const* next, int begin, int end, int size,
                const int* column, float* out) {
    if (count == NV) {
        value_tile<T, kFetch, R, NV>(p, v, next, begin, end, size, column, out);
    } else if constexpr (NV > 1) {
        value_step<T, kFetch, R, NV - 1>(count, p, v, next, begin, end, size, column, out);
    }
}

template <class T, bool kFetch, int R>
void values(const float* p, const T* const* v, const T* const* next, int begin, int end, int size, float* out) {
    const int registers = (size + kWidth - 1) / kWidth;
    const int steps = (registers + column_batch<T>(R) - 1) / column_batch<T>(R);
    int column[column_batch<T>(R)];
    for (int step = 0, j = 0; step < steps; step++) {
        const int count = (registers - j + steps - step - 1) / (steps - step);
        for (int i = 0; i < count; i++, j++) column[i] = std::min(j * kWidth, size - kWidth);
        value_step<T, kFetch, R, column_batch<T>(R)>(count, p, v, next, begin, end, size, column, out);
    }
}

template <class T, bool kFetch>
struct Kernels {
    using Scores = void (*)(const float*, const T* const*, const T* const*, int, int64_t, int, float*);
    using Values = void (*)(const float*, const T* const*, const T* const*, int, int, int, float*);
    Scores score[kPanel + 1];  // by number of rows
    Values value[kPanel + 1];

    template <int... R>
    static constexpr Kernels make(std::integer_sequence<int, R...>) {
        return {{nullptr, scores<T, kFetch, R + 1>...}, {nullptr, values<T, kFetch, R + 1>...}};
    }
};

template <class T, bool kFetch>
constexpr Kernels<T, kFetch> kKernels = Kernels<T, kFetch>::make(std::make_integer_sequence<int, kPanel>());

struct Partial {
    float top = kMinusInf;  // maximum score, base 2
    float sum = 0;          // of 2^(score - top); 0 means empty
};

// Of a chunk's tokens: by what their keys and their values, which are integers then, are to be multiplied.
struct alignas(64) Scales {
    float keys[kChunk], values[kChunk];
};

// Scores of one row, tokens 0 .. 16 * groups - 1 of which it sees lo .. hi - 1, become weights 2^(scale * (score -
// maximum)), 0 where it sees nothing, in the units that `values` takes. Returns their maximum and sum. `weights` may
// overlap the scores if it does not lie behind them. With kHasScales these are `of_keys` and `of_values`, of the same
// tokens, and the weights are multiplied by those of the values; their sum is not.
template <class T, bool kHasScales>
Partial softmax_row(float* s, float scale, const float* of_keys, const float* of_values, int groups, int lo, int hi,
                    float* weights) {
    const int count = groups * kPerGroup;
    if (kHasScales || scale <= 0) {
        const float factor = scale <= 0 ? scale : 1.0f;
        for (int j = 0; j < count; j++) {
            vfloat x = load(s + j * kWidth) * factor;
            if constexpr (kHasScales) x *= load(of_keys + j * kWidth);
            store(s + j * kWidth, x);
        }
        if (scale <= 0) scale = 1;
    }
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
    const vfloat shift = splat(maximum);
    vfloat sum = {};
    const auto weight = [&](int j) {
        const vfloat p = exp2_below_one(load(s + j * kWidth) - shift, scale);
        sum += p;
        // The scale of a token that is not seen may be anything, and 0 times NaN is NaN.
        if constexpr (kHasScales) return p == vfloat{} ? vfloat{} : p * load(of_values + j * kWidth);
        return p;
    };
    int j = 0;
    for (; j + 2 <= count; j += 2) {
        const vfloat first = weight(j), second = weight(j + 1);
        Products<T>::store_weights(weights, j, first, second);
    }
    if (j < count) Products<T>::store_weights(weights, j, weight(j));
    return {maximum * scale, total(sum)};
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
    const float a = to.top == top ? 1 : std::exp2(to.top - top), b = from.top == top ? 1 : std::exp2(from.top - top);
    to = {top, to.sum * a + from.sum * b};
    for (int i = 0; i < size; i++) values[i] = values[i] * a + more[i] * b;
}

}  // namespace plait
