// Span attention on the CPU: exact attention of many query rows over views of paged KV segments (attention/plan.py).
//
// How the work is cut. An entry of the plan is unrolled into *lines*: one query row that sees tokens lo .. hi - 1 of
// one run. Lines on the same run are put together into *tiles*, so that a run shared by many branches is read once for
// all of their queries. A work item is (tile, range of kv heads, range of chunks); a chunk is kChunk tokens, counted
// from the run's token 0. Inside an item the rows (times the query heads of the kv head) go in *panels* of kPanel,
// which the register-tiled kernels of tiles.h work on. Each line ends as a partial result (maximum, sum, weighted values),
// and the partial results of a row are merged by log-sum-exp (FlashDecoding,
// https://pytorch.org/blog/flash-decoding/; groups: APE, arXiv 2502.05431, section 4).
//
// Batch invariance. A row's output depends, bit by bit, only on its query, its view and the keys and values in it, not
// on the other rows, the tiles or the threads: a score is one chain of multiply-adds over d, an output value one chain
// over the tokens of a chunk, whatever the tile; chunk borders are fixed to the run's tokens; what only another row
// sees is added as an exact 0; and partial results are folded chunk by chunk, then entry by entry in the order of the
// plan, then group by group, always by the same function. Whoever changes these files keeps that: a test compares bits.
// (One limit: values that only another row of the same panel sees must be finite, as 0 times infinity is not 0.)
//
// Scores are kept in base 2 (multiplied by scale * log2(e) / T), log-sum-exps leave as natural logs.
//
// Where the processor multiplies bfloat16 itself and the pools hold it, queries and weights are rounded to bfloat16, as
// FlashAttention does; sums are float32. Everything else is computed in float32. Where it has tile registers (amx.h), they
// do this for rows in any number, so that few rows and many round alike.
//
// Pools of 8 bits are read as bfloat16, which holds their integers exactly: a chunk at a time, for all rows that share
// it. A token's scales come in between: a score is multiplied by that of its key, a weight by that of its value.

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <memory>
#include <type_traits>

#include "amx_attention.h"
#include "work.h"

#define EXPORT extern "C" __attribute__((visibility("default")))

using namespace plait;

struct CallArguments {
    const void *q, *k_pool, *v_pool;
    void* out;
    float* lse;  // may be null
    int64_t q_row, q_head, k_block, k_head, v_block, v_head;  // strides in elements
    float scale;
    int32_t q_type, pool_type, threads;  // as `Type` of vectors.h
    int32_t is_unturned;  // has this layer no rotation? Then the plan's shifts are those of others
};

namespace {

constexpr int64_t kCached = 4 << 20;  // bytes of keys and values that a call may read to find them in a cache next time

// Queries of a tile, turned back by the shift: each as `pack` stores it, given its number in the tile.
template <class Q, class Pack>
void pack_queries(const Work& w, const CallArguments& call, const Tile& tile, int kv_head, float* row, Pack pack) {
    const int size = w.size;
    for (int i = 0; i < tile.count * w.ratio; i++) {
        const Line& line = w.lines[tile.first + i / w.ratio];
        const Q* q = (const Q*)call.q + line.row * call.q_row + (kv_head * w.ratio + i % w.ratio) * call.q_head;
        for (int d = 0; d < size; d++) row[d] = to_float(q[d]);
        if (line.shift >= 0 && !call.is_unturned) {
            const size_t at = (size_t)line.shift * w.rotary;
            const float *cosine = w.cosine.data() + at, *sine = w.sine.data() + at;
            for (int d = 0; d < w.rotary; d++) {
                const float x = row[d], y = row[d + w.rotary];
                row[d] = x * cosine[d] + y * sine[d];
                row[d + w.rotary] = y * cosine[d] - x * sine[d];
            }
        }
        pack(i, row);
    }
}

// One chunk of a run in the pools, for one kv head: where its groups of tokens lie. Those that the tile does not see
// stand for the nearest that it sees.
template <class T>
struct Chunk {
    int base;  // its first token
    int stride;  // between the dims of keys
    const T *keys[kMaxGroups], *values[kMaxGroups];

