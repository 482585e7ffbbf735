// What surrounds attention in a decoder layer: packed linear layers and the row operations between them.
//
// A weight matrix (outputs, inputs) is packed once into panels of kPanel outputs, [panel][depth][kPanel] units. A unit
// is 4 bytes: one float32 weight, or the two bfloat16 weights of neighbouring inputs; depth is inputs, or inputs / 2
// rounded up. Inputs are rounded to the weights' type; sums are float32. Rows of activations are padded to whole panels;
// the padding stays zero because padded weights, norms and biases are zero. Weights in 8 and 4 bits: quantised.h; tile
// registers: amx_linear.h.
//
// Same tokens whatever the batch: an output element is one chain of multiply-adds over its inputs in ascending order, in
// whichever tile it is computed. Tiles differ in how many such chains run side by side, never in their order. Which
// instructions multiply is one choice for all rows (arithmetic.py), because their roundings differ.

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <type_traits>

#include "quantised.h"
#include "sampling.h"
#include "amx_linear.h"
#include "vectors.h"

#define EXPORT extern "C" __attribute__((visibility("default")))

namespace {

// A type says how weights are packed (Weight, kParts of them to a unit), what inputs are (Input, kInputs of them), and how
// the two are multiplied: part p of a unit with input number kParts * k + p.

struct Float32 {
    using Weight = float;
    using Input = float;
    static constexpr int kParts = 1, kInputs = 1;
    static Vec part(const Weight* units, int) { return load(units); }
    static Vec broadcast(Input x) { return x - Vec{}; }
    static Vec multiply_add(Vec total, Vec weights, Vec input) { return total + weights * input; }
    static void write(Input* row, int64_t i, Vec v) { store(row + i, v); }
    static float weight(Weight unit, int64_t) { return unit; }
};

struct BFloat16 {
    using Weight = uint32_t;
    using Input = uint32_t;
    static constexpr int kParts = 1, kInputs = 2;
    static Vec part(const Weight* units, int) { return load(units); }
    static Vec broadcast(Input x) { return (Vec)(static_cast<int32_t>(x) - Int{}); }
    static Vec multiply_add(Vec total, Vec weights, Vec input) {
#if defined(__AVX512BF16__)
        return (Vec)_mm512_dpbf16_ps((__m512)total, (__m512bh)weights, (__m512bh)input);
#else
        const Int high = Int{} + static_cast<int32_t>(0xffff0000);
        total += (Vec)((Int)weights << 16) * (Vec)((Int)input << 16);
        return total + (Vec)((Int)weights & high) * (Vec)((Int)input & high);
#endif
    }
    static void write(Input* row, int64_t i, Vec v) {  // to nearest, ties to even
        const Int bits = (Int)v;
        const Int rounded = (bits + 0x7fff + ((bits >> 16) & 1)) >> 16;
        store(reinterpret_cast<uint16_t*>(row) + i, __builtin_convertvector(rounded, Short));
    }
    static float weight(Weight unit, int64_t k) {
        const uint32_t bits = k % 2 ? unit & 0xffff0000u : unit << 16;
        float value;
        std::memcpy(&value, &bits, 4);
        return value;
    }
};

// BFloat16 in tile registers.
struct BFloat16Tiles : BFloat16 {};

// Float32 whose weights happen to be bfloat16 numbers: half the memory, and bit for bit the same results.
struct Float32Halved : Float32 {
    using Weight = uint32_t;
    static constexpr int kParts = 2;
    static Vec part(const Weight* units, int p) {
        const Int both = load<Int>(units);
        return (Vec)(p ? both & static_cast<int32_t>(0xffff0000) : both << 16);
    }
    static float weight(Weight unit, int64_t k) { return BFloat16::weight(unit, k); }
};

// Weights in 8 or 4 bits, as each matrix says (quantised.h); everything around them is float32.
struct Quantised : Float32 {};

// These structs mirror the ctypes structures in kernels.py.

struct Linear {
    const void* panels;
    const float* bias;  // padded to whole panels, or null
    int64_t inputs;
    int64_t outputs;  // padded to whole panels
    int64_t bits;     // of a weight, where the type is kQuantised
};

struct Layer {
    Linear qkv, output, gate_up, down;
    const float* attention_norm;
    const float* mlp_norm;
};

struct Work {  // activations; strides are in elements of 4 bytes
    float* x;
    float* qkv;
    float* gate_up;
    void* input;
    void* attended;
    void* middle;
    void* integers;  // Inputs of a linear layer
    int64_t x_stride, qkv_stride, gate_up_stride, input_stride, attended_stride, middle_stride, integers_stride;
    int64_t hidden_size;
    float eps;
    int32_t type;  // kFloat32 ..
    int32_t threads;
};

enum { kFloat32, kBFloat16, kFloat32Halved, kQuantised, kBFloat16Tiles };  // types
enum { kDone = 0, kBadToken = -1, kBadSlot = -2, kInterrupted = -3 };  // results
enum { kAfterStep = 1, kAtOnce = 2 };                                   // interrupts

struct Stack {  // a whole decoder
    const Linear *embedding, *head;
    const Layer* layers;
    const float* norm;
    int64_t num_layers, vocabulary;
    // Attention's own kernels by address, so that neither library is linked to the other, and their arguments for each
    // layer. These read and write `qkv`, `attended_heads`, `cosine`, `sine` and `slots`.
    int (*rope_and_store)(const void* arguments);
    int (*prepare)(void* plan, const void* arguments);
    void (*attend)(void* plan, const void* arguments);
    const void* const* store_arguments;
    const void* const* attend_arguments;
    const float* inv_freq;  // (rotary,)
    int64_t rotary;
    float attention_factor;  // of rotated queries and keys
    float *cosine, *sine;   // (rows, rotary)
    int64_t* slots;         // (rows,)
    float* attended_heads;  // (rows, heads * head size)
};

struct Step {  // one forward pass
    int64_t* tokens;  // (rows,), as are positions and slots
    float* positions;
    int64_t* slots;
    const int64_t* logit_rows;  // (num_logits,)
    int64_t rows, num_logits;
    void* attention_plan;
    float* hidden;  // (num_logits, hidden_stride)
    int64_t hidden_stride;
    float* logits;  // (num_logits, head->outputs)
    const int32_t* interrupt;  // kAtOnce here, at any time, ends the pass with its layer; null: nothing does
};

struct Burst {  // steps of the same rows, each of which decodes behind its own run
    int64_t steps;       // at most
    int64_t* sampled;    // (steps, rows)
    const int64_t *stop_start, *stop_ids;  // row r ends the burst by stop_ids[stop_start[r] : stop_start[r + 1]]
    const void* plan_arguments;            // of attention's plan, whose arrays these are:
    int32_t* entries;
    const int32_t *run_blocks, *run_start;
    int64_t num_entries, block_size;
    const SampleArguments* draws;  // of the rows in the first step; null: each takes the likeliest token
};

template <class Type>
constexpr int kPerUnit = Type::kInputs * Type::kParts;  // weights

template <class Type>
int64_t units(int64_t inputs) {
    return (inputs + kPerUnit<Type> - 1) / kPerUnit<Type>;
}

// kRows rows of inputs times one panel, or a part of its depth: `sums` (kRows, kPanel) are those of the parts before, null
// before the first. Meanwhile weights come in from `next` on: kFetch cache lines for each step of depth.
template <class Type, int kRows, int kFetch>
void tile(const typename Type::Input* x, int64_t x_stride, const typename Type::Weight* weights,
          const typename Type::Weight* next, int64_t depth, const float* sums, const float* bias, bool add, float* y,
          int64_t y_stride) {
    Vec total[kRows][kVectors] = {};
    if (sums) load_tile(total, sums);
    for (int64_t k = 0; k < depth; k++, weights += kPanel, x += Type::kParts) {
#pragma GCC unroll 2
        for (int j = 0; j < kFetch; j++) __builtin_prefetch(next + (k * kFetch + j) * kLine, 0, 2);
#pragma GCC unroll 2
        for (int p = 0; p < Type::kParts; p++) {
            Vec w[kVectors];
#pragma GCC unroll 8
            for (int j = 0; j < kVectors; j++) w[j] = Type::part(weights + j * kLanes, p);
#pragma GCC unroll 8
            for (int row = 0; row < kRows; row++) {
                const Vec input = Type::broadcast(x[row * x_stride + p]);
#pragma GCC unroll 8
                for (int j = 0; j < kVectors; j++) total[row][j] = Type::multiply_add(total[row][j], w[j], input);
            }
        }
    }
    store_tile(total, bias, add, y, y_stride);
}

template <class Type, int kFetch, int kRows = kTileRows>
void tile_of(int64_t rows, const typename Type::Input* x, int64_t x_stride, const typename Type::Weight* weights,
             const typename Type::Weight* next, int64_t depth, const float* sums, const float* bias, bool add, float* y,
             int64_t y_stride) {
    if (rows == kRows)
        tile<Type, kRows, kFetch>(x, x_stride, weights, next, depth, sums, bias, add, y, y_stride);
    else if constexpr (kRows > 1)
        tile_of<Type, kFetch, kRows - 1>(rows, x, x_stride, weights, next, depth, sums, bias, add, y, y_stride);
}

// At most kBlockRows rows of inputs times one panel. It goes by parts of its depth that stay in a near cache while all tiles
// read them; one tile alone reads each weight once and takes the panel as it comes.
template <class Type>
void multiply_panel(const typename Type::Input* x, int64_t x_stride, int64_t rows, const typename Type::Weight* panel,
                    int64_t depth, const float* bias, bool add, float* y, int64_t y_stride) {
    const int64_t tiles = (rows + kTileRows - 1) / kTileRows, sharing = std::min<int64_t>(tiles, kLines);
    const int64_t parts = tiles == 1 ? 1 : (depth + kPartDepth - 1) / kPartDepth;
    float sums[kBlockRows * kPanel];
    for (int64_t part = 0; part < parts; part++) {
        const int64_t from = depth * part / parts, length = depth * (part + 1) / parts - from;
        const bool is_last = part == parts - 1;
        // The first tile reads as fast as memory gives; later ones would leave memory idle. So several share the lines of
        // what follows: of four to a step of depth 2 + 2, 1 + 1 + 2 or 1 + 1 + 1 + 1.
        const auto* next = panel + (from + length) * kPanel;
        for (int64_t t = 0; t < tiles; t++) {  // even shares: 7 rows are 4 and 3, not 6 and 1
            const int64_t begin = rows * t / tiles, count = rows * (t + 1) / tiles - begin;
            const int64_t lines = tiles > 1 && t < sharing ? kLines * (t + 1) / sharing - kLines * t / sharing : 0;
            float* kept = sums + begin * kPanel;
            const auto run = lines == 2 ? tile_of<Type, 2> : lines ? tile_of<Type, 1> : tile_of<Type, 0>;
            run(count, x + begin * x_stride + from * Type::kParts, x_stride, panel + from * kPanel, next, length,
                part ? kept : nullptr, is_last ? bias : nullptr, is_last && add, is_last ? y + begin * y_stride : kept,
                is_last ? y_stride : kPanel);
            next += lines * kLine * length;
        }
    }
}

template <class Format>
void quantised_linear(const Linear& layer, const Work& work, int64_t rows, bool add, float* y, int64_t y_stride) {
    const int64_t groups = (layer.inputs + kGroup - 1) / kGroup;
    const int64_t tiles = group_tiles(rows);
    const auto* inputs = static_cast<const float*>(work.integers);
#pragma omp parallel for schedule(static) num_threads(work.threads) if (work.threads > 1)
    for (int64_t first = 0; first < layer.outputs; first += kPanel) {
        const uint8_t* panel = static_cast<const uint8_t*>(layer.panels) + first / kPanel * groups * kRecord<Format>;
        for (int64_t t = 0; t < tiles; t++) {
            const int64_t begin = rows * t / tiles, end = rows * (t + 1) / tiles;
            group_tile_of<Format>(end - begin, inputs + begin * work.integers_stride, work.integers_stride, panel,
                                  groups, layer.bias ? layer.bias + first : nullptr, add,
                                  y + begin * y_stride + first, y_stride);
        }
    }
}

// y = x W^T (+ bias) (+ y); x_stride in units.
template <class Type>
void linear(const Linear& layer, const Work& work, const void* x, int64_t x_stride, int64_t rows, bool add, float* y,
            int64_t y_stride) {
    const int threads = work.threads;
    if constexpr (std::is_same_v<Type, Quantised>) {
#pragma omp parallel for schedule(static) num_threads(threads) if (threads > 1 && rows >= kManyRows)
        for (int64_t row = 0; row < rows; row++)
            quantise(static_cast<const float*>(x) + row * x_stride, layer.inputs,
                     static_cast<float*>(work.integers) + row * work.integers_stride);
        if (layer.bits == 8)
            quantised_linear<Int8>(layer, work, rows, add, y, y_stride);
        else
            quantised_linear<Int4>(layer, work, rows, add, y, y_stride);
        return;
    }
    using Input = typename Type::Input;
    using Weight = typename Type::Weight;
    const int64_t depth = units<Type>(layer.inputs);
#if PLAIT_TILES
    if constexpr (std::is_same_v<Type, BFloat16Tiles>) {
        multiply_in_tiles(static_cast<const Input*>(x), x_stride, rows, static_cast<const Weight*>(layer.panels), depth,
                          layer.outputs / kPanel, threads, PlainOutput{layer.bias, add, y, y_stride});
        return;
    }
#endif
#pragma omp parallel for schedule(static) num_threads(threads) if (threads > 1)
    for (int64_t first = 0; first < layer.outputs; first += kPanel)
        for (int64_t begin = 0; begin < rows; begin += kBlockRows)
            multiply_panel<Type>(static_cast<const Input*>(x) + begin * x_stride, x_stride,
                                 std::min<int64_t>(kBlockRows, rows - begin),
                                 static_cast<const Weight*>(layer.panels) + first * depth, depth,
                                 layer.bias ? layer.bias + first : nullptr, add, y + begin * y_stride + first, y_stride);
}

template <class Type>
void rms_norm(const float* x, int64_t x_stride, const float* weight, float eps, int64_t size, int64_t rows, void* out,
              int64_t out_stride, int threads) {
#pragma omp parallel for schedule(static) num_threads(threads) if (threads > 1 && rows >= kManyRows)
    for (int64_t row = 0; row < rows; row++) {
        const float* in = x + row * x_stride;
        auto* to = static_cast<typename Type::Input*>(out) + row * out_stride;
        Vec squares = {};
        int64_t i = 0;
        for (; i + kLanes <= size; i += kLanes) squares += load(in + i) * load(in + i);
        float total = sum(squares);
        for (; i < size; i++) total += in[i] * in[i];
        const float scale = 1.0f / std::sqrt(total / static_cast<float>(size) + eps);
        for (i = 0; i + kLanes <= size; i += kLanes) Type::write(to, i, load(in + i) * scale * load(weight + i));
        if (i < size) {
            Vec rest = {};
            std::memcpy(&rest, in + i, (size - i) * sizeof(float));
            Type::write(to, i, rest * scale * load(weight + i));
        }
    }
}

// silu(gate) * up, where a row holds all gates, padded, then all ups, padded.
template <class Type>
void silu_multiply(const float* gate_up, int64_t stride, int64_t size, int64_t rows, void* out, int64_t out_stride,
                   int threads) {
#pragma omp parallel for schedule(static) num_threads(threads) if (threads > 1 && rows >= kManyRows)
    for (int64_t row = 0; row < rows; row++) {
        const float* gate = gate_up + row * stride;
        auto* to = static_cast<typename Type::Input*>(out) + row * out_stride;
        for (int64_t i = 0; i < size; i += kLanes) {
            Type::write(to, i, silu(load(gate + i)) * load(gate + size + i));
        }
    }
}

// middle = silu(gate) * up of the inputs.
template <class Type>
void gate_up(const Linear& layer, const Work& work, int64_t rows) {
    const int64_t size = layer.outputs / 2;
#if PLAIT_TILES
    if constexpr (std::is_same_v<Type, BFloat16Tiles>) {
        multiply_in_tiles(static_cast<const uint32_t*>(work.input), work.input_stride, rows,
                          static_cast<const uint32_t*>(layer.panels), units<Type>(layer.inputs), size / kPanel,
                          work.threads, GatedOutput<Type>{layer.bias, size, work.middle, work.middle_stride});
        return;
    }
#endif
    linear<Type>(layer, work, work.input, work.input_stride, rows, false, work.gate_up, work.gate_up_stride);
    silu_multiply<Type>(work.gate_up, work.gate_up_stride, size, rows, work.middle, work.middle_stride, work.threads);
}

// Rows of float32 as the inputs of a linear layer: rounded into `space`, or as they are.
template <class Type>
const void* as_input(const float* x, int64_t* stride, int64_t size, int64_t rows, void* space, int64_t space_stride) {
    if (Type::kInputs == 1) return x;
    for (int64_t row = 0; row < rows; row++) {
        const float* in = x + row * *stride;
        auto* to = static_cast<typename Type::Input*>(space) + row * space_stride;
        for (int64_t i = 0; i < size; i += kLanes) {
            Vec v = {};
            std::memcpy(&v, in + i, (size - i < kLanes ? size - i : kLanes) * sizeof(float));
            Type::write(to, i, v);
        }
    }
    *stride = space_stride;
    return space;
}

template <class Type>
void embed(const Linear& table, const Work& work, const int64_t* tokens, int64_t rows) {
    if constexpr (std::is_same_v<Type, Quantised>) {
        const auto read = table.bits == 8 ? read_output<Int8> : read_output<Int4>;
        for (int64_t row = 0; row < rows; row++)
            read(static_cast<const uint8_t*>(table.panels), tokens[row], table.inputs, work.x + row * work.x_stride);
        return;
    }
    using Weight = typename Type::Weight;
    const int64_t depth = units<Type>(table.inputs);
    for (int64_t row = 0; row < rows; row++) {
        const Weight* column =
            static_cast<const Weight*>(table.panels) + tokens[row] / kPanel * kPanel * depth + tokens[row] % kPanel;
        float* x = work.x + row * work.x_stride;
        for (int64_t k = 0; k < table.inputs; k++) x[k] = Type::weight(column[k / kPerUnit<Type> * kPanel], k);
    }
}

template <class Type>
void qkv(const Layer& layer, const Work& work, int64_t rows) {
    rms_norm<Type>(work.x, work.x_stride, layer.attention_norm, work.eps, work.hidden_size, rows, work.input,
                   work.input_stride, work.threads);
    linear<Type>(layer.qkv, work, work.input, work.input_stride, rows, false, work.qkv, work.qkv_stride);
}

template <class Type>
void finish(const Layer& layer, const Work& work, const float* attended, int64_t rows) {
    int64_t stride = layer.output.inputs;
    const void* input =
        as_input<Type>(attended, &stride, layer.output.inputs, rows, work.attended, work.attended_stride);
    linear<Type>(layer.output, work, input, stride, rows, true, work.x, work.x_stride);
    rms_norm<Type>(work.x, work.x_stride, layer.mlp_norm, work.eps, work.hidden_size, rows, work.input,
                   work.input_stride, work.threads);
    gate_up<Type>(layer.gate_up, work, rows);
    linear<Type>(layer.down, work, work.middle, work.middle_stride, rows, true, work.x, work.x_stride);
}

// hidden = normed x, logits from it; both for the `count` rows of x that `rows` picks (null: the first ones).
template <class Type>
void head(const Linear& layer, const float* norm, const Work& work, const float* x, int64_t x_stride, int64_t count,
          const int64_t* rows, float* hidden, int64_t hidden_stride, float* logits) {
    for (int64_t i = 0; i < count; i++)
        rms_norm<Float32>(x + (rows ? rows[i] : i) * x_stride, x_stride, norm, work.eps, work.hidden_size, 1,
                          hidden + i * hidden_stride, hidden_stride, 1);
    int64_t stride = hidden_stride;
    const void* input = as_input<Type>(hidden, &stride, work.hidden_size, count, work.input, work.input_stride);
    linear<Type>(layer, work, input, stride, count, false, logits, layer.outputs);
}

// (rows, rotary) of positions (rows,) times inv_freq (rotary,), times `factor`.
void angles(const float* positions, const float* inv_freq, int64_t rows, int64_t rotary, float factor, float* cosine,
            float* sine) {
    for (int64_t row = 0; row < rows; row++)
        for (int64_t i = 0; i < rotary; i++) {
            const float angle = positions[row] * inv_freq[i];
            cosine[row * rotary + i] = std::cos(angle) * factor;
            sine[row * rotary + i] = std::sin(angle) * factor;
        }
}

int32_t interrupt(const Step& step) { return step.interrupt ? __atomic_load_n(step.interrupt, __ATOMIC_RELAXED) : 0; }

template <class Type>
int forward(const Stack& stack, const Work& work, const Step& step) {
    embed<Type>(*stack.embedding, work, step.tokens, step.rows);
    angles(step.positions, stack.inv_freq, step.rows, stack.rotary, stack.attention_factor, stack.cosine, stack.sine);
    std::memcpy(stack.slots, step.slots, step.rows * sizeof(int64_t));
    for (int64_t i = 0; i < stack.num_layers; i++) {
        if (interrupt(step) == kAtOnce) return kInterrupted;
        qkv<Type>(stack.layers[i], work, step.rows);
        if (stack.rope_and_store(stack.store_arguments[i]) < 0) return kBadSlot;
        stack.attend(step.attention_plan, stack.attend_arguments[i]);
        finish<Type>(stack.layers[i], work, stack.attended_heads, step.rows);
    }
    head<Type>(*stack.head, stack.norm, work, work.x, work.x_stride, step.num_logits, step.logit_rows, step.hidden,
               step.hidden_stride, step.logits);
    return kDone;
}

bool are_tokens(const int64_t* tokens, int64_t rows, int64_t vocabulary) {
    for (int64_t row = 0; row < rows; row++)
        if (tokens[row] < 0 || tokens[row] >= vocabulary) return false;
    return true;
}

bool is_stop(const Burst& burst, int64_t row, int64_t token) {
    const int64_t* end = burst.stop_ids + burst.stop_start[row + 1];
    return std::find(burst.stop_ids + burst.stop_start[row], end, token) != end;
}

// A token for each row, from the step's logits.
void choose(const Stack& stack, const Step& step, const Burst& burst, int64_t done, int64_t* sampled) {
    const int64_t width = stack.head->outputs;
    if (!burst.draws) {
        for (int64_t row = 0; row < step.rows; row++)
            sampled[row] = argmax(step.logits + row * width, stack.vocabulary);
        return;
    }
    SampleArguments draws = *burst.draws;
    draws.logits = step.logits;
    draws.stride = width;
    draws.rows = step.rows;
    draws.vocabulary = stack.vocabulary;
    draws.tokens = sampled;
    for (auto* numbers : {&draws.sums, &draws.logprobs, &draws.certainties}) *numbers += done * step.rows;
    draws.uniform += done * step.rows;
    sample(draws);
}

// Each row goes on to the token it sampled: one token further in its own run, whose blocks say where that is stored.
void advance(const Stack& stack, const Step& step, const Burst& burst, const int64_t* sampled) {
    for (int64_t row = 0; row < step.rows; row++) {
        step.tokens[row] = sampled[row];
        step.positions[row] += 1;
    }
    for (int64_t i = 0; i < burst.num_entries; i++) {
        int32_t* entry = burst.entries + 8 * i;  // row, rows, run, begin, end, causal, ..
        if (!entry[5]) continue;
        const int32_t at = entry[4]++;
        const int64_t block = burst.run_blocks[burst.run_start[entry[2]] + at / burst.block_size];
        step.slots[entry[0]] = block * burst.block_size + at % burst.block_size;
    }
    stack.prepare(step.attention_plan, burst.plan_arguments);
}

template <class Type>
int64_t decode(const Stack& stack, const Work& work, const Step& step, const Burst& burst) {
    for (int64_t done = 0;; done++) {
        const int result = forward<Type>(stack, work, step);
        if (result != kDone) return result == kInterrupted ? done : result;
        int64_t* sampled = burst.sampled + done * step.rows;
        bool is_last = done + 1 == burst.steps || interrupt(step) >= kAfterStep;
        choose(stack, step, burst, done, sampled);
        for (int64_t row = 0; row < step.rows; row++)
            is_last |= sampled[row] == kNoToken || is_stop(burst, row, sampled[row]);
        if (is_last) return done + 1;
        advance(stack, step, burst, sampled);
    }
}

// Calls f with the type of the weights and inputs.
template <class F>
auto with_type(const Work& work, F f) {
    switch (work.type) {
        case kFloat32Halved: return f(Float32Halved{});
        case kQuantised: return f(Quantised{});
#if PLAIT_TILES
        case kBFloat16Tiles: return f(BFloat16Tiles{});
#endif
        case kBFloat16: return f(BFloat16{});
        default: return f(Float32{});
    }
}

}  // namespace

