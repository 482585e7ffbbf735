// One token for each row of logits, as sampling.py draws it: temperature, top-k, top-p and min-p in this order, then the
// inverse of the cumulative distribution in the order of ids. All in double precision, a row by itself.

#pragma once

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <functional>
#include <limits>
#include <vector>

#include "vectors.h"

namespace {

constexpr int kDoubles = kLanes / 2;
constexpr int64_t kBlock = 1024;  // of a row: its sums say where a number falls
constexpr int64_t kNoToken = -1;  // sampled from logits that are no distribution; as in sampling.py

typedef double Double __attribute__((vector_size(kDoubles * 8)));
typedef int64_t Long __attribute__((vector_size(kDoubles * 8)));
typedef float Half __attribute__((vector_size(kDoubles * 4)));

// Mirrors `SampleArguments` in kernels.py.
struct SampleArguments {
    const float* logits;
    int64_t stride, rows, vocabulary;
    const double *temperature, *top_p, *min_p, *uniform;
    const int64_t *top_k, *forced;  // forced: the token to take, or -1; may be null
    const uint8_t* scored;          // are log-probability and certainty asked for?
    int64_t* tokens;
    double *sums, *logprobs, *certainties;  // sums: the logarithm of that of exp(logit)
};

// For x <= 0, to the last bits of a double: 2^n times a polynomial on |r| <= ln 2 / 2. What is below -700 is 0.
Double exp(Double exact) {
    const Double x = exact < -700.0 ? Double{} - 700.0 : exact;
    const double round = 6755399441055744.0;  // 1.5 * 2^52
    const Double shifted = x * 1.4426950408889634 + round;
    const Double n = shifted - round;
    const Double r = x - n * 6.93147180369123816490e-01 - n * 1.90821492927058770002e-10;
    Double p = r * (1.0 / 6227020800.0) + 1.0 / 479001600.0;
    for (double term : {39916800.0, 3628800.0, 362880.0, 40320.0, 5040.0, 720.0, 120.0, 24.0, 6.0, 2.0, 1.0, 1.0})
        p = p * r + 1.0 / term;
    const Double found = p * (Double)(((Long)shifted << 52) + (int64_t{1023} << 52));
    return exact < -700.0 ? Double{} : found;
}

// The first of the largest; kNoToken where one is NaN or +inf, or all are -inf.
int64_t argmax(const float* x, int64_t size) {
    int64_t best = 0, i = 0;
    // From NaN on nothing compares, so that it stays the best.
    const auto scan = [&](int64_t end) {
        for (; i < end; i++)
            if (!(x[i] <= x[best]) && x[best] == x[best]) best = i;
    };
    while (i + kPanel <= size) {
        Int other = {};  // larger, or NaN
        for (int j = 0; j < kPanel; j += kLanes) other |= ~(load(x + i + j) <= x[best]);
        int any = 0;
        for (int lane = 0; lane < kLanes; lane++) any |= other[lane];
        any ? scan(i + kPanel) : static_cast<void>(i += kPanel);
    }
    scan(size);
    return std::isfinite(x[best]) ? best : kNoToken;
}

double sum(Double v) {
    double total = 0;
    for (int i = 0; i < kDoubles; i++) total += v[i];
    return total;
}

class Row {
   public:
    Row(const float* logits, int64_t size, std::vector<double>& weights, std::vector<double>& sums)
        : logits_(logits), size_(size), weights_(weights), sums_(sums) {
        weights.resize((size + kBlock - 1) / kBlock * kBlock);
        sums.resize(weights.size() / kBlock);
    }

    // Or kNoToken.
    int64_t likeliest() {
        const int64_t best = argmax(logits_, size_);
        if (best != kNoToken) top_ = logits_[best];
        return best;
    }

    // exp((logit - largest) / temperature) of those that are not below `least`, and their sum.
    double weigh(double temperature, float least) {
        for (size_t block = 0; block < sums_.size(); block++) {
            Double total{};
            const int64_t begin = block * kBlock, end = begin + kBlock;
            int64_t i = begin;
            for (; i + kDoubles <= std::min(end, size_); i += kDoubles) {
                const Double x = __builtin_convertvector(load<Half>(logits_ + i), Double);
                const Double weight = exp((x - top_) / temperature);
                const Double kept = x >= static_cast<double>(least) ? weight : Double{};
                store(weights_.data() + i, kept);
                total += kept;
            }
            for (; i < end; i++) {
                const bool is_in = i < size_ && logits_[i] >= least;
                weights_[i] = is_in ? exp(Double{} + (logits_[i] - static_cast<double>(top_)) / temperature)[0] : 0;
                total[0] += weights_[i];
            }
            sums_[block] = sum(total);
        }
        return total();
    }

