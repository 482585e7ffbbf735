// Vectors as wide as the processor's, and the shape of packed weights.

#pragma once

#include <cmath>
#include <cstdint>
#include <cstring>

#if defined(__x86_64__)
#include <immintrin.h>
#endif

namespace {

#if defined(__AVX512F__)
constexpr int kLanes = 16;
constexpr int kTileRows = 6;  // 6 x 4 sums, 4 weights and an input: 29 of 32 registers
#elif defined(__AVX__)
constexpr int kLanes = 8;
constexpr int kTileRows = 3;  // of 16 registers
#else
constexpr int kLanes = 4;
constexpr int kTileRows = 3;
#endif
constexpr int kVectors = 4;  // a multiply-add's latency in cycles: one row alone keeps the unit busy
constexpr int kPanel = kLanes * kVectors;
constexpr int kLine = 16;  // units in a cache line
constexpr int kLines = kPanel / kLine;
constexpr int kPartDepth = 512;  // steps of depth, of kPanel units each: 128 KB of a panel
constexpr int kBlockRows = 22 * kTileRows;  // rows that read a part together
constexpr int kManyRows = 32;  // from here on, row operations are worth a parallel region

typedef float Vec __attribute__((vector_size(kLanes * 4)));
typedef int32_t Int __attribute__((vector_size(kLanes * 4)));
typedef int16_t Short __attribute__((vector_size(kLanes * 2)));

template <class V = Vec>
V load(const void* p) {
    V v;
    std::memcpy(&v, p, sizeof v);
    return v;
}

template <class V>
void store(void* p, V v) {
    std::memcpy(p, &v, sizeof v);
}

float sum(Vec v) {
    float total = 0;
    for (int i = 0; i < kLanes; i++) total += v[i];
    return total;
}

Vec exp(Vec x) {
    x = x < -87.0f ? Vec{} - 87.0f : x;
    x = x > 88.0f ? Vec{} + 88.0f : x;
    const float round = 12582912.0f;  // 1.5 * 2^23: adding it leaves the nearest integer in the low bits
    const Vec shifted = x * 1.44269504f + round;
    const Vec n = shifted - round;
    const Vec r = x - n * 0.693359375f + n * 2.12194440e-4f;  // ln 2 in two parts
    Vec p = r * 1.9875691500e-4f + 1.3981999507e-3f;
    p = p * r + 8.3334519073e-3f;
    p = p * r + 4.1665795894e-2f;
    p = p * r + 1.6666665459e-1f;
    p = p * r + 5.0000001201e-1f;
    const Int power = ((Int)shifted << 23) + 0x3f800000;
    return (p * r * r + r + 1.0f) * (Vec)power;
}

Vec silu(Vec x) { return x / (1.0f + exp(-x)); }

// Sums of a tile, one row behind the other.
template <int kRows>
[[gnu::always_inline]] inline void load_tile(Vec (&total)[kRows][kVectors], const float* sums) {
#pragma GCC unroll 8
    for (int row = 0; row < kRows; row++) {
#pragma GCC unroll 8
        for (int j = 0; j < kVectors; j++) total[row][j] = load(sums + (row * kVectors + j) * kLanes);
    }
}

// The end of a tile: its sums, with a bias and what is there already if asked for.
template <int kRows>
[[gnu::always_inline]] inline void store_tile(const Vec (&total)[kRows][kVectors], const float* bias, bool add, float* y,
                                              int64_t y_stride) {
#pragma GCC unroll 8
    for (int row = 0; row < kRows; row++) {
#pragma GCC unroll 8
        for (int j = 0; j < kVectors; j++) {
            float* out = y + row * y_stride + j * kLanes;
            Vec value = total[row][j];
            if (bias) value += load(bias + j * kLanes);
            if (add) value += load(out);
            store(out, value);
        }
    }
}

}  // namespace
