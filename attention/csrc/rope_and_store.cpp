// Rotary position encoding of new rows, fused with their write into the pools.

#include <cmath>
#include <cstdint>
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
    void *k_pool, *v_pool;
    int64_t q_row, q_head, k_row, k_head, v_row, v_head;              // strides in elements
    int64_t kp_block, kp_head, vp_block, vp_head;
    int32_t rows, heads, kv_heads, size, rotary, block_size, num_blocks;
    int32_t bf16_rows, bf16_pool, threads;
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

template <class Q, class T>
void store_row(const StoreArguments& a, int row, float* buffer) {
    const int size = a.size;
    const float *cosine = a.cosine + (int64_t)row * a.rotary, *sine = a.sine + (int64_t)row * a.rotary;
    for (int head = 0; head < a.heads; head++) {
        Q* q = (Q*)a.q + row * a.q_row + head * a.q_head;
        rotated(q, a.q_norm, a.eps, cosine, sine, a.rotary, size, buffer);
        for (int d = 0; d < size; d++) from_float(buffer[d], q + d);
    }
    if (a.slots[row] < 0) return;
    const int64_t block = a.slots[row] / a.block_size, offset = a.slots[row] % a.block_size;
    for (int head = 0; head < a.kv_heads; head++) {
        rotated((const Q*)a.k + row * a.k_row + head * a.k_head, a.k_norm, a.eps, cosine, sine, a.rotary, size, buffer);
        T* key = (T*)a.k_pool + block * a.kp_block + head * a.kp_head + offset;
        for (int d = 0; d < size; d++) from_float(buffer[d], key + (int64_t)d * a.block_size);
        const Q* v = (const Q*)a.v + row * a.v_row + head * a.v_head;
        T* value = (T*)a.v_pool + block * a.vp_block + head * a.vp_head + offset * size;
        for (int d = 0; d < size; d++) from_float(to_float(v[d]), value + d);
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
    if (a.bf16_rows) {
        a.bf16_pool ? store_rows<bf16, bf16>(a) : store_rows<bf16, float>(a);
    } else {
        a.bf16_pool ? store_rows<float, bf16>(a) : store_rows<float, float>(a);
    }
    return 0;
}