    Chunk(const Work& w, const CallArguments& call, const Tile& tile, int kv_head, int number)
        : base(number * kChunk), stride(w.block_size) {
        const int32_t* blocks = w.run_blocks + w.run_start[w.lines[tile.first].run];
        const T* k_pool = (const T*)call.k_pool + kv_head * call.k_head;
        const T* v_pool = (const T*)call.v_pool + kv_head * call.v_head;
        const int begin = std::max(0, tile.lo - base) / kGroup;
        const int end = (std::min(kChunk, tile.hi - base) + kGroup - 1) / kGroup;
        for (int g = 0; g < kMaxGroups; g++) {
            const int token = base + std::clamp(g, begin, end - 1) * kGroup, offset = token % w.block_size;
            const int64_t block = blocks[token / w.block_size];
            keys[g] = k_pool + block * call.k_block + offset;
            values[g] = v_pool + block * call.v_block + (int64_t)offset * stored_size<T>(w.size);
        }
    }

    Chunk(int base, const Widened& widened) : base(base), stride(kGroup) {
        for (int g = 0; g < kMaxGroups; g++) {
            keys[g] = widened.keys + (size_t)g * kGroup * widened.size;
            values[g] = widened.values + (size_t)g * kGroup * widened.size;
        }
    }
};

// How a panel of up to kRows query rows meets one chunk, with the kernels of tiles.h.
template <class Type, bool kFetch, bool kScales = false>
struct VectorPanel {
    static constexpr int kRows = kPanel;
    static constexpr bool kHasScales = kScales;
    using T = Type;
    const Work& w;
    const Chunk<T>&chunk, &next;  // `next` is fetched meanwhile

