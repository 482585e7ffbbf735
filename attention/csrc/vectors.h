// Vectors of floats as wide as the machine's registers, and what pools hold: floats, bfloat16, or 8 bits with scales.

#pragma once

#include <cstdint>
#include <cstring>

namespace plait {

#if defined(__AVX512F__)
constexpr int kWidth = 16;  // floats in a register
#elif defined(__AVX__)
constexpr int kWidth = 8;
#else
constexpr int kWidth = 4;
#endif

typedef float vfloat __attribute__((vector_size(4 * kWidth)));
typedef int32_t vint __attribute__((vector_size(4 * kWidth)));
typedef uint32_t vuint __attribute__((vector_size(4 * kWidth)));
typedef uint16_t vhalf __attribute__((vector_size(2 * kWidth)));

struct bf16 {
    uint16_t bits;
};

// Element types, as attention/library.py numbers them.
enum Type : int32_t { kFloat32, kBfloat16, kInt8 };

// f(an element of a pool of this type)
template <class F>
void with_type(int32_t pool_type, F f) {
    if (pool_type == kInt8) {
        f(int8_t{});
    } else if (pool_type == kBfloat16) {
        f(bf16{});
    } else {
        f(float{});
    }
}

// Does a token have a float32 scale for what it holds in one head, by which its integers are multiplied?
template <class T>
constexpr bool kScaled = false;
template <>
constexpr bool kScaled<int8_t> = true;

// Elements that a token takes in a pool for a head of `size` dims: a scale lies behind its values, those of a block's
// keys behind its keys (attention/int8.py).
template <class T>
constexpr int stored_size(int size) {
    return size + (kScaled<T> ? sizeof(float) / sizeof(T) : 0);
}

inline vfloat splat(float x) { return x - vfloat{}; }

inline vfloat load(const float* p) {
    vfloat v;
    std::memcpy(&v, p, sizeof v);
    return v;
}

inline vfloat load(const bf16* p) {
    vhalf h;
    std::memcpy(&h, p, sizeof h);
    const vuint wide = __builtin_convertvector(h, vuint) << 16;
    return (vfloat)wide;
}

inline void store(float* p, vfloat v) { std::memcpy(p, &v, sizeof v); }

inline float to_float(float x) { return x; }

inline float to_float(bf16 x) {
    const uint32_t wide = (uint32_t)x.bits << 16;
    float f;
    std::memcpy(&f, &wide, sizeof f);
    return f;
}

inline void from_float(float x, float* to) { *to = x; }

inline void from_float(float x, bf16* to) {  // round to nearest even
    uint32_t wide;
    std::memcpy(&wide, &x, sizeof wide);
    const uint32_t rounded = (wide + 0x7fff + ((wide >> 16) & 1)) >> 16;
    to->bits = (uint16_t)(x != x ? 0x7fc0 : rounded);
}

inline vint lane_numbers() {
    vint lane;
    for (int i = 0; i < kWidth; i++) lane[i] = i;
    return lane;
}

inline float largest(vfloat v) {
    const vint lane = lane_numbers();
    for (int step = kWidth / 2; step > 0; step /= 2) {
        const vfloat other = __builtin_shuffle(v, lane ^ step);
        v = v > other ? v : other;
    }
    return v[0];
}

inline float total(vfloat v) {
    const vint lane = lane_numbers();
    for (int step = kWidth / 2; step > 0; step /= 2) v += __builtin_shuffle(v, lane ^ step);
    return v[0];
}

// 2^(x * scale) for x <= 0 < scale, relative error below 2e-7; exactly 1 at 0, and 0 below 2^-125.5; NaN stays NaN.
inline vfloat exp2_below_one(vfloat x, float scale) {
    // 1.5 * 2^23: adding it rounds to an integer, whose bits, here with the bias of an exponent, are then the lowest.
    const vfloat magic = splat(12582912.0f + 127.0f);
    const vfloat shifted = x * scale + magic, whole = shifted - magic;
    const vfloat f = x * scale - whole;  // -0.5 .. 0.5
    vfloat p = splat(1.326472724711154e-3f);  // minimax polynomial of 2^f that is 1 at 0
    p = p * f + splat(9.671512688150646e-3f);
    p = p * f + splat(5.550733743574232e-2f);
    p = p * f + splat(2.402224208463514e-1f);
    p = p * f + splat(6.931469775987164e-1f);
    p = p * f + splat(1.0f);
    const vfloat power = (vfloat)((vint)shifted << 23);
    return whole < splat(-125.0f) ? vfloat{} : p * power;
}

}  // namespace plait
