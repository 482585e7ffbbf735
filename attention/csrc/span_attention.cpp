// Span attention on the CPU: exact attention of many query rows over views of paged KV segments (attention/plan.py).
//
// How the work is cut. An entry of the plan is unrolled into *lines*: one query row that sees tokens lo .. hi - 1 of
// one run. Lines on the same run are put together into *tiles*, so that a run shared by many branches is read once for
// all of their queries. A work item is (tile, range of kv heads, range of chunks); a chunk is kChunk tokens, counted
// from the run's token 0. Inside an item the rows (times the query heads of the kv head) go in *panels* of kPanel,
// which the register-tiled kernels below work on. Each line ends as a partial result (maximum, sum, weighted values),
// and the partial results of a row are merged by log-sum-exp (FlashDecoding,
// https://pytorch.org/blog/flash-decoding/; groups: APE, arXiv 2502.05431, section 4).
//
// Batch invariance. A row's output depends, bit by bit, only on its query, its view and the keys and values in it, not
// on the other rows, the tiles or the threads: a score is one chain of multiply-adds over d, an output value one chain
// over the tokens of a chunk, whatever the tile; chunk borders are fixed to the run's tokens; what only another row
// sees is added as an exact 0; and partial results are folded chunk by chunk, then entry by entry in the order of the
// plan, then group by group, always by the same function. Whoever changes this file keeps that: a test compares bits.
// (One limit: values that only another row of the same panel sees must be finite, as 0 times infinity is not 0.)
//
// Scores are kept in base 2 (the query is multiplied by scale * log2(e) / T), log-sum-exps leave as natural logs.

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <limits>
#include <memory>
#include <utility>
#include <vector>

#define EXPORT extern "C" __attribute__((visibility("default")))

