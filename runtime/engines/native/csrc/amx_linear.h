// Linear layers of bfloat16 in tile registers, on panels as they are packed for vectors.
//
// Tile registers multiply several times as fast as one core's memory and second-level cache can feed and drain them. So of
// many rows two blocks' sums are there at a time: while one block is multiplied, what comes of the other is written, a piece
// at a step; gates and ups meet before either is. Deep panels go by parts, over all rows and panels before the next, so that
// the rows' inputs stay in the cache. All this moves sums about, and never changes the order of one's products.

#pragma once

#include <algorithm>
#include <vector>

#include "../../../../attention/csrc/amx.h"
#include "vectors.h"

#if PLAIT_TILES

namespace {

constexpr int kTileBlock = 2 * kTile;  // rows that are multiplied together
constexpr int kTileSums = kTileBlock * kPanel;
constexpr int64_t kSharingRows = 512;    // that read each weight together
constexpr int64_t kNearUnits = 1 << 18;  // of inputs: half of a second-level cache of 2 MB
constexpr int64_t kNearDepth = kNearUnits / kSharingRows;

// Units that make up whole tiles; the others stand in `last`, filled up.
constexpr int64_t whole_tiles(int64_t depth) { return depth / kTile * kTile; }

// A part of a panel's depth.
struct Part {
    const uint32_t* weights;
    int64_t depth;
    alignas(64) uint32_t last[kTile * kPanel];

    Part(const uint32_t* weights, int64_t depth) : weights(weights), depth(depth) {
        const int64_t whole = whole_tiles(depth), rest = (depth - whole) * kPanel;
        if (!rest) return;
        std::memcpy(last, weights + whole * kPanel, rest * sizeof *last);
        std::fill(last + rest, std::end(last), 0);
    }
};

// sums (rows, kPanel) of up to 16 rows, from zero or further on: the weights come in once, in the order in which they lie.
void few_rows(const uint32_t* x, int64_t x_stride, const Part& part, bool further, float* sums) {
    const int64_t whole = whole_tiles(part.depth);
    further ? load_sums(sums, kPanel) : zero_sums();
    add_products<2 * kTile>(x, x_stride, part.weights, kPanel, whole);
    if (whole < part.depth) add_products(x + whole, x_stride, part.last, kPanel, kTile);
    store_sums(sums, kPanel);
}

// The same of 17 to 32 rows, half a panel at a time. After each step f().
template <class F>
void many_rows(const uint32_t* x, int64_t x_stride, const Part& part, bool further, float* sums, F f) {
    const int64_t whole = whole_tiles(part.depth);
    for (int half = 0; half < kPanel; half += 2 * kTile) {
        further ? load_square(sums + half, kPanel) : zero_sums();
        add_square(x, x_stride, part.weights + half, kPanel, whole, f);
        if (whole < part.depth) add_square(x + whole, x_stride, part.last + half, kPanel, kTile, f);
        store_square(sums + half, kPanel);
    }
}

// Outputs say which panels' sums meet (kPanels, `panel`), and write a row of them in kPieces pieces.

struct PlainOutput {
    static constexpr int kPanels = 1, kPieces = 1;
    const float* bias;  // or null
    bool add;           // to what is there
    float* y;
    int64_t y_stride;

    int64_t panel(int64_t number, int) const { return number; }
    void write(const float* sums, int64_t number, int64_t row, int) const {
        Vec total[1][kVectors];
        load_tile(total, sums);
        store_tile(total, bias ? bias + number * kPanel : nullptr, add, y + row * y_stride + number * kPanel, y_stride);
    }
};

// What `silu_multiply` makes of all gates and then all ups, `size` of each.
template <class Type>
struct GatedOutput {
    static constexpr int kPanels = 2, kPieces = 2;
    const float* bias;
    int64_t size;
    void* out;
    int64_t out_stride;

    int64_t panel(int64_t number, int which) const { return number + which * (size / kPanel); }
    void write(const float* sums, int64_t number, int64_t row, int piece) const {
        auto* to = static_cast<typename Type::Input*>(out) + row * out_stride;
        constexpr int kWidth = kPanel / kPieces;
        for (int i = piece * kWidth; i < (piece + 1) * kWidth; i += kLanes) {
            const int64_t at = number * kPanel + i;
            Vec gate = load(sums + i), up = load(sums + kTileSums + i);
            if (bias) gate += load(bias + at), up += load(bias + size + at);
            Type::write(to, at, silu(gate) * up);
        }
    }
};

template <class Output>
class TileProducts {
public:
    // x: (rows, depth); panels (depth, kPanel), one behind the other. Up to the next multiple of 16 units, what lies
    // behind a row of inputs must be finite.
    TileProducts(const uint32_t* x, int64_t x_stride, int64_t rows, const uint32_t* panels, int64_t depth, Output output)
        : x_(x), x_stride_(x_stride), rows_(rows), panels_(panels), depth_(depth), output_(output) {}

