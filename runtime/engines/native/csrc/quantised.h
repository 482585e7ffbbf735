// Weights in 8 and 4 bits, and their products with inputs in 8 bits.
//
// Inputs of a matrix (outputs, inputs) come in groups of kGroup, the last one filled up with zeros. A panel of kPanel
// outputs is one record after the other, one for each group: the group's integers, four inputs of an output side by side;
// then each output's scale in float16 and, in 4 bits, its minimum. 8 bits: weight = scale * (integer - 128). 4 bits: two
// integers to a byte, those of the group's second half in the high bits; weight = scale * integer + minimum.
//
// The inputs of a linear layer are rounded to 8 bits, with a scale of their own for each row and group. Products of a group
// are summed as integers, without error; groups are added up as float32 in ascending order, whatever the tile. So neither
// other rows nor threads change a bit of the result.

#pragma once

#include "vectors.h"

namespace {

// Products of bytes: four are summed in 32 bits, or two in 16, which what is multiplied must not overflow.
#if defined(__AVX512VNNI__) || (defined(__AVXVNNI__) && !defined(__AVX512F__))
#define PLAIT_BYTES_BY_FOUR 1
constexpr bool kHasNarrowSums = false;
#elif defined(__AVX512BW__) || (defined(__AVX2__) && !defined(__AVX512F__)) || (defined(__SSSE3__) && !defined(__AVX__))
#define PLAIT_BYTES_BY_TWO 1
constexpr bool kHasNarrowSums = true;
#else
constexpr bool kHasNarrowSums = false;
#endif

constexpr int kGroup = 32;
// Rows of a tile. Three have all their sums in registers, which is best for many; up to six, if there are no more, read a
// panel once.
constexpr int kGroupRows = kLanes == 16 ? 6 : 3;
int64_t group_tiles(int64_t rows) { return rows <= kGroupRows ? 1 : (rows + 2) / 3; }

constexpr int kColumns = kLanes == 16 ? kVectors : 2;  // vectors of outputs at a time, whose sums stay in registers
constexpr int kUnrolledWords = kLanes == 16 ? 8 : 1;   // unrolled, the compiler moves inputs of many words into memory

struct Inputs {  // a group of a row
    int8_t integers[kGroup];
    float scale;
    float sum;       // of what the integers stand for
    int32_t offset;  // -128 times their own sum
};
constexpr int kInputsSize = sizeof(Inputs) / sizeof(float);

Int half_bytes(Int word, int p) { return (p ? word >> 4 : word) & 0x0f0f0f0f; }

// Of a group and an output there are `kWords` words of four bytes, of which each holds the `kParts` parts of as many
// integers, or of the same one. Part p of word i is multiplied by inputs 4 * input(i, p) and the three behind it.

struct Int8 {
    static constexpr int kWords = 8, kParts = kHasNarrowSums ? 2 : 1;
    static constexpr int kSums = kParts;  // in narrow sums, for which bytes are too large, high halves have their own
    static constexpr bool kHasMinimum = false;
    static Int part(Int word, int p) { return kHasNarrowSums ? half_bytes(word, p) : word; }
    static int input(int i, int) { return i; }
    static int32_t start(const Inputs& x) { return x.offset; }
    static float weight(const uint8_t* integers, int lane, int k) {
        return static_cast<float>(integers[(k / 4 * kPanel + lane) * 4 + k % 4] - 128);
    }
};

struct Int4 {
    static constexpr int kWords = 4, kParts = 2, kSums = 1;
    static constexpr bool kHasMinimum = true;
    static Int part(Int word, int p) { return half_bytes(word, p); }
    static int input(int i, int p) { return p * kWords + i; }
    static int32_t start(const Inputs&) { return 0; }
    static float weight(const uint8_t* integers, int lane, int k) {
        const int byte = k % (kGroup / 2);
        const uint8_t both = integers[(byte / 4 * kPanel + lane) * 4 + byte % 4];
        return static_cast<float>(k < kGroup / 2 ? both & 15 : both >> 4);
    }
};

template <class Format>
constexpr int kIntegers = Format::kWords * 4 * kPanel;  // bytes
template <class Format>
constexpr int kRecord = kIntegers<Format> + kPanel * (Format::kHasMinimum ? 4 : 2);

// Float16 to float32, of finite numbers.
Vec halves(const uint8_t* p) {
#if defined(__AVX512F__)
    return (Vec)_mm512_cvtph_ps(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(p)));
#elif defined(__F16C__)
    return (Vec)_mm256_cvtph_ps(_mm_loadu_si128(reinterpret_cast<const __m128i*>(p)));
#else
    const Int bits = __builtin_convertvector(load<Short>(p), Int);
    const Vec magnitude = (Vec)((bits & 0x7fff) << 13) * 0x1p112f;  // moves the exponent's bias; subnormals come right
    return (Vec)((Int)magnitude | (bits & static_cast<int32_t>(0x80000000)));
#endif
}