    int output_stride() const { return w.size; }
    // panel: number of its first row in the tile; q: panels (D / kDepth, kPanel) of units
    const float* queries(const float* q, int panel) const { return q + (size_t)panel * w.size; }
    void score(const float* q, int rows, int from, int groups, float* out) const {
        kKernels<T, kFetch>.score[rows](q, chunk.keys + from, next.keys + from, groups, chunk.stride, w.size,
                                        out + from * kGroup);
    }
    void value(float* p, int rows, int, int, int lo, int hi, float* out) const {
        kKernels<T, kFetch>.value[rows](p, chunk.values, next.values, lo, hi, w.size, out);
    }
};

// Scores, weights and weighted values of one panel over the chunk at token `base`, folded into the partial results of its
// lines. q: the tile's queries.
template <class Panel>
void run_panel(Work& w, const CallArguments& call, const Item& item, int kv_head, int base, const Panel& kernels,
               int panel, const float* q, Scratch& scratch) {
    using T = typename Panel::T;
    const Tile& tile = w.tiles[item.tile];
    const int rows = std::min(Panel::kRows, tile.count * w.ratio - panel), size = w.size;
    struct Seen {
        const Line* line;
        int lo, hi;  // tokens of the chunk; none if lo >= hi
    } seen[Panel::kRows];
    int lo = kChunk, hi = 0;
    for (int r = 0; r < rows; r++) {
        const Line& line = w.lines[tile.first + (panel + r) / w.ratio];
        seen[r] = {&line, std::max(0, line.lo - base), std::min(kChunk, line.hi - base)};
        if (seen[r].lo >= seen[r].hi) continue;
        lo = std::min(lo, seen[r].lo);
        hi = std::max(hi, seen[r].hi);
    }
    if (lo >= hi) return;
    const int from = lo / kGroup, groups = (hi + kGroup - 1) / kGroup - from, stride = kernels.output_stride();
    float* scores = scratch.scores + from * kGroup;
    float* weights = scratch.scores + from * kGroup / Products<T>::kDepth;
    float* output = scratch.output.get((size_t)Panel::kRows * stride);
    Partial partial[Panel::kRows];
    kernels.score(kernels.queries(q, panel), rows, from, groups, scratch.scores);
    for (int r = 0; r < rows; r++) {
        if (seen[r].lo < seen[r].hi) {
            const float scale = call.scale * w.groups[seen[r].line->group].inverse_temperature * kLog2e;
            partial[r] = softmax_row<T, Panel::kHasScales>(
                scores + r * kChunk, scale, scratch.scales.keys + from * kGroup, scratch.scales.values + from * kGroup,
                groups, seen[r].lo - from * kGroup, seen[r].hi - from * kGroup, weights + r * kChunk);
        } else {
            std::fill_n(weights + r * kChunk, groups * kGroup / Products<T>::kDepth, 0.0f);
        }
    }
    kernels.value(scratch.scores, rows, from, groups, lo, hi, output);
    for (int r = 0; r < rows; r++) {
        if (seen[r].lo >= seen[r].hi) continue;
        const int nth = base / kChunk - seen[r].line->lo / kChunk;
        const size_t slot = seen[r].line->slot + (w.split ? nth : 0);
        const size_t at = slot * w.heads + kv_head * w.ratio + (panel + r) % w.ratio;
        if (w.split || nth == 0) w.partials.data[at] = {};
        fold(w.partials.data[at], w.values.data.get() + at * size, partial[r], output + (size_t)r * stride, size);
    }
}

// Calls f(head, chunk, next) for every kv head inside every chunk of an item: the blocks of all heads lie side by side in
// the pool. While one head's part of a chunk is worked on, the next part comes in from memory.
template <class T, class F>
void for_parts(const Work& w, const CallArguments& call, const Item& item, F f) {
    const Tile& tile = w.tiles[item.tile];
    Chunk<T> next(w, call, tile, item.head_begin, item.chunk_begin);
    for (int number = item.chunk_begin; number < item.chunk_end; number++) {
        for (int head = item.head_begin; head < item.head_end; head++) {
            const Chunk<T> chunk = next;
            if (head + 1 < item.head_end) {
                next = Chunk<T>(w, call, tile, head + 1, number);
            } else if (number + 1 < item.chunk_end) {
                next = Chunk<T>(w, call, tile, item.head_begin, number + 1);
            }
            f(head, chunk, next);
        }
    }
}

// Is so much read that the next call will not find it in a cache?
template <class T>
bool is_fetched(const Work& w) {
    return w.tokens * w.kv_heads * w.size * 2 * (int64_t)sizeof(T) > kCached;
}

// A chunk of 8 bits as the kernels of bfloat16 take it, and its scales.
inline Chunk<bf16> widen(const Work& w, const Tile& tile, const Chunk<int8_t>& chunk, const Chunk<int8_t>& next,
                         Scratch& scratch) {
    const Widened widened(w.size, scratch.widened.get(Widened::room(w.size)));
    const int lo = std::max(0, tile.lo - chunk.base), hi = std::min(kChunk, tile.hi - chunk.base);
    for (int g = lo / kGroup; g * kGroup < hi; g++) {
        const int offset = (chunk.base + g * kGroup) % w.block_size;
        widened.fill(g, chunk.keys[g], chunk.values[g], next.keys[g], next.values[g], w.block_size, offset,
                     scratch.scales);
    }
    return Chunk<bf16>(chunk.base, widened);
}

template <class Q, class Pool>
void run_item(Work& w, const CallArguments& call, const Item& item, Scratch& scratch) {
    using T = std::conditional_t<kScaled<Pool>, bf16, Pool>;  // which the kernels take
    const Tile& tile = w.tiles[item.tile];
    const int rows = tile.count * w.ratio, size = w.size;
    [[maybe_unused]] const bool fetch = is_fetched<T>(w);
    const size_t stride = (size_t)(rows + kPanel) * size;  // of the packed queries of one kv head
    float* queries = scratch.query.get(stride * (item.head_end - item.head_begin));
    for (int head = item.head_begin; head < item.head_end; head++) {
        float* panels = queries + (head - item.head_begin) * stride;
        pack_queries<Q>(w, call, tile, head, scratch.output.get((size_t)kPanel * size), [&](int i, const float* row) {
            Products<T>::pack(row, size, panels + (size_t)(i / kPanel) * kPanel * size + i % kPanel);
        });
    }
    for_parts<Pool>(w, call, item, [&](int head, const Chunk<Pool>& chunk, const Chunk<Pool>& next) {
        const float* q = queries + (head - item.head_begin) * stride;
        const auto run = [&](const auto& kernels, int panel) {
            run_panel(w, call, item, head, chunk.base, kernels, panel, q, scratch);
        };
        if constexpr (kScaled<Pool>) {
            const Chunk<T> wide = widen(w, tile, chunk, next, scratch);
            for (int panel = 0; panel < rows; panel += kPanel) run(VectorPanel<T, false, true>{w, wide, wide}, panel);
        } else {
            for (int panel = 0; panel < rows; panel += kPanel) {
                fetch && panel == 0 ? run(VectorPanel<T, true>{w, chunk, next}, panel)
                                    : run(VectorPanel<T, false>{w, chunk, next}, panel);
            }
        }
    });
}

#if PLAIT_TILES
template <class Q>
void run_item_in_tiles(Work& w, const CallArguments& call, const Item& item, Scratch& scratch) {
    const Tile& tile = w.tiles[item.tile];
    const int rows = tile.count * w.ratio, size = w.size;
    const bool fetch = is_fetched<bf16>(w);
    Unrolled unrolled(size, scratch.unrolled.get(Unrolled::room(size)));
    const size_t stride = (size_t)rows * unrolled.units;
    float* queries = scratch.query.get(stride * (item.head_end - item.head_begin));
    std::fill_n(queries, stride * (item.head_end - item.head_begin), 0.0f);
    for (int head = item.head_begin; head < item.head_end; head++) {
        bf16* packed = (bf16*)(queries + (head - item.head_begin) * stride);
        pack_queries<Q>(w, call, tile, head, scratch.output.get(size), [&](int i, const float* row) {
            for (int d = 0; d < size; d++) from_float(row[d], packed + (size_t)i * 2 * unrolled.units + d);
        });
    }
    int configured = 0;
    for_parts<bf16>(w, call, item, [&](int head, const Chunk<bf16>& chunk, const Chunk<bf16>& next) {
        const int lo = std::max(0, tile.lo - chunk.base), hi = std::min(kChunk, tile.hi - chunk.base);
        const auto fill = fetch ? &Unrolled::fill<true> : &Unrolled::fill<false>;
        (unrolled.*fill)(chunk.keys, chunk.values, next.keys, next.values, w.block_size, lo, hi);
        const float* q = queries + (head - item.head_begin) * stride;
        for (int panel = 0; panel < rows; panel += TilePanel::kRows)
            run_panel(w, call, item, head, chunk.base, TilePanel{unrolled, &configured}, panel, q, scratch);
    });
    tiles_release();
}
#endif

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
    auto run = run_item<Q, T>;
#if PLAIT_TILES
    if constexpr (std::is_same_v<T, bf16>) {
        if (have_tiles()) run = run_item_in_tiles<Q>;
    }
#endif
    w.partials.get((size_t)w.slots * w.heads);
    w.values.get((size_t)w.slots * w.heads * w.size);
    while ((int)w.scratch.size() < threads) w.scratch.push_back(std::make_unique<Scratch>());
    if (threads == 1) {  // an OpenMP region of one thread still costs a microsecond
        for (int i = 0; i < items; i++) run(w, call, w.items[i], *w.scratch[0]);
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
        for (int i = 0; i < items; i++) run(w, call, w.items[i], scratch);
#pragma omp for schedule(static)
        for (int row = 0; row < w.num_rows; row++) merge_row<Q>(w, call, row, scratch);
    }
}

}  // namespace

// Raised with every change of the structures and functions that attention/library.py mirrors.
EXPORT int plait_attention_abi() { return 3; }

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
    const auto attend_rows = [&](auto row) {
        using Q = decltype(row);
        with_type(call->pool_type, [&](auto element) { attend<Q, decltype(element)>(*work, *call); });
    };
    call->q_type == kBfloat16 ? attend_rows(bf16{}) : attend_rows(float{});
}