// Changes with every function or struct above that kernels.py knows.
EXPORT int plait_ops_abi() { return 11; }

EXPORT int plait_panel() { return kPanel; }

// Does kBFloat16Tiles work here?
EXPORT int plait_has_tiles() {
#if PLAIT_TILES
    return have_tiles();
#else
    return 0;
#endif
}

// The cosines and sines of a forward pass.
EXPORT void plait_angles(const float* positions, const float* inv_freq, int64_t rows, int64_t rotary, float* cosine,
                         float* sine) {
    angles(positions, inv_freq, rows, rotary, 1.0f, cosine, sine);
}

EXPORT void plait_sample(const SampleArguments* arguments) { sample(*arguments); }

// x = rows of the table. Returns kBadToken if a token is outside the vocabulary.

EXPORT int plait_embed(const Linear* table, const Work* work, const int64_t* tokens, int64_t rows, int64_t vocabulary) {
    if (!are_tokens(tokens, rows, vocabulary)) return kBadToken;
    with_type(*work, [&](auto type) { embed<decltype(type)>(*table, *work, tokens, rows); });
    return kDone;
}

// qkv = projections of the normed x.
EXPORT void plait_qkv(const Layer* layer, const Work* work, int64_t rows) {
    with_type(*work, [&](auto type) { qkv<decltype(type)>(*layer, *work, rows); });
}