// Sums of a group's products, one for each output of a vector: unsigned bytes of weights times signed ones of inputs.
#if defined(PLAIT_BYTES_BY_TWO)
template <class Format>
class Sums {
public:
    void add(int part, Int weights, Int inputs) {
#if defined(__AVX512BW__)
        sums_[part % Format::kSums] += (Pairs)_mm512_maddubs_epi16((__m512i)weights, (__m512i)inputs);
#elif defined(__AVX2__)
        sums_[part % Format::kSums] += (Pairs)_mm256_maddubs_epi16((__m256i)weights, (__m256i)inputs);
#else
        sums_[part % Format::kSums] += (Pairs)_mm_maddubs_epi16((__m128i)weights, (__m128i)inputs);
#endif
    }
    Int total() const {
        Int found = added(sums_[0], 1);
        if constexpr (Format::kSums == 2) found += added(sums_[1], 16);
        return found;
    }

private:
    typedef int16_t Pairs __attribute__((vector_size(kLanes * 4)));
    static_assert(kGroup / 2 * 15 * 127 < 1 << 15);

    static Int added(Pairs pairs, int16_t factor) {
        const Pairs factors = Pairs{} + factor;
#if defined(__AVX512BW__)
        return (Int)_mm512_madd_epi16((__m512i)pairs, (__m512i)factors);
#elif defined(__AVX2__)
        return (Int)_mm256_madd_epi16((__m256i)pairs, (__m256i)factors);
#else
        return (Int)_mm_madd_epi16((__m128i)pairs, (__m128i)factors);
#endif
    }

    Pairs sums_[Format::kSums] = {};
};
#else
template <class>
class Sums {
public:
    void add(int, Int weights, Int inputs) {
#if defined(PLAIT_BYTES_BY_FOUR) && defined(__AVX512F__)
        sum_ = (Int)_mm512_dpbusd_epi32((__m512i)sum_, (__m512i)weights, (__m512i)inputs);
#elif defined(PLAIT_BYTES_BY_FOUR)
        sum_ = (Int)_mm256_dpbusd_avx_epi32((__m256i)sum_, (__m256i)weights, (__m256i)inputs);
#elif defined(__SSE2__) && !defined(__AVX__)
        // As pairs of 16 bits: even bytes, then odd ones.
        typedef int16_t Pairs __attribute__((vector_size(16)));
        const Pairs even = (Pairs)((Pairs)inputs << 8) >> 8, odd = (Pairs)inputs >> 8;
        sum_ += (Int)_mm_madd_epi16((__m128i)(weights & 0x00ff00ff), (__m128i)even) +
                (Int)_mm_madd_epi16((__m128i)((weights >> 8) & 0x00ff00ff), (__m128i)odd);
#else
        for (int shift = 0; shift < 32; shift += 8)
            sum_ += ((weights >> shift) & 0xff) * ((inputs << (24 - shift)) >> 24);
#endif
    }
    Int total() const { return sum_; }

private:
    Int sum_ = {};
};
#endif

// A row of `size` inputs as groups in 8 bits. What is not finite makes its group's scale NaN.
void quantise(const float* x, int64_t size, float* out) {
    typedef int8_t Byte __attribute__((vector_size(kLanes)));
    const float round = 12582912.0f;  // 1.5 * 2^23: adding it leaves the nearest integer in the low bits
    for (int64_t begin = 0; begin < size; begin += kGroup, out += kInputsSize) {
        float values[kGroup] = {};
        std::memcpy(values, x + begin, (size - begin < kGroup ? size - begin : kGroup) * sizeof(float));
        Vec largest = {}, nothing = {};
        for (int i = 0; i < kGroup; i += kLanes) {
            const Vec v = load(values + i);
            const Vec magnitude = v < 0.0f ? -v : v;
            largest = largest > magnitude ? largest : magnitude;
            nothing += v * 0.0f;
        }
        float top = 0;
        for (int i = 0; i < kLanes; i++) top = largest[i] > top ? largest[i] : top;
        const float inverse = top > 1e-30f ? 127.0f / top : 0.0f;
        Inputs group;
        Int total = {};
        for (int i = 0; i < kGroup; i += kLanes) {
            const Int rounded = (Int)(load(values + i) * inverse + round) - 0x4b400000;
            store(group.integers + i, __builtin_convertvector(rounded, Byte));
            total += rounded;
        }
        uint32_t all = 0;  // garbage where the scale is NaN, but never an overflow
        for (int i = 0; i < kLanes; i++) all += static_cast<uint32_t>(total[i]);
        group.scale = top / 127.0f + sum(nothing);
        group.sum = group.scale * static_cast<float>(static_cast<int32_t>(all));
        group.offset = static_cast<int32_t>(0u - 128u * all);
        std::memcpy(out, &group, sizeof group);
    }
}

