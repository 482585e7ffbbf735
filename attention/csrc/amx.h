// Tile registers (AMX): products of bfloat16, 16 rows times 16 columns at once.
//
// A register holds 16 rows of 64 bytes: of inputs, 16 units of neighbouring pairs of each of 16 rows; of what they are
// multiplied with, 16 columns of each of 16 units. One instruction multiplies two such registers; each of its sums is one
// chain over the units in ascending order, whatever other rows there are. So a row alone and a row among many give the
// same bits, and units filled up with zeros change none.
//
// The system grants the registers to a process that asks. Others in the process use them too (oneDNN does), so they are
// configured for every piece of work and released behind it.
//
// PLAIT_EMULATE_TILES: the same in plain C++, by Intel's description of the instructions, to test the rest without them.

#pragma once

#include <cmath>
#include <cstdint>
#include <cstring>

#if defined(__AMX_TILE__) && defined(__AMX_BF16__) && defined(__AVX512BF16__) && defined(__linux__)
#define PLAIT_TILES 1
#include <immintrin.h>
#include <sys/syscall.h>
#include <unistd.h>
#elif defined(PLAIT_EMULATE_TILES) && defined(__AVX512BF16__)
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

// Registers 0 to 3 are sums, 4 and 5 rows of inputs, 6 and 7 what they are multiplied with. Sums 0 and 1 belong to the
// inputs in 4; 2 and 3 to those in 5 or, where 16 rows are all there are, to further columns of the same.
void configure_tiles(int rows, int more_rows) {
    TileShapes shapes;
    for (int t = 0; t < 8; t++) shapes.row_bytes[t] = 4 * kTile;
    for (int t : {0, 1, 4}) shapes.rows[t] = rows;
    for (int t : {2, 3, 5}) shapes.rows[t] = more_rows;
    for (int t : {6, 7}) shapes.rows[t] = kTile;
    tiles_configure(shapes);
}

void zero_sums() {
    TILE_ZERO(0);
    TILE_ZERO(1);
    TILE_ZERO(2);
    TILE_ZERO(3);
}

// The four sums of one row of tiles, side by side; `stride` in elements.
[[maybe_unused]] void load_sums(const float* y, int64_t stride) {
    TILE_LOAD(0, y, 4 * stride);
    TILE_LOAD(1, y + kTile, 4 * stride);
    TILE_LOAD(2, y + 2 * kTile, 4 * stride);
    TILE_LOAD(3, y + 3 * kTile, 4 * stride);
}

void store_sums(float* y, int64_t stride) {
    TILE_STORE(0, y, 4 * stride);
    TILE_STORE(1, y + kTile, 4 * stride);
    TILE_STORE(2, y + 2 * kTile, 4 * stride);
    TILE_STORE(3, y + 3 * kTile, 4 * stride);
}

// sums += x w, for the rows of inputs that are configured: x (rows, depth), w (depth, 64), depth a multiple of kTile.
// `w` is fetched so many rows ahead, if any.
template <int kAhead = 0>
void add_products(const uint32_t* x, int64_t x_stride, const uint32_t* w, int64_t w_stride, int64_t depth) {
    for (int64_t k = 0; k < depth; k += kTile, x += kTile, w += kTile * w_stride) {
        if constexpr (kAhead > 0)
            for (int row = kAhead; row < kAhead + kTile; row++)
                for (int i = 0; i < 4 * kTile; i += kTile) __builtin_prefetch(w + row * w_stride + i, 0, 3);
        TILE_LOAD(4, x, 4 * x_stride);
        TILE_LOAD(6, w, 4 * w_stride);
        TILE_MULTIPLY(0, 4, 6);
        TILE_LOAD(7, w + kTile, 4 * w_stride);
        TILE_MULTIPLY(1, 4, 7);
        TILE_LOAD(6, w + 2 * kTile, 4 * w_stride);
        TILE_MULTIPLY(2, 4, 6);
        TILE_LOAD(7, w + 3 * kTile, 4 * w_stride);
        TILE_MULTIPLY(3, 4, 7);
    }
}

// The sums of two rows of tiles, two side by side.
[[maybe_unused]] void load_square(const float* y, int64_t stride) {
    TILE_LOAD(0, y, 4 * stride);
    TILE_LOAD(1, y + kTile, 4 * stride);
    TILE_LOAD(2, y + kTile * stride, 4 * stride);
    TILE_LOAD(3, y + kTile * stride + kTile, 4 * stride);
}

void store_square(float* y, int64_t stride) {
    TILE_STORE(0, y, 4 * stride);
    TILE_STORE(1, y + kTile, 4 * stride);
    TILE_STORE(2, y + kTile * stride, 4 * stride);
    TILE_STORE(3, y + kTile * stride + kTile, 4 * stride);
}

// sums += x w for 17 to 32 rows, w (depth, 32): every tile that is loaded is used twice. After each step f().
template <class F>
void add_square(const uint32_t* x, int64_t x_stride, const uint32_t* w, int64_t w_stride, int64_t depth, F f) {
    for (int64_t k = 0; k < depth; k += kTile, x += kTile, w += kTile * w_stride) {
        TILE_LOAD(6, w, 4 * w_stride);
        TILE_LOAD(4, x, 4 * x_stride);
        TILE_MULTIPLY(0, 4, 6);
        TILE_LOAD(7, w + kTile, 4 * w_stride);
        TILE_MULTIPLY(1, 4, 7);
        TILE_LOAD(5, x + kTile * x_stride, 4 * x_stride);
        TILE_MULTIPLY(2, 5, 6);
        TILE_MULTIPLY(3, 5, 7);
        f();
    }
}

#endif

}  // namespace
