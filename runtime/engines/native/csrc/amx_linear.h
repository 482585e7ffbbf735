// Linear layers of bfloat16 in tile registers, on panels as they are packed for vectors.

#pragma once

#include <algorithm>

#include "../../../../attention/csrc/amx.h"
#include "vectors.h"

#if PLAIT_TILES

namespace {

// Units that make up whole tiles; the others stand in `last`, filled up.
constexpr int64_t whole_tiles(int64_t depth) { return depth / kTile * kTile; }

// Up to 16 rows times a panel: its weights come in once, in the order in which they lie.
void few_rows(const uint32_t* x, int64_t x_stride, const uint32_t* weights, const uint32_t* last, int64_t depth,
              float* sums) {
    const int64_t whole = whole_tiles(depth);
    zero_sums();
    add_products<2 * kTile>(x, x_stride, weights, kPanel, whole);
    if (whole < depth) add_products(x + whole, x_stride, last, kPanel, kTile);
    store_sums(sums, kPanel);
}

// 17 to 32 rows times a panel, in two halves: every tile that is loaded is used twice.
void many_rows(const uint32_t* x, int64_t x_stride, const uint32_t* weights, const uint32_t* last, int64_t depth,
               float* sums) {
    constexpr int kStride = 4 * kPanel;
    for (int half = 0; half < kPanel; half += 32) {
        zero_sums();
        for (int64_t k = 0; k < depth; k += kTile) {
            const uint32_t* w = (k < whole_tiles(depth) ? weights + k * kPanel : last) + half;
            TILE_LOAD(6, w, kStride);
            TILE_LOAD(4, x + k, 4 * x_stride);
            TILE_MULTIPLY(0, 4, 6);
            TILE_LOAD(7, w + 16, kStride);
            TILE_MULTIPLY(1, 4, 7);
            TILE_LOAD(5, x + kTile * x_stride + k, 4 * x_stride);
            TILE_MULTIPLY(2, 5, 6);
            TILE_MULTIPLY(3, 5, 7);
        }
        float* more = sums + kTile * kPanel + half;
        TILE_STORE(0, sums + half, kStride);
        TILE_STORE(1, sums + half + 16, kStride);
        TILE_STORE(2, more, kStride);
        TILE_STORE(3, more + 16, kStride);
    }
}

// Rows of inputs times one panel (depth, kPanel), as `tile` of ops.cpp. Up to the next multiple of 16 units, what lies
// behind a row of inputs must be finite.
void tile_panel(const uint32_t* x, int64_t x_stride, int64_t rows, const uint32_t* weights, int64_t depth,
                const float* bias, bool add, float* y, int64_t y_stride) {
    static_assert(kPanel == 4 * kTile);
    alignas(64) uint32_t last[kTile * kPanel] = {};  // the last units, filled up
    std::memcpy(last, weights + whole_tiles(depth) * kPanel, (depth - whole_tiles(depth)) * kPanel * sizeof *last);
    alignas(64) float sums[2 * kTile * kPanel];
    int64_t configured = 0;
    for (int64_t begin = 0; begin < rows; begin += 2 * kTile) {
        const int64_t count = std::min<int64_t>(rows - begin, 2 * kTile);
        if (count != configured) configure_tiles(std::min<int64_t>(count, kTile), count > kTile ? count - kTile : count);
        configured = count;
        (count > kTile ? many_rows : few_rows)(x + begin * x_stride, x_stride, weights, last, depth, sums);
        for (int64_t row = 0; row < count; row++) {
            Vec total[1][kVectors];
            for (int j = 0; j < kVectors; j++) total[0][j] = load(sums + row * kPanel + j * kLanes);
            store_tile(total, bias, add, y + (begin + row) * y_stride, y_stride);
        }
    }
    tiles_release();
}

}  // namespace

#endif