// kRows rows of inputs times one panel. One stream of whole records: the processor fetches it ahead better than hints do.
template <class Format, int kRows>
void group_tile(const float* x, int64_t x_stride, const uint8_t* record, int64_t groups, const float* bias, bool add,
                float* y, int64_t y_stride) {
    Vec total[kRows][kVectors] = {};
    for (int64_t g = 0; g < groups; g++, record += kRecord<Format>, x += kInputsSize) {
        const Inputs* inputs[kRows];
#pragma GCC unroll 8
        for (int row = 0; row < kRows; row++) inputs[row] = reinterpret_cast<const Inputs*>(x + row * x_stride);
        const uint8_t* scales = record + kIntegers<Format>;
#pragma GCC unroll 1
        for (int first = 0; first < kVectors; first += kColumns) {
            Sums<Format> sums[kRows][kColumns];
#pragma GCC unroll kUnrolledWords
            for (int i = 0; i < Format::kWords; i++) {
                Int words[kColumns];
#pragma GCC unroll 8
                for (int j = 0; j < kColumns; j++)
                    words[j] = load<Int>(record + (i * kPanel + (first + j) * kLanes) * 4);
#pragma GCC unroll 2
                for (int p = 0; p < Format::kParts; p++) {
#pragma GCC unroll 8
                    for (int row = 0; row < kRows; row++) {
                        int32_t four;
                        std::memcpy(&four, inputs[row]->integers + Format::input(i, p) * 4, 4);
#pragma GCC unroll 8
                        for (int j = 0; j < kColumns; j++)
                            sums[row][j].add(p, Format::part(words[j], p), Int{} + four);
                    }
                }
            }
#pragma GCC unroll 8
            for (int j = 0; j < kColumns; j++) {
                const int at = first + j;
                const Vec scale = halves(scales + at * kLanes * 2);
#pragma GCC unroll 8
                for (int row = 0; row < kRows; row++) {
                    const Int sum = sums[row][j].total() + Format::start(*inputs[row]);
                    total[row][at] += __builtin_convertvector(sum, Vec) * (scale * inputs[row]->scale);
                    if constexpr (Format::kHasMinimum)
                        total[row][at] += halves(scales + (kPanel + at * kLanes) * 2) * inputs[row]->sum;
                }
            }
        }
    }
    store_tile(total, bias, add, y, y_stride);
}

template <class Format, int kRows = kGroupRows>
void group_tile_of(int64_t rows, const float* x, int64_t x_stride, const uint8_t* panel, int64_t groups,
                   const float* bias, bool add, float* y, int64_t y_stride) {
    if (rows == kRows)
        group_tile<Format, kRows>(x, x_stride, panel, groups, bias, add, y, y_stride);
    else if constexpr (kRows > 1)
        group_tile_of<Format, kRows - 1>(rows, x, x_stride, panel, groups, bias, add, y, y_stride);
}

// The weights of one output.
template <class Format>
void read_output(const uint8_t* panels, int64_t output, int64_t size, float* out) {
    const int64_t groups = (size + kGroup - 1) / kGroup;
    const int lane = static_cast<int>(output % kPanel), vector = lane / kLanes * kLanes;
    const uint8_t* record = panels + output / kPanel * groups * kRecord<Format>;
    for (int64_t k = 0; k < size; k++) {
        if (k && k % kGroup == 0) record += kRecord<Format>;
        const uint8_t* scales = record + kIntegers<Format>;
        float value = halves(scales + vector * 2)[lane - vector] * Format::weight(record, lane, k % kGroup);
        if constexpr (Format::kHasMinimum) value += halves(scales + (kPanel + vector) * 2)[lane - vector];
        out[k] = value;
    }
}

}  // namespace