    // Panels (or pairs of them) from .. to - 1.
    void run(int64_t from, int64_t to) {
        for (int64_t begin = 0; begin < rows_; begin += kSharingRows)
            run_group(begin, std::min(rows_, begin + kSharingRows), from, to);
        write_rest();
        tiles_release();
    }

private:
    void run_group(int64_t begin, int64_t end, int64_t from, int64_t to) {
        const bool is_far = Output::kPanels == 1 && end - begin > kTileBlock && (end - begin) * depth_ > kNearUnits;
        const int64_t parts = is_far ? (depth_ + kNearDepth - 1) / kNearDepth : 1, tiles = (depth_ + kTile - 1) / kTile;
        const int64_t kept = (end - begin + kTileBlock - 1) / kTileBlock * kTileSums;  // of a panel, between the parts
        static thread_local std::vector<float> between;
        if (parts > 1) {
            write_rest();  // whose sums could stand there
            between.resize(kept * (to - from));
        }
        for (int64_t part = 0; part < parts; part++) {
            const int64_t first = tiles * part / parts * kTile, last = std::min(depth_, tiles * (part + 1) / parts * kTile);
            for (int64_t number = from; number < to; number++)
                run_panels(begin, end, number, first, last, parts > 1 ? between.data() + (number - from) * kept : nullptr);
        }
    }

    void run_panels(int64_t begin, int64_t end, int64_t number, int64_t first, int64_t last, float* between) {
        const auto weights = [&](int which) {
            return panels_ + (output_.panel(number, which) * depth_ + first) * kPanel;
        };
        const Part parts[] = {{weights(0), last - first}, {weights(Output::kPanels - 1), last - first}};
        for (int64_t row = begin; row < end; row += kTileBlock) {
            const int64_t count = std::min<int64_t>(end - row, kTileBlock);
            configure(count);
            float* sums = between ? between + (row - begin) * kPanel : sums_[is_second_ = !is_second_];
            for (int which = 0; which < Output::kPanels; which++) {
                const uint32_t* x = x_ + row * x_stride_ + first;
                float* to = sums + which * kTileSums;
                if (count > kTile)
                    many_rows(x, x_stride_, parts[which], first > 0, to, [this] { write_piece(); });
                else
                    few_rows(x, x_stride_, parts[which], first > 0, to);
            }
            if (last < depth_) continue;
            write_rest();
            waiting_ = {sums, number, row, 0, static_cast<int>(count) * Output::kPieces};
        }
    }

    void configure(int64_t count) {
        if (count == configured_) return;
        configure_tiles(std::min<int64_t>(count, kTile), count > kTile ? count - kTile : count);
        configured_ = count;
    }

    void write_piece() {
        if (waiting_.piece == waiting_.pieces) return;
        const int row = waiting_.piece / Output::kPieces;
        output_.write(waiting_.sums + row * kPanel, waiting_.number, waiting_.row + row, waiting_.piece % Output::kPieces);
        waiting_.piece++;
    }

    void write_rest() {
        while (waiting_.piece < waiting_.pieces) write_piece();
    }

    const uint32_t* x_;
    int64_t x_stride_, rows_;
    const uint32_t* panels_;
    int64_t depth_;
    Output output_;
    int64_t configured_ = 0;
    struct {  // a block that is multiplied, but not all written
        const float* sums;
        int64_t number, row;
        int piece, pieces;
    } waiting_ = {};
    bool is_second_ = false;
    alignas(64) float sums_[2][Output::kPanels * kTileSums];
};

// x times `count` panels, or pairs of them, shared out among threads.
template <class Output>
void multiply_in_tiles(const uint32_t* x, int64_t x_stride, int64_t rows, const uint32_t* panels, int64_t depth,
                       int64_t count, int threads, Output output) {
#pragma omp parallel for schedule(static) num_threads(threads) if (threads > 1)
    for (int thread = 0; thread < threads; thread++)
        TileProducts<Output>(x, x_stride, rows, panels, depth, output)
            .run(count * thread / threads, count * (thread + 1) / threads);
}

}  // namespace

#endif