    // The k-th largest logit.
    float kth(int64_t k) const {
        std::vector<float> heap(logits_, logits_ + k);  // of the largest so far, the least of them in front
        std::make_heap(heap.begin(), heap.end(), std::greater<>());
        for (int64_t i = k; i < size_; i++) {
            if (logits_[i] <= heap.front()) continue;
            std::pop_heap(heap.begin(), heap.end(), std::greater<>());
            heap.back() = logits_[i];
            std::push_heap(heap.begin(), heap.end(), std::greater<>());
        }
        return heap.front();
    }

    // Drop what is not among the likeliest that make up `share` of `all`; of equals the first stay.
    void keep_share(double share, double all) {
        // What is left out here is less than 1 - share together, so no part of what stays.
        const double least = all * (1 - share) / size_;
        std::vector<int64_t> ids;
        for (int64_t i = 0; i < size_; i++)
            if (weights_[i] > 0 && weights_[i] >= least) ids.push_back(i);
        const double* w = weights_.data();
        std::sort(ids.begin(), ids.end(), [w](int64_t a, int64_t b) { return w[a] > w[b] || (w[a] == w[b] && a < b); });
        double before = 0;
        size_t count = 0;
        for (; count < ids.size() && (!count || before < share * all); count++) before += w[ids[count]];
        const int64_t last = ids[count - 1];
        const double smallest = w[last];
        keep([=](int64_t i, double weight) { return weight > smallest || (weight == smallest && i <= last); });
    }

    template <class Kept>
    void keep(Kept is_kept) {
        for (size_t block = 0; block < sums_.size(); block++) {
            double total = 0;
            for (int64_t i = block * kBlock; i < static_cast<int64_t>(block + 1) * kBlock; i++) {
                if (!is_kept(i, weights_[i])) weights_[i] = 0;
                total += weights_[i];
            }
            sums_[block] = total;
        }
    }

    double total() const {
        double found = 0;
        for (double one : sums_) found += one;
        return found;
    }

    // Where `uniform` of the weights lie before.
    int64_t draw(double uniform) const {
        const double target = uniform * total();
        double before = 0;
        int64_t last = kNoToken;
        for (size_t block = 0; block < sums_.size(); block++) {
            if (!(sums_[block] > 0)) continue;
            const bool is_here = before + sums_[block] > target;
            double at = before;
            for (int64_t i = block * kBlock; is_here && i < static_cast<int64_t>(block + 1) * kBlock; i++) {
                at += weights_[i];
                if (weights_[i] > 0 && at > target) return i;
            }
            if (is_here) return last_of(block);  // rounding
            before += sums_[block];
            last = block;
        }
        return last_of(last);
    }

    double mean() const {
        Double total{};
        int64_t i = 0;
        for (; i + kDoubles <= size_; i += kDoubles) total += __builtin_convertvector(load<Half>(logits_ + i), Double);
        for (; i < size_; i++) total[0] += logits_[i];
        return sum(total) / size_;
    }

    double top() const { return top_; }

   private:
    int64_t last_of(int64_t block) const {
        for (int64_t i = (block + 1) * kBlock - 1; i >= block * kBlock; i--)
            if (weights_[i] > 0) return i;
        return kNoToken;
    }

    const float* logits_;
    int64_t size_;
    float top_ = 0;
    std::vector<double>& weights_;
    std::vector<double>& sums_;  // of blocks
};

void sample(const SampleArguments& a) {
    std::vector<double> weights, sums;
    for (int64_t r = 0; r < a.rows; r++) {
        const float* logits = a.logits + r * a.stride;
        Row row(logits, a.vocabulary, weights, sums);
        const float lowest = -std::numeric_limits<float>::infinity();
        int64_t token = row.likeliest();
        const int64_t forced = a.forced ? a.forced[r] : -1;
        if (token != kNoToken && forced >= 0) token = forced;
        if (token != kNoToken && forced < 0 && a.temperature[r] > 0) {
            const bool has_top_k = 0 < a.top_k[r] && a.top_k[r] < a.vocabulary;
            const double all = row.weigh(a.temperature[r], has_top_k ? row.kth(a.top_k[r]) : lowest);
            if (a.top_p[r] < 1) row.keep_share(a.top_p[r], all);
            const double least = a.min_p[r];
            if (least > 0) row.keep([=](int64_t, double weight) { return weight >= least; });  // the largest is 1
            token = row.draw(a.uniform[r]);
        }
        a.tokens[r] = token;
        if (token == kNoToken || !a.scored[r]) continue;
        const double all = row.top() + std::log(row.weigh(1, lowest));
        a.sums[r] = all;
        a.logprobs[r] = logits[token] - all;
        a.certainties[r] = all - row.mean() - std::log(static_cast<double>(a.vocabulary));
    }
}

}  // namespace
