// One panel of query rows and one chunk of keys and values, both bfloat16, in tile registers.

#pragma once

#include <algorithm>

#include "amx.h"
#include "tiles.h"

#if PLAIT_TILES

namespace plait {

constexpr int kPairs = kChunk / 2;     // of tokens, in a chunk
constexpr int kTileTokens = 2 * kTile;  // whose weights fill a register's row

inline int up_to(int multiple, int n) { return (n + multiple - 1) / multiple * multiple; }

// y = x w, for the rows of inputs that are configured: x (rows, depth), w (depth, 16 * columns), y (rows, 16 * columns).
inline void multiply(const uint32_t* x, int64_t x_stride, const uint32_t* w, int64_t w_stride, int depth, int columns,
                     float* y, int64_t y_stride) {
    for (; columns >= 4; columns -= 4, w += 4 * kTile, y += 4 * kTile) {
        zero_sums();
        add_products(x, x_stride, w, w_stride, depth);
        store_sums(y, y_stride);
    }
    for (; columns > 0; columns--, w += kTile, y += kTile) {
        TILE_ZERO(0);
        for (int k = 0; k < depth; k += kTile) {
            TILE_LOAD(4, x + k, 4 * x_stride);
            TILE_LOAD(6, w + k * w_stride, 4 * w_stride);
            TILE_MULTIPLY(0, 4, 6);
        }
        TILE_STORE(0, y, 4 * y_stride);
    }
}

// The same of 17 to 32 rows.
inline void multiply_many(const uint32_t* x, int64_t x_stride, const uint32_t* w, int64_t w_stride, int depth, int columns,
                          float* y, int64_t y_stride) {
    for (; columns >= 2; columns -= 2, w += 2 * kTile, y += 2 * kTile) {
        zero_sums();
        add_square(x, x_stride, w, w_stride, depth, [] {});
        store_square(y, y_stride);
    }
    if (!columns) return;
    TILE_ZERO(0);
    TILE_ZERO(2);
    for (int k = 0; k < depth; k += kTile) {
        TILE_LOAD(6, w + k * w_stride, 4 * w_stride);
        TILE_LOAD(4, x + k, 4 * x_stride);
        TILE_MULTIPLY(0, 4, 6);
        TILE_LOAD(5, x + kTile * x_stride + k, 4 * x_stride);
        TILE_MULTIPLY(2, 5, 6);
    }
    TILE_STORE(0, y, 4 * y_stride);
    TILE_STORE(2, y + kTile * y_stride, 4 * y_stride);
}

// A chunk's keys and values as tile registers take them: unrolled once for all rows that share it.
struct Unrolled {
    using P = Products<bf16>;
    const int size, units, columns;
    uint32_t* const keys;    // (units, kChunk): two neighbouring dims of each token, filled up with zeros
    uint32_t* const values;  // (kPairs, columns): two neighbouring tokens of each dim

    static size_t room(int size) { return (size_t)kChunk * up_to(kTile, size / 2) + (size_t)kPairs * up_to(kTile, size); }

    Unrolled(int size, float* space)
        : size(size), units(up_to(kTile, size / 2)), columns(up_to(kTile, size)), keys((uint32_t*)space),
          values(keys + (size_t)kChunk * units) {
        std::fill(keys + size / 2 * kChunk, values, 0);
    }

    // Tokens lo .. hi - 1 of the chunk, by groups of kGroup; what `next` points to is fetched meanwhile.
    template <bool kFetch>
    void fill(const bf16* const* k, const bf16* const* v, const bf16* const* next_k, const bf16* const* next_v,
              int64_t stride, int lo, int hi) {
        for (int g = lo / kGroup; g * kGroup < hi; g++) {
            for (int d = 0; d < size; d += 2) {
                if constexpr (kFetch) {
                    __builtin_prefetch(next_k[g] + d * stride, 0, 2);
                    __builtin_prefetch(next_k[g] + (d + 1) * stride, 0, 2);
                }
                const bf16* at = k[g] + d * stride;
                store((float*)keys + d / 2 * kChunk + g * kGroup, P::pair(at, at + stride));
            }
        }
        for (int t = lo / kTileTokens * kTileTokens; t < up_to(kTileTokens, hi); t += 2) {
            uint32_t* to = values + (size_t)(t / 2) * columns;
            if (t + 1 < lo || t >= hi) {  // nobody sees these: whatever they hold must not be multiplied, even by 0
                std::fill_n(to, columns, 0);
                continue;
            }
            const int64_t offset = (int64_t)(t % kGroup) * size;
            const bf16* value = v[t / kGroup] + offset;
            // Of a pair that is cut by `lo` or `hi` only one token may be read; the other one's weight is 0.
            const bf16* one = t >= lo ? value : value + size;
            const bf16* other = t + 1 < hi ? value + size : value;
            for (int c = 0; c < size; c += kWidth) {
                const int column = std::min(c, size - kWidth);
                if constexpr (kFetch) {
                    __builtin_prefetch(next_v[t / kGroup] + offset + column, 0, 2);
                    __builtin_prefetch(next_v[t / kGroup] + offset + size + column, 0, 2);
                }
                store((float*)to + column, P::pair(one + column, other + column));
            }
        }
    }
};

// Panels of up to 32 rows: what VectorPanel is for vectors.
struct TilePanel {
    static constexpr bool kHasScales = false;
    static constexpr int kRows = 2 * kTile;
    using T = bf16;
    const Unrolled& chunk;
    int* configured;  // rows

    int output_stride() const { return chunk.columns; }
    const float* queries(const float* q, int panel) const { return q + (size_t)panel * chunk.units; }

    void score(const float* q, int rows, int from, int groups, float* out) const {
        multiply_rows(rows, (const uint32_t*)q, chunk.units, chunk.keys + from * kGroup, kChunk, chunk.units, groups,
                      out + from * kGroup, kChunk);
    }

    // p: (rows, kChunk) units, of which those of the groups `from` .. are there.
    void value(float* p, int rows, int from, int groups, int lo, int hi, float* out) const {
        const int begin = lo / kTileTokens * kTile, end = up_to(kTileTokens, hi) / 2;
        for (int r = 0; r < rows; r++) {
            float* row = p + r * kChunk;
            std::fill(row + begin, row + from * kGroup / 2, 0.0f);
            std::fill(row + (from + groups) * kGroup / 2, row + end, 0.0f);
        }
        multiply_rows(rows, (const uint32_t*)p + begin, kChunk, chunk.values + (size_t)begin * chunk.columns,
                      chunk.columns, end - begin, chunk.columns / kTile, out, chunk.columns);
    }

private:
    template <class... Arguments>
    void multiply_rows(int rows, Arguments... arguments) const {
        if (*configured != rows) configure_tiles(std::min(rows, kTile), rows > kTile ? rows - kTile : rows);
        *configured = rows;
        (rows > kTile ? multiply_many : multiply)(arguments...);
    }
};

}  // namespace plait

#endif
