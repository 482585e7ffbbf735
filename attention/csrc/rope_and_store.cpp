// Rotary position encoding of new rows, fused with their write into the pools, where they may be rounded to 8 bits.

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <vector>

#include "vectors.h"

#define EXPORT extern "C" __attribute__((visibility("default")))

using namespace plait;

struct StoreArguments {
    void* q;  // rotated in place
    const void *k, *v;
    const float *cosine, *sine;      // (rows, rotary)
    const int64_t* slots;            // (rows,), block * block_size + offset; negative: not written
    const float *q_norm, *k_norm;    // (size,) or null
    const float* k_range;            // (kv_heads, size) or null: keys are divided by it, queries multiplied
    void *k_pool, *v_pool;
    int64_t q_row, q_head, k_row, k_head, v_row, v_head;              // strides in elements
    int64_t kp_block, kp_head, vp_block, vp_head;
    int32_t rows, heads, kv_heads, size, rotary, block_size, num_blocks;
    int32_t row_type, pool_type, threads;  // as `Type` of vectors.h
    float eps;
};

namespace {

// One head: to float, RMS norm (if `norm`), rotation.
template <class Q>
void rotated(const Q* x, const float* norm, float eps, const float* cosine, const float* sine, int rotary, int size,
             float* to) {
    for (int d = 0; d < size; d++) to[d] = to_float(x[d]);
    if (norm) {
        double square = 0;
        for (int d = 0; d < size; d++) square += (double)to[d] * to[d];
        const float inverse = (float)(1.0 / std::sqrt(square / size + eps));
        for (int d = 0; d < size; d++) to[d] = to[d] * inverse * norm[d];
    }
    for (int d = 0; d < rotary; d++) {
        const float first = to[d], second = to[d + rotary];
        to[d] = first * cosine[d] - second * sine[d];
        to[d + rotary] = second * cosine[d] + first * sine[d];
    }
}

// One token's numbers of one head, `step` apart. `scale`: where that of 8 bits goes.
template <class T>
void put(const float* x, int size, T* to, int64_t step, T*) {
    for (int d = 0; d < size; d++) from_float(x[d], to + d * step);
}

inline void put(const float* x, int size, int8_t* to, int64_t step, int8_t* scale) {
    float largest = 0;
    for (int d = 0; d < size; d++) {
        const float magnitude = std::fabs(x[d]);
        if (magnitude > largest || magnitude != magnitude) largest = magnitude;  // NaN stays
    }
    const float one = largest / 127;
    std::memcpy(scale, &one, sizeof one);
    if (one > 0 && std::isfinite(one)) {
        for (int d = 0; d < size; d++) {
            to[d * step] = (int8_t)std::min(std::max(std::nearbyint(x[d] / one), -127.0f), 127.0f);  // ties to even
        }
    } else {
        for (int d = 0; d < size; d++) to[d * step] = 0;
    }
}

template <class Q, class T>
void store_row(const StoreArguments& a, int row, float* buffer) {
    const int size = a.size;
    const float *cosine = a.cosine + (int64_t)row * a.rotary, *sine = a.sine + (int64_t)row * a.rotary;
    for (int head = 0; head < a.heads; head++) {
        Q* q = (Q*)a.q + row * a.q_row + head * a.q_head;
        rotated(q, a.q_norm, a.eps, cosine, sine, a.rotary, size, buffer);
        if (a.k_range) {
            const float* range = a.k_range + (int64_t)(head / (a.heads / a.kv_heads)) * size;
            for (int d = 0; d < size; d++) buffer[d] *= range[d];
        }
        for (int d = 0; d < size; d++) from_float(buffer[d], q + d);
    }
    if (a.slots[row] < 0) return;
    const int64_t block = a.slots[row] / a.block_size, offset = a.slots[row] % a.block_size;
    for (int head = 0; head < a.kv_heads; head++) {
        rotated((const Q*)a.k + row * a.k_row + head * a.k_head, a.k_norm, a.eps, cosine, sine, a.rotary, size, buffer);
        if (a.k_range) {
            const float* range = a.k_range + (int64_t)head * size;
            for (int d = 0; d < size; d++) buffer[d] /= range[d];
        }
        T* keys = (T*)a.k_pool + block * a.kp_block + head * a.kp_head;
        T* scales = keys + (int64_t)size * a.block_size;  // of all tokens of the block
        put(buffer, size, keys + offset, a.block_size, kScaled<T> ? scales + offset * sizeof(float) : nullptr);
        const Q* v = (const Q*)a.v + row * a.v_row + head * a.v_head;
        for (int d = 0; d < size; d++) buffer[d] = to_float(v[d]);
        T* value = (T*)a.v_pool + block * a.vp_block + head * a.vp_head + offset * stored_size<T>(size);
        put(buffer, size, value, 1, value + size);
    }
}

template <class Q, class T>
void store_rows(const StoreArguments& a) {
    if (a.threads <= 1) {
        std::vector<float> buffer(a.size);
        for (int row = 0; row < a.rows; row++) store_row<Q, T>(a, row, buffer.data());
        return;
    }
#pragma omp parallel num_threads(a.threads)
    {
        std::vector<float> buffer(a.size);
#pragma omp for schedule(static)
        for (int row = 0; row < a.rows; row++) store_row<Q, T>(a, row, buffer.data());
    }
}

}  // namespace

// Returns -1, having written nothing, if a slot lies beyond the pool.
EXPORT int plait_rope_and_store(const StoreArguments* arguments) {
    const StoreArguments& a = *arguments;
    for (int row = 0; row < a.rows; row++) {
        if (a.slots[row] >= (int64_t)a.num_blocks * a.block_size) return -1;
    }
    const auto store = [&](auto row) {
        using Q = decltype(row);
        with_type(a.pool_type, [&](auto element) { store_rows<Q, decltype(element)>(a); });
    };
    a.row_type == kBfloat16 ? store(bf16{}) : store(float{});
    return 0;
}