// The rest of the layer after attention, in place on x. `attended` is contiguous.
EXPORT void plait_finish(const Layer* layer, const Work* work, const float* attended, int64_t rows) {
    with_type(*work, [&](auto type) { finish<decltype(type)>(*layer, *work, attended, rows); });
}

// hidden = normed x, its `rows` or (null) its first ones; logits (count, layer->outputs). `hidden` is padded to panels.
EXPORT void plait_head(const Linear* layer, const float* norm, const Work* work, const float* x, int64_t x_stride,
                       int64_t count, const int64_t* rows, float* hidden, int64_t hidden_stride, float* logits) {
    with_type(*work, [&](auto type) {
        head<decltype(type)>(*layer, norm, *work, x, x_stride, count, rows, hidden, hidden_stride, logits);
    });
}

// A whole forward pass. Returns kBadToken or kBadSlot, having done nothing, if a token is outside the vocabulary or a
// slot beyond the pool; kInterrupted without results.
EXPORT int plait_forward(const Stack* stack, const Work* work, const Step* step) {
    if (!are_tokens(step->tokens, step->rows, stack->vocabulary)) return kBadToken;
    return with_type(*work, [&](auto type) { return forward<decltype(type)>(*stack, *work, *step); });
}

// Steps until one of a burst's ends, or samples kNoToken, or there is an interrupt; tokens, positions, slots and
// entries are then those of the last step that was begun. Returns the number of steps that ended, or as plait_forward.
EXPORT int64_t plait_decode(const Stack* stack, const Work* work, const Step* step, const Burst* burst) {
    if (!are_tokens(step->tokens, step->rows, stack->vocabulary)) return kBadToken;
    return with_type(*work, [&](auto type) { return decode<decltype(type)>(*stack, *work, *step, *burst); });
}
