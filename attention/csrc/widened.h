// A chunk of 8 bits as bfloat16, which holds all integers up to 256.

#pragma once

#include <cstdint>
#include <cstring>

#if defined(__AVX512VBMI__) && defined(__AVX512BW__)
#include <immintrin.h>
#endif

#include "tiles.h"

namespace plait {

#if defined(__AVX512VBMI__) && defined(__AVX512BW__)
struct alignas(64) WideBytes {
    uint8_t low[128], high[128];  // of the bfloat16 of 0 .. 127
};

constexpr WideBytes wide_bytes() {
    WideBytes bytes = {};
    for (int n = 1, exponent = 0; n < 128; n++) {
        if (n >> (exponent + 1)) exponent++;
        const int bits = (127 + exponent) << 7 | (n << (7 - exponent) & 0x7f);
        bytes.low[n] = (uint8_t)bits;
        bytes.high[n] = (uint8_t)(bits >> 8);
    }
    return bytes;
}

constexpr WideBytes kWideBytes = wide_bytes();
#endif

#if defined(__AVX512VBMI__) && defined(__AVX512BW__)
// The first `kWhole ? 64 : count` of 64 integers.
template <bool kWhole>
inline void widen_register(const int8_t* from, bf16* to, int count) {
    const __m512i low0 = _mm512_load_si512(kWideBytes.low), low1 = _mm512_load_si512(kWideBytes.low + 64);
    const __m512i high0 = _mm512_load_si512(kWideBytes.high), high1 = _mm512_load_si512(kWideBytes.high + 64);
    const __m512i order = _mm512_set_epi64(7, 3, 6, 2, 5, 1, 4, 0);  // which the unpacking below undoes
    const __mmask64 mask = kWhole ? ~0ull : (1ull << count) - 1;
    const __m512i bytes = kWhole ? _mm512_loadu_si512(from) : _mm512_maskz_loadu_epi8(mask, from);
    const __m512i x = _mm512_maskz_permutexvar_epi64(0xff, order, bytes);
    const __m512i magnitude = _mm512_abs_epi8(x);
    const __m512i low = _mm512_permutex2var_epi8(low0, magnitude, low1);
    const __m512i unsigned_high = _mm512_permutex2var_epi8(high0, magnitude, high1);
    const __m512i sign = _mm512_set1_epi8((char)0x80);
    const __m512i high = _mm512_ternarylogic_epi64(unsigned_high, x, sign, 0xf8);  // a | (b & c)
    const __m512i first = _mm512_unpacklo_epi8(low, high), second = _mm512_unpackhi_epi8(low, high);
    if constexpr (kWhole) {  // a store with a mask is slow
        _mm512_storeu_si512(to, first);
        _mm512_storeu_si512(to + 32, second);
    } else {
        _mm512_mask_storeu_epi16(to, (__mmask32)mask, first);
        if (count > 32) _mm512_mask_storeu_epi16(to + 32, (__mmask32)(mask >> 32), second);
    }
}
#endif

// `count` integers; `next` is fetched meanwhile, which costs little beside this.
inline void widen(const int8_t* from, const int8_t* next, int count, bf16* to) {
    int i = 0;
#if defined(__AVX512VBMI__) && defined(__AVX512BW__)
    for (; i + 64 <= count; i += 64) {
        __builtin_prefetch(next + i, 0, 2);
        widen_register<true>(from + i, to + i, 64);
    }
    if (i < count) {
        __builtin_prefetch(next + i, 0, 2);
        widen_register<false>(from + i, to + i, count - i);
    }
#else
    for (; i < count; i += 64) __builtin_prefetch(next + i, 0, 2);
    for (i = 0; i < count; i++) {
        const float x = from[i];
        uint32_t bits;
        std::memcpy(&bits, &x, sizeof bits);
        to[i].bits = (uint16_t)(bits >> 16);
    }
#endif
}

struct Widened {
    const int size;
    bf16* const keys;    // (kMaxGroups, D, kGroup)
    bf16* const values;  // (kMaxGroups, kGroup, D)

    static size_t room(int size) { return (size_t)kChunk * size + kAlignment; }

    Widened(int size, float* space)
        : size(size), keys((bf16*)(space + -((uintptr_t)space / sizeof *space) % kAlignment)),
          values(keys + (size_t)kChunk * size) {}

    // Group g, and its scales. k, v: its keys and values in a block of block_size tokens, `offset` tokens from its start.
    void fill(int g, const int8_t* k, const int8_t* v, const int8_t* next_k, const int8_t* next_v, int block_size,
              int offset, Scales& scales) const {
        const int8_t* of_keys = k - offset + (int64_t)size * block_size + offset * sizeof(float);
        std::memcpy(scales.keys + g * kGroup, of_keys, kGroup * sizeof(float));
        bf16* key = keys + (size_t)g * kGroup * size;
        if (block_size == kGroup) {
            widen(k, next_k, size * kGroup, key);
            __builtin_prefetch(next_k + size * kGroup, 0, 2);
        } else {
            for (int d = 0; d < size; d++) {
                widen(k + (int64_t)d * block_size, next_k + (int64_t)d * block_size, kGroup, key + d * kGroup);
            }
        }
        const int stride = stored_size<int8_t>(size);
        for (int t = 0; t < kGroup; t++) {
            widen(v + t * stride, next_v + t * stride, size, values + ((size_t)g * kGroup + t) * size);
            std::memcpy(scales.values + g * kGroup + t, v + t * stride + size, sizeof(float));
        }
    }

private:
    static constexpr int kAlignment = 16;  // floats in a line of the cache
};

}  // namespace plait