namespace {

// ---------------------------------------------------------------------------------------------------------- vectors

#if defined(__AVX512F__)
constexpr int kWidth = 16;  // floats in a register
#elif defined(__AVX__)
constexpr int kWidth = 8;
#else
constexpr int kWidth = 4;
#endif

constexpr int kGroup = 16;                   // tokens that the score kernel takes at once; divides the block size
constexpr int kPerGroup = kGroup / kWidth;   // registers for one such group
constexpr int kPanel = kWidth == 16 ? 8 : 4;  // query rows of one register tile (32 or 16 registers)
constexpr int kTileRows = 32;                // query rows (times heads) that share one pass over a run
constexpr int kChunk = 128;                  // tokens per partial result: scores of a panel stay in the L1 cache
constexpr int kMaxGroups = kChunk / kGroup;
constexpr int64_t kCached = 4 << 20;  // bytes of keys and values that a call may read to find them in a cache next time

constexpr float kLog2e = 1.4426950408889634f;
constexpr float kLn2 = 0.6931471805599453f;
constexpr float kMinusInf = -std::numeric_limits<float>::infinity();

typedef float vfloat __attribute__((vector_size(4 * kWidth)));
typedef int32_t vint __attribute__((vector_size(4 * kWidth)));
typedef uint32_t vuint __attribute__((vector_size(4 * kWidth)));
typedef uint16_t vhalf __attribute__((vector_size(2 * kWidth)));

struct bf16 {
    uint16_t bits;
};

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

vint lane_numbers() {
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

// 2^x for x <= 0, relative error below 2e-7; exactly 0 below 2^-125; NaN stays NaN.
inline vfloat exp2_below_one(vfloat x) {
    const vfloat magic = splat(12582912.0f);  // 1.5 * 2^23: adding it rounds to an integer
    const vint tiny = x < splat(-125.0f);
    const vfloat clamped = tiny ? splat(-125.0f) : x;
    const vfloat whole = (clamped + magic) - magic;
    const vfloat f = clamped - whole;  // -0.5 .. 0.5
    vfloat p = splat(1.535336188319500e-4f);  // minimax polynomial of 2^f (Cephes exp2f)
    p = p * f + splat(1.339887440266574e-3f);
    p = p * f + splat(9.618437357674640e-3f);
    p = p * f + splat(5.550332471162809e-2f);
    p = p * f + splat(2.402264791363012e-1f);
    p = p * f + splat(6.931472028550421e-1f);
    p = p * f + splat(1.0f);
    const vint exponent = __builtin_convertvector(whole, vint) << 23;
    const vfloat power = (vfloat)((vint)p + exponent);
    return tiny ? vfloat{} : power;
}

// ------------------------------------------------------------------------------------------- register-tiled kernels

// Scores of R rows and NB groups of kGroup tokens: out[r][j] = sum over d of q[d][r] * k[j][d].
// q: (D, kPanel); k[b]: group b's keys, (D, kGroup) with `stride` between dims; out: (R, kChunk).
template <class T, int R, int NB>
void score_tile(const float* q, const T* const* k, int64_t stride, int size, float* out) {
    constexpr int NV = NB * kPerGroup;
    vfloat acc[R][NV] = {};
    const T* key[NB];
    for (int b = 0; b < NB; b++) key[b] = k[b];
    for (int d = 0; d < size; d++) {
        vfloat column[NV];
#pragma GCC unroll 8
        for (int b = 0; b < NB; b++) {
#pragma GCC unroll 4
            for (int i = 0; i < kPerGroup; i++) column[b * kPerGroup + i] = load(key[b] + d * stride + i * kWidth);
        }
#pragma GCC unroll 8
        for (int r = 0; r < R; r++) {
            const vfloat query = splat(q[d * kPanel + r]);
#pragma GCC unroll 8
            for (int j = 0; j < NV; j++) acc[r][j] += query * column[j];
        }
    }
#pragma GCC unroll 8
    for (int r = 0; r < R; r++) {
#pragma GCC unroll 8
        for (int j = 0; j < NV; j++) store(out + r * kChunk + j * kWidth, acc[r][j]);
    }
}

// Groups taken at once: enough accumulators to hide the latency of a multiply-add, few enough to stay in registers.
constexpr int group_batch(int rows) {
    return kWidth < 16 ? (rows == 1 ? 2 : 1) : rows <= 2 ? 8 : rows <= 4 ? 4 : 2;
}

template <class T, int R>
void scores(const float* q, const T* const* k, int groups, int64_t stride, int size, float* out) {
    constexpr int NB = group_batch(R);
    int g = 0;
    for (; g + NB <= groups; g += NB) score_tile<T, R, NB>(q, k + g, stride, size, out + g * kGroup);
    if constexpr (NB > 4) {
        for (; g + 4 <= groups; g += 4) score_tile<T, R, 4>(q, k + g, stride, size, out + g * kGroup);
    }
    if constexpr (NB > 2) {
        for (; g + 2 <= groups; g += 2) score_tile<T, R, 2>(q, k + g, stride, size, out + g * kGroup);
    }
    if constexpr (NB > 1) {
        for (; g < groups; g++) score_tile<T, R, 1>(q, k + g, stride, size, out + g * kGroup);
    }
}

// Weighted values of R rows in NV registers of columns: out[r][..] = sum over tokens t of p[r][t] * v[t][..].
// p: (R, kChunk); v[g]: values of group g, (kGroup, D); tokens begin .. end - 1 of the chunk; column[j]: first column
// of register j. The last register of a row may overlap the one before it; both then hold the same sums.
template <class T, int R, int NV>
void value_tile(const float* p, const T* const* v, int begin, int end, int size, const int* column, float* out) {
    vfloat acc[R][NV] = {};
    int first[NV];
    for (int j = 0; j < NV; j++) first[j] = column[j];
    for (int t = begin; t < end;) {
        const int stop = std::min(end, (t / kGroup + 1) * kGroup);
        const T* value = v[t / kGroup] + (int64_t)(t % kGroup) * size;
        for (; t < stop; t++, value += size) {
            vfloat row[NV];
#pragma GCC unroll 8
            for (int j = 0; j < NV; j++) row[j] = load(value + first[j]);
#pragma GCC unroll 8
            for (int r = 0; r < R; r++) {
                const vfloat weight = splat(p[r * kChunk + t]);
#pragma GCC unroll 8
                for (int j = 0; j < NV; j++) acc[r][j] += weight * row[j];
            }
        }
    }
#pragma GCC unroll 8
    for (int r = 0; r < R; r++) {
#pragma GCC unroll 8
        for (int j = 0; j < NV; j++) store(out + (int64_t)r * size + first[j], acc[r][j]);
    }
}

constexpr int column_batch(int rows) {
    return kWidth < 16 ? (rows == 1 ? 4 : rows == 2 ? 3 : 2) : rows <= 2 ? 8 : rows <= 6 ? 4 : 3;
}

template <class T, int R, int NV>
void value_step(int count, const float* p, const T* const* v, int begin, int end, int size, const int* column,
                float* out) {
    if (count == NV) {
        value_tile<T, R, NV>(p, v, begin, end, size, column, out);
    } else if constexpr (NV > 1) {
        value_step<T, R, NV - 1>(count, p, v, begin, end, size, column, out);
    }
}

template <class T, int R>
void values(const float* p, const T* const* v, int begin, int end, int size, float* out) {
    const int registers = (size + kWidth - 1) / kWidth;
    const int steps = (registers + column_batch(R) - 1) / column_batch(R);
    int column[column_batch(R)];
    for (int step = 0, j = 0; step < steps; step++) {
        const int count = (registers - j + steps - step - 1) / (steps - step);
        for (int i = 0; i < count; i++, j++) column[i] = std::min(j * kWidth, size - kWidth);
        value_step<T, R, column_batch(R)>(count, p, v, begin, end, size, column, out);
    }
}

template <class T>
struct Kernels {
    using Scores = void (*)(const float*, const T* const*, int, int64_t, int, float*);
    using Values = void (*)(const float*, const T* const*, int, int, int, float*);
    Scores score[kPanel + 1];  // by number of rows
    Values value[kPanel + 1];

    template <int... R>
    static constexpr Kernels make(std::integer_sequence<int, R...>) {
        return {{nullptr, scores<T, R + 1>...}, {nullptr, values<T, R + 1>...}};
    }
};

template <class T>
constexpr Kernels<T> kKernels = Kernels<T>::make(std::make_integer_sequence<int, kPanel>());

struct Partial {
    float top = kMinusInf;  // maximum score, base 2
    float sum = 0;          // of 2^(score - top); 0 means empty
};

// Scores of one row, tokens 0 .. 16 * groups - 1 of which it sees lo .. hi - 1, become weights 2^(score - maximum), 0
// where it sees nothing. Returns their maximum and sum.
Partial softmax_row(float* s, int groups, int lo, int hi) {
    const int count = groups * kPerGroup;
    const vint lane = lane_numbers();
    vfloat top = splat(kMinusInf);
    for (int j = 0; j < count; j++) {
        vfloat x = load(s + j * kWidth);
        if (j * kWidth < lo || (j + 1) * kWidth > hi) {
            const vint token = lane + j * kWidth;
            x = ((token >= lo) & (token < hi)) ? x : splat(kMinusInf);
            store(s + j * kWidth, x);
        }
        top = x > top ? x : top;
    }
    const float maximum = largest(top);
    vfloat sum = {};
    const vfloat shift = splat(maximum);
    for (int j = 0; j < count; j++) {
        const vfloat p = exp2_below_one(load(s + j * kWidth) - shift);
        store(s + j * kWidth, p);
        sum += p;
    }
    return {maximum, total(sum)};
}

// ---------------------------------------------------------------------------------------------- partial results

// Log-sum-exp merge of `from` into `to`. Never inlined, so that every merge rounds alike.
__attribute__((noinline)) void fold(Partial& to, float* __restrict values, Partial from, const float* __restrict more,
                                    int size) {
    if (from.sum == 0) return;
    if (to.sum == 0) {
        to = from;
        std::memcpy(values, more, size * sizeof(float));
        return;
    }
    const float top = std::max(to.top, from.top);
    const float a = std::exp2(to.top - top), b = std::exp2(from.top - top);
    to = {top, to.sum * a + from.sum * b};
    for (int i = 0; i < size; i++) values[i] = values[i] * a + more[i] * b;
}

// ------------------------------------------------------------------------------------------------------------ plan

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
struct Buffer {  // grows, never initialised
    std::unique_ptr<T[]> data;
    size_t capacity = 0;

    T* get(size_t count) {
        if (count > capacity) {
            data.reset(new T[count]);
            capacity = count;
        }
        return data.get();
    }
};

struct Scratch {  // of one thread
    Buffer<float> query, output, state;
    alignas(64) float scores[kPanel * kChunk];
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

int chunks_of(const Line& line) { return (line.hi - 1) / kChunk - line.lo / kChunk + 1; }

}  // namespace

struct PlanArguments {
    const int32_t *run_blocks, *run_start, *entries;
    const float* groups;  // (groups, 3): temperature, factor, bias
    int32_t num_rows, num_runs, num_run_blocks, num_entries, num_groups, num_blocks;
    int32_t heads, kv_heads, size, block_size, threads;
};

struct CallArguments {
    const void *q, *k_pool, *v_pool;
    void* out;
    float* lse;  // may be null
    int64_t q_row, q_head, k_block, k_head, v_block, v_head;  // strides in elements
    float scale;
    int32_t q_bf16, pool_bf16, threads;
};

namespace {

// False if the plan points outside its rows, runs, blocks or groups: the kernels below trust it.
bool plan_is_sound(const PlanArguments& p) {
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

void unroll_entries(Work& w, const PlanArguments& p) {
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
void sort_lines(Work& w) {
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
void make_tiles(Work& w) {
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
void make_items(Work& w, int threads) {
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

// -------------------------------------------------------------------------------------------------------- attention

// Queries of a tile, scaled to base-2 scores and turned back by the shift, as panels (.., D, kPanel).
template <class Q>
void pack_queries(const Work& w, const CallArguments& call, const Tile& tile, int kv_head, float* panels, float* row) {
    const int size = w.size;
    for (int i = 0; i < tile.count * w.ratio; i++) {
        const Line& line = w.lines[tile.first + i / w.ratio];
        const Q* q = (const Q*)call.q + line.row * call.q_row + (kv_head * w.ratio + i % w.ratio) * call.q_head;
        const float scale = call.scale * w.groups[line.group].inverse_temperature * kLog2e;
        for (int d = 0; d < size; d++) row[d] = to_float(q[d]) * scale;
        if (line.shift >= 0) {
            const size_t at = (size_t)line.shift * w.rotary;
            const float *cosine = w.cosine.data() + at, *sine = w.sine.data() + at;
            for (int d = 0; d < w.rotary; d++) {
                const float x = row[d], y = row[d + w.rotary];
                row[d] = x * cosine[d] + y * sine[d];
                row[d + w.rotary] = y * cosine[d] - x * sine[d];
            }
        }
        float* to = panels + (size_t)(i / kPanel) * kPanel * size + i % kPanel;
        for (int d = 0; d < size; d++) to[(size_t)d * kPanel] = row[d];
    }
}

// One chunk of a run in the pools, for one kv head: where the groups of tokens that a tile sees lie.
template <class T>
struct Chunk {
    int base;        // its first token
    int begin, end;  // groups that the tile sees
    const T *keys[kMaxGroups], *values[kMaxGroups];

    Chunk(const Work& w, const CallArguments& call, const Tile& tile, int kv_head, int number) : base(number * kChunk) {
        const int32_t* blocks = w.run_blocks + w.run_start[w.lines[tile.first].run];
        const T* k_pool = (const T*)call.k_pool + kv_head * call.k_head;
        const T* v_pool = (const T*)call.v_pool + kv_head * call.v_head;
        begin = std::max(0, tile.lo - base) / kGroup;
        end = (std::min(kChunk, tile.hi - base) + kGroup - 1) / kGroup;
        for (int g = begin; g < end; g++) {
            const int token = base + g * kGroup, offset = token % w.block_size;
            const int64_t block = blocks[token / w.block_size];
            keys[g] = k_pool + block * call.k_block + offset;
            values[g] = v_pool + block * call.v_block + (int64_t)offset * w.size;
        }
    }

    void prefetch_values(int size) const {
        for (int g = begin; g < end; g++) {
            for (int i = 0; i < kGroup * size; i += 64 / (int)sizeof(T)) __builtin_prefetch(values[g] + i, 0, 2);
        }
    }
};

// Scores, weights and weighted values of one panel over one chunk, folded into the partial results of its lines.
// panel: number of the panel's first row in the tile; q: (D, kPanel).
template <class T>
void run_panel(Work& w, const Item& item, int kv_head, const Chunk<T>& chunk, int panel, const float* q,
               Scratch& scratch) {
    const Tile& tile = w.tiles[item.tile];
    const int rows = std::min(kPanel, tile.count * w.ratio - panel), size = w.size;
    struct Seen {
        const Line* line;
        int lo, hi;  // tokens of the chunk; none if lo >= hi
    } seen[kPanel];
    int lo = kChunk, hi = 0;
    for (int r = 0; r < rows; r++) {
        const Line& line = w.lines[tile.first + (panel + r) / w.ratio];
        seen[r] = {&line, std::max(0, line.lo - chunk.base), std::min(kChunk, line.hi - chunk.base)};
        if (seen[r].lo >= seen[r].hi) continue;
        lo = std::min(lo, seen[r].lo);
        hi = std::max(hi, seen[r].hi);
    }
    if (lo >= hi) return;
    const int from = lo / kGroup, groups = (hi + kGroup - 1) / kGroup - from;
    float* scores = scratch.scores + from * kGroup;
    float* output = scratch.output.get((size_t)kPanel * size);
    Partial partial[kPanel];
    kKernels<T>.score[rows](q, chunk.keys + from, groups, w.block_size, size, scores);
    for (int r = 0; r < rows; r++) {
        if (seen[r].lo < seen[r].hi) {
            const int skipped = from * kGroup;
            partial[r] = softmax_row(scores + r * kChunk, groups, seen[r].lo - skipped, seen[r].hi - skipped);
        } else {
            std::fill_n(scores + r * kChunk, groups * kGroup, 0.0f);
        }
    }
    kKernels<T>.value[rows](scratch.scores, chunk.values, lo, hi, size, output);
    for (int r = 0; r < rows; r++) {
        if (seen[r].lo >= seen[r].hi) continue;
        const int nth = chunk.base / kChunk - seen[r].line->lo / kChunk;
        const size_t slot = seen[r].line->slot + (w.split ? nth : 0);
        const size_t at = slot * w.heads + kv_head * w.ratio + (panel + r) % w.ratio;
        if (w.split || nth == 0) w.partials.data[at] = {};
        fold(w.partials.data[at], w.values.data.get() + at * size, partial[r], output + (size_t)r * size, size);
    }
}

// Heads inside chunks: the blocks of all heads lie side by side in the pool, so that the processor's own prefetching
// works on long runs of addresses.
template <class Q, class T>
void run_item(Work& w, const CallArguments& call, const Item& item, Scratch& scratch) {
    const Tile& tile = w.tiles[item.tile];
    const int rows = tile.count * w.ratio;
    // Few rows leave no time to wait for memory: the values come in while the scores are worked out.
    const bool fetch = rows <= kPanel && w.tokens * w.kv_heads * w.size * 2 * (int64_t)sizeof(T) > kCached;
    const size_t stride = (size_t)(rows + kPanel) * w.size;  // of the packed queries of one kv head
    float* queries = scratch.query.get(stride * (item.head_end - item.head_begin));
    for (int head = item.head_begin; head < item.head_end; head++) {
        float* row = scratch.output.get((size_t)kPanel * w.size);
        pack_queries<Q>(w, call, tile, head, queries + (head - item.head_begin) * stride, row);
    }
    for (int number = item.chunk_begin; number < item.chunk_end; number++) {
        for (int head = item.head_begin; head < item.head_end; head++) {
            const Chunk<T> chunk(w, call, tile, head, number);
            const float* q = queries + (head - item.head_begin) * stride;
            if (fetch) chunk.prefetch_values(w.size);
            for (int panel = 0; panel < rows; panel += kPanel) {
                run_panel<T>(w, item, head, chunk, panel, q + (size_t)panel * w.size, scratch);
            }
        }
    }
}

// Folds the partial results of one row: chunks of an entry, entries of a group, groups.
template <class Q>
void merge_row(Work& w, const CallArguments& call, int row, Scratch& scratch) {
    const int size = w.size;
    float* entry_values = scratch.state.get((size_t)3 * size);
    float *group_values = entry_values + size, *row_values = group_values + size;
    for (int head = 0; head < w.heads; head++) {
        Partial row_state;
        const int end = w.row_start[row + 1];
        for (int i = w.row_start[row]; i < end;) {
            const int group = w.lines[w.row_lines[i]].group;
            Partial group_state;
            for (; i < end && w.lines[w.row_lines[i]].group == group; i++) {
                const Line& line = w.lines[w.row_lines[i]];
                Partial entry_state;
                const float* result = entry_values;
                const int slots = w.split ? chunks_of(line) : 1;
                for (int nth = 0; nth < slots; nth++) {
                    const size_t at = (size_t)(line.slot + nth) * w.heads + head;
                    const float* more = w.values.data.get() + at * size;
                    if (slots == 1) {
                        entry_state = w.partials.data[at];
                        result = more;
                    } else {
                        fold(entry_state, entry_values, w.partials.data[at], more, size);
                    }
                }
                fold(group_state, group_values, entry_state, result, size);
            }
            const GroupScale& scale = w.groups[group];
            const float inverse = 1.0f / group_state.sum;
            // A lone group has weight 1 whatever its log-sum-exp, which is then only worked out if asked for.
            const bool lone = group == w.lines[w.row_lines[end - 1]].group && row_state.sum == 0;
            const float lse = lone && !call.lse ? 0.0f : (group_state.top + std::log2(group_state.sum)) * kLn2;
            for (int d = 0; d < size; d++) group_values[d] *= inverse;
            fold(row_state, row_values, {(scale.factor * lse + scale.bias) * kLog2e, 1.0f}, group_values, size);
        }
        Q* out = (Q*)call.out + ((int64_t)row * w.heads + head) * size;
        const bool empty = row_state.sum == 0;
        const float inverse = empty ? 0.0f : 1.0f / row_state.sum;
        for (int d = 0; d < size; d++) from_float(empty ? 0.0f : row_values[d] * inverse, out + d);
        if (call.lse) {
            call.lse[(int64_t)row * w.heads + head] =
                empty ? kMinusInf : (row_state.top + std::log2(row_state.sum)) * kLn2;
        }
    }
}

template <class Q, class T>
void attend(Work& w, const CallArguments& call) {
    const int threads = std::max(1, call.threads), items = (int)w.items.size();
    w.partials.get((size_t)w.slots * w.heads);
    w.values.get((size_t)w.slots * w.heads * w.size);
    while ((int)w.scratch.size() < threads) w.scratch.push_back(std::make_unique<Scratch>());
    if (threads == 1) {  // an OpenMP region of one thread still costs a microsecond
        for (int i = 0; i < items; i++) run_item<Q, T>(w, call, w.items[i], *w.scratch[0]);
        for (int row = 0; row < w.num_rows; row++) merge_row<Q>(w, call, row, *w.scratch[0]);
        return;
    }
    int next_scratch = 0;
#pragma omp parallel num_threads(threads)
    {
        int mine;
#pragma omp atomic capture
        mine = next_scratch++;
        Scratch& scratch = *w.scratch[mine];
#pragma omp for schedule(dynamic)
        for (int i = 0; i < items; i++) run_item<Q, T>(w, call, w.items[i], scratch);
#pragma omp for schedule(static)
        for (int row = 0; row < w.num_rows; row++) merge_row<Q>(w, call, row, scratch);
    }
}

}  // namespace

// Raised with every change of the structures and functions that attention/library.py mirrors.
EXPORT int plait_attention_abi() { return 1; }

EXPORT Work* plait_attention_new() { return new Work; }

EXPORT void plait_attention_free(Work* work) { delete work; }

// Cuts the work of a plan; keeps `run_blocks`, which must outlive the last call. Returns the number of distinct shifts,
// or -1 for a plan that points outside its arrays.
EXPORT int plait_attention_prepare(Work* work, const PlanArguments* plan) {
    Work& w = *work;
    if (!plan_is_sound(*plan)) return -1;
    w.num_rows = plan->num_rows;
    w.heads = plan->heads;
    w.kv_heads = plan->kv_heads;
    w.ratio = plan->heads / plan->kv_heads;
    w.size = plan->size;
    w.block_size = plan->block_size;
    w.run_blocks = plan->run_blocks;
    w.run_start.assign(plan->run_start, plan->run_start + plan->num_runs + 1);
    w.groups.clear();
    for (int g = 0; g < plan->num_groups; g++) {
        const float* group = plan->groups + 3 * g;
        w.groups.push_back({1.0f / group[0], group[1], group[2]});
    }
    unroll_entries(w, *plan);
    sort_lines(w);
    make_tiles(w);
    make_items(w, plan->threads);
    return (int)w.shifts.size();
}

// Angles of the plan's shifts; needed before the first call if there are any. inv_freq: (rotary,).
EXPORT void plait_attention_rotary(Work* work, const double* inv_freq, int rotary) {
    Work& w = *work;
    w.rotary = rotary;
    w.cosine.resize(w.shifts.size() * rotary);
    w.sine.resize(w.shifts.size() * rotary);
    for (size_t s = 0; s < w.shifts.size(); s++) {
        for (int i = 0; i < rotary; i++) {
            w.cosine[s * rotary + i] = (float)std::cos(w.shifts[s] * inv_freq[i]);
            w.sine[s * rotary + i] = (float)std::sin(w.shifts[s] * inv_freq[i]);
        }
    }
}

EXPORT void plait_attention_run(Work* work, const CallArguments* call) {
    if (call->q_bf16) {
        call->pool_bf16 ? attend<bf16, bf16>(*work, *call) : attend<bf16, float>(*work, *call);
    } else {
        call->pool_bf16 ? attend<float, bf16>(*work, *call) : attend<float, float>(*work, *call);
    }
}

// ------------------------------------------------------------------------------------------------- rotary and store

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
