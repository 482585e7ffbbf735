// Products of bfloat16 in tile registers (AMX), on panels as they are packed for vectors.
//
// A tile register holds 16 rows of 64 bytes: 16 units of 16 rows of inputs, or 16 units of 16 outputs. One instruction
// multiplies two such tiles; each of its sums is one chain over its units in ascending order, whatever other rows the
// tile holds. So a row alone and a row among many give the same bits, and a last tile filled up with zeros changes none.
//
// The system grants the registers to a process that asks. Others in the process use them too (oneDNN does), so they are
// configured for every piece of work and released behind it.
//
// PLAIT_EMULATE_TILES: the same in plain C++, by Intel's description of the instructions, to test the rest without them.

#pragma once

#include <algorithm>

#include "vectors.h"

#if defined(__AMX_TILE__) && defined(__AMX_BF16__) && defined(__AVX512F__) && defined(__linux__)
#define PLAIT_TILES 1
#include <sys/syscall.h>
#include <unistd.h>
#elif defined(PLAIT_EMULATE_TILES) && defined(__AVX512F__)
#define PLAIT_TILES 1
#else
#define PLAIT_TILES 0
#endif

namespace {

#if PLAIT_TILES

constexpr int kTile = 16;  // rows of a tile, and units of a row

struct alignas(64) TileShapes {  // as the processor reads it
    uint8_t palette = 1, start = 0, reserved[14] = {};
    uint16_t row_bytes[16] = {};
    uint8_t rows[16] = {};
};

#if defined(PLAIT_EMULATE_TILES)

struct {
    TileShapes shapes;
    uint32_t units[8][kTile][kTile];
} thread_local emulated;

bool have_tiles() { return true; }
void tiles_configure(const TileShapes& shapes) { emulated.shapes = shapes; }
void tiles_release() { emulated.shapes = {}; }
void TILE_ZERO(int t) { std::memset(emulated.units[t], 0, sizeof emulated.units[t]); }
void TILE_LOAD(int t, const void* from, int64_t stride) {
    TILE_ZERO(t);
    for (int row = 0; row < emulated.shapes.rows[t]; row++)
        std::memcpy(emulated.units[t][row], static_cast<const char*>(from) + row * stride,
                    emulated.shapes.row_bytes[t]);
}
void TILE_STORE(int t, void* to, int64_t stride) {
    for (int row = 0; row < emulated.shapes.rows[t]; row++)
        std::memcpy(static_cast<char*>(to) + row * stride, emulated.units[t][row], emulated.shapes.row_bytes[t]);
}
void TILE_MULTIPLY(int c, int a, int b) {  // tdpbf16ps, but for numbers too small to be normal
    const auto half = [](uint32_t unit, int part) {
        const uint32_t bits = part ? unit & 0xffff0000u : unit << 16;
        float value;
        std::memcpy(&value, &bits, sizeof value);
        return value;
    };
    for (int row = 0; row < emulated.shapes.rows[c]; row++)
        for (int n = 0; n < kTile; n++) {
            float even = 0, odd = 0, total;
            for (int k = 0; k < emulated.shapes.rows[b]; k++) {
                const uint32_t x = emulated.units[a][row][k], w = emulated.units[b][k][n];
                even = std::fma(half(x, 0), half(w, 0), even);
                odd = std::fma(half(x, 1), half(w, 1), odd);
            }
            std::memcpy(&total, &emulated.units[c][row][n], sizeof total);
            total += even + odd;
            std::memcpy(&emulated.units[c][row][n], &total, sizeof total);
        }
}

#else

// Macros, because the compiler wants a register's number as a literal. It does not know that memory is read here.
#define COMMIT_STORES() asm volatile("" ::: "memory")
#define TILE_ZERO(t) _tile_zero(t)
#define TILE_LOAD(t, from, stride)     \
    do {                               \
        COMMIT_STORES();               \
        _tile_loadd(t, from, stride);  \
    } while (false)
#define TILE_STORE(t, to, stride) _tile_stored(t, to, stride)
#define TILE_MULTIPLY(c, a, b) _tile_dpbf16ps(c, a, b)

bool have_tiles() {
    constexpr int kRequestPermission = 0x1023, kTileData = 18;
    static const bool granted = syscall(SYS_arch_prctl, kRequestPermission, kTileData) == 0;
    return granted;
}
void tiles_configure(const TileShapes& shapes) {
    COMMIT_STORES();
    _tile_loadconfig(&shapes);
}
void tiles_release() { _tile_release(); }

#endif

// Registers 0 to 3 are sums, 4 and 5 rows of inputs, 6 and 7 weights. Sums 0 and 1 belong to the inputs in 4; 2 and 3 to
// those in 5, or, where 16 rows are all there are, to further outputs of the same.
void configure_tiles(int rows, int more_rows) {
    TileShapes shapes;
    for (int t = 0; t < 8; t++) shapes.row_bytes[t] = 4 * kTile;
    for (int t : {0, 1, 4}) shapes.rows[t] = rows;
    for (int t : {2, 3, 5}) shapes.rows[t] = more_rows;
    for (int t : {6, 7}) shapes.rows[t] = kTile;
    tiles_configure(shapes);
}

// Up to 16 rows times a panel: its weights come in once, in the order in which they lie.
void few_rows(const uint32_t* x, int64_t x_stride, const uint32_t* weights, const uint32_t* last, int64_t depth,
              float* sums) {
    constexpr int kStride = 4 * kPanel, kAhead = 2 * kTile * kPanel;
    TILE_ZERO(0);
    TILE_ZERO(1);
    TILE_ZERO(2);
    TILE_ZERO(3);
    for (int64_t k = 0; k < depth; k += kTile) {
        const uint32_t* w = k + kTile <= depth ? weights + k * kPanel : last;
        for (int i = 0; i < kTile * kPanel; i += kLine) __builtin_prefetch(weights + k * kPanel + kAhead + i, 0, 3);
        TILE_LOAD(4, x + k, 4 * x_stride);
        TILE_LOAD(6, w, kStride);
        TILE_MULTIPLY(0, 4, 6);
        TILE_LOAD(7, w + 16, kStride);
        TILE_MULTIPLY(1, 4, 7);
        TILE_LOAD(6, w + 32, kStride);
        TILE_MULTIPLY(2, 4, 6);
        TILE_LOAD(7, w + 48, kStride);
        TILE_MULTIPLY(3, 4, 7);
    }
    TILE_STORE(0, sums, kStride);
    TILE_STORE(1, sums + 16, kStride);
    TILE_STORE(2, sums + 32, kStride);
    TILE_STORE(3, sums + 48, kStride);
}

// 17 to 32 rows times a panel, in two halves: every tile that is loaded is used twice.
void many_rows(const uint32_t* x, int64_t x_stride, const uint32_t* weights, const uint32_t* last, int64_t depth,
               float* sums) {
    constexpr int kStride = 4 * kPanel;
    for (int half = 0; half < kPanel; half += 32) {
        TILE_ZERO(0);
        TILE_ZERO(1);
        TILE_ZERO(2);
        TILE_ZERO(3);
        for (int64_t k = 0; k < depth; k += kTile) {
            const uint32_t* w = (k + kTile <= depth ? weights + k * kPanel : last) + half;
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
    if (const int64_t rest = depth % kTile) std::memcpy(last, weights + (depth - rest) * kPanel, rest * kPanel * 4);
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

#endif

}  // namespace
