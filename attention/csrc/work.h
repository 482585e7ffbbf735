// A plan cut into work items.

#pragma once

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <memory>
#include <new>
#include <vector>

#include "tiles.h"
#include "widened.h"

namespace plait {

constexpr int kTileRows = 128;  // query rows (times heads) that share one pass over a run

struct Line {
    int row, run, lo, hi;
    int shift;  // index into Work::shifts, -1: none
    int group;
    int slot;  // first partial result
};

struct Tile {
    int first, count;  // into Work::lines
    int lo, hi;        // tokens that some line sees
};

struct Item {
    int tile, head_begin, head_end, chunk_begin, chunk_end;
};

struct GroupScale {
    float inverse_temperature, factor, bias;
};

template <class T>
struct Buffer {  // grows, never initialised; begins with a cache line
    struct Free {
        void operator()(T* data) const { ::operator delete[](data, kLine); }
    };
    static constexpr std::align_val_t kLine{64};
    std::unique_ptr<T[], Free> data;
    size_t capacity = 0;

    T* get(size_t count) {
        if (count > capacity) {
            data.reset(static_cast<T*>(::operator new[](count * sizeof(T), kLine)));
            capacity = count;
        }
        return data.get();
    }
};

struct Scratch {  // of one thread
    Buffer<float> query, output, state, unrolled, widened;
    alignas(64) float scores[32 * kChunk];  // of the widest panel
    Scales scales;                          // of one chunk and kv head, where the pools have them
};

struct Work {
    int num_rows, heads, kv_heads, ratio, size, block_size;
    bool split;  // one partial result per line and chunk instead of one per line
    const int32_t* run_blocks;
    std::vector<int32_t> run_start;
    std::vector<GroupScale> groups;
    std::vector<Line> lines;     // by run, longest first
    std::vector<int> row_start;  // row r has row_lines[row_start[r] : row_start[r + 1]], by group, then as in the plan
    std::vector<int> row_lines;
    std::vector<Tile> tiles;
    std::vector<Item> items;
    std::vector<int> shifts;  // distinct ones
    int rotary = 0;           // R, half the rotated dims
    std::vector<float> cosine, sine;  // (shifts, R)
    int64_t tokens = 0;  // that all tiles read
    int slots = 0;
    Buffer<Partial> partials;  // (slots, H)
    Buffer<float> values;      // (slots, H, D)
    std::vector<std::unique_ptr<Scratch>> scratch;
    std::vector<int> order, position;
};

inline int chunks_of(const Line& line) { return (line.hi - 1) / kChunk - line.lo / kChunk + 1; }

struct PlanArguments {
    const int32_t *run_blocks, *run_start, *entries;
    const float* groups;  // (groups, 3): temperature, factor, bias
    int32_t num_rows, num_runs, num_run_blocks, num_entries, num_groups, num_blocks;
    int32_t heads, kv_heads, size, block_size, threads;
};

// False if the plan points outside its rows, runs, blocks or groups: the kernels below trust it.
inline bool plan_is_sound(const PlanArguments& p) {
    if (p.num_rows < 0 || p.num_runs < 0 || p.num_groups < 1 || p.run_start[0] != 0) return false;
    for (int r = 0; r < p.num_runs; r++) {
        if (p.run_start[r + 1] < p.run_start[r]) return false;
    }
    if (p.run_start[p.num_runs] > p.num_run_blocks) return false;
    for (int i = 0; i < p.num_run_blocks; i++) {
        if (p.run_blocks[i] < 0 || p.run_blocks[i] >= p.num_blocks) return false;
    }
    for (int g = 0; g < p.num_groups; g++) {
        const float* group = p.groups + 3 * g;
        if (!(group[0] > 0) || !std::isfinite(group[1]) || !std::isfinite(group[2])) return false;
    }
    for (int e = 0; e < p.num_entries; e++) {
        const int32_t* entry = p.entries + 8 * (int64_t)e;
        const int64_t row = entry[0], rows = entry[1];
        if (row < 0 || rows < 0 || row + rows > p.num_rows || entry[2] < 0 || entry[2] >= p.num_runs) return false;
        const int64_t capacity = (int64_t)(p.run_start[entry[2] + 1] - p.run_start[entry[2]]) * p.block_size;
        if (entry[4] > entry[3] && (entry[3] < 0 || entry[4] > capacity)) return false;
        if (entry[7] < 0 || entry[7] >= p.num_groups) return false;
    }
    return true;
}

inline void unroll_entries(Work& w, const PlanArguments& p) {
    w.lines.clear();
    w.shifts.clear();
    for (int e = 0; e < p.num_entries; e++) {
        const int32_t* entry = p.entries + 8 * (int64_t)e;
        const int rows = entry[1], begin = entry[3], end = entry[4];
        if (end <= begin) continue;
        int shift = -1;
        if (entry[6] != 0) {
            const auto found = std::find(w.shifts.begin(), w.shifts.end(), entry[6]);
            shift = (int)(found - w.shifts.begin());
            if (found == w.shifts.end()) w.shifts.push_back(entry[6]);
        }
        for (int i = 0; i < rows; i++) {
            const int hi = entry[5] ? end - (rows - 1 - i) : end;
            if (hi > begin) w.lines.push_back({entry[0] + i, entry[2], begin, hi, shift, entry[7], 0});
        }
    }
}

// Sorts the lines for tiling and remembers which of them make up each row, in the order of the plan.
inline void sort_lines(Work& w) {
    const int count = (int)w.lines.size();
    w.order.resize(count);
    w.position.resize(count);
    for (int i = 0; i < count; i++) w.order[i] = i;
    const auto before = [&](int a, int b) {
        const Line &x = w.lines[a], &y = w.lines[b];
        if (x.run != y.run) return x.run < y.run;
        if (x.hi != y.hi) return x.hi > y.hi;
        return a < b;
    };
    if (!std::is_sorted(w.order.begin(), w.order.end(), before)) std::sort(w.order.begin(), w.order.end(), before);
    for (int i = 0; i < count; i++) w.position[w.order[i]] = i;

    w.row_start.assign(w.num_rows + 1, 0);
    for (const Line& line : w.lines) w.row_start[line.row + 1]++;
    for (int r = 0; r < w.num_rows; r++) w.row_start[r + 1] += w.row_start[r];
    w.row_lines.resize(count);
    std::vector<int>& next = w.row_start;  // advanced by filling, moved back below
    for (int i = 0; i < count; i++) w.row_lines[next[w.lines[i].row]++] = i;
    for (int r = w.num_rows; r > 0; r--) next[r] = next[r - 1];
    next[0] = 0;
    if (w.groups.size() > 1) {
        for (int r = 0; r < w.num_rows; r++) {
            std::stable_sort(w.row_lines.begin() + next[r], w.row_lines.begin() + next[r + 1],
                             [&](int a, int b) { return w.lines[a].group < w.lines[b].group; });
        }
    }
    for (int& line : w.row_lines) line = w.position[line];
    std::vector<Line> sorted(count);
    for (int i = 0; i < count; i++) sorted[i] = w.lines[w.order[i]];
    w.lines.swap(sorted);
}

// Lines of one run share a tile unless that costs more than it saves: a panel costs about (3 + rows) per token of the
// longest line in it (3: reading the keys and values), so a line of less than a quarter of that length goes alone.
inline void make_tiles(Work& w) {
    const int max_lines = std::max(1, kTileRows / w.ratio);
    w.tiles.clear();
    for (int i = 0; i < (int)w.lines.size(); i++) {
        const Line& line = w.lines[i];
        if (!w.tiles.empty()) {
            Tile& tile = w.tiles.back();
            const Line& longest = w.lines[tile.first];
            if (longest.run == line.run && tile.count < max_lines &&
                tile.hi - tile.lo <= 4 * (line.hi - line.lo) + kGroup) {
                tile.count++;
                tile.lo = std::min(tile.lo, line.lo);
                continue;
            }
        }
        w.tiles.push_back({i, 1, line.lo, line.hi});
    }
}

// One thread takes all kv heads of a tile at once; for several threads, heads and then chunks are split as needed.
inline void make_items(Work& w, int threads) {
    int64_t chunks = 0;
    w.tokens = 0;
    for (const Tile& tile : w.tiles) {
        chunks += (tile.hi - 1) / kChunk - tile.lo / kChunk + 1;
        w.tokens += tile.hi - tile.lo;
    }
    const int64_t tiles = w.tiles.size(), wanted = threads > 1 ? 4 * (int64_t)threads : 0;
    w.split = tiles * w.kv_heads < wanted;
    const int heads = tiles < wanted ? 1 : w.kv_heads;
    const int step = w.split ? (int)std::max<int64_t>(1, chunks * w.kv_heads / wanted) : 0;
    w.items.clear();
    for (int t = 0; t < tiles; t++) {
        const int first = w.tiles[t].lo / kChunk, last = (w.tiles[t].hi - 1) / kChunk + 1;
        const int length = w.split ? step : last - first;
        for (int head = 0; head < w.kv_heads; head += heads) {
            for (int c = first; c < last; c += length) {
                w.items.push_back({t, head, head + heads, c, std::min(c + length, last)});
            }
        }
    }
    w.slots = 0;
    for (Line& line : w.lines) {
        line.slot = w.slots;
        w.slots += w.split ? chunks_of(line) : 1;
    }
}

}  // namespace plait
