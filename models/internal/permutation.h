// A pseudo-random order of [0, n) that is computed from the place in it, so that nothing is stored, any place can be
// asked for, and a seed is all there is to save.
#pragma once

#include <altgrad/core/random.h>

#include <algorithm>
#include <bit>

namespace altgrad::detail {

// A Feistel network on numbers of 2h bits with Philox as its round function (Luby & Rackoff, "How to construct
// pseudorandom permutations", 1988), in twice the rounds that they need. It permutes [0, 4^h), less than 4n numbers;
// where it leads out of [0, n) it is applied again, which permutes [0, n) ("cycle walking": Black & Rogaway, "Ciphers
// with arbitrary finite domains", 2002).
class Permutation {
 public:
  Permutation(uint64_t n, uint64_t seed)
      : n_(n), seed_(seed), half_(std::max(1, int(std::bit_width(n - 1) + 1) / 2)) {}

  uint64_t operator()(uint64_t i) const {
    do i = network(i);
    while (i >= n_);
    return i;
  }

 private:
  static constexpr uint64_t rounds = 8;
  static constexpr uint64_t first_stream = uint64_t(1) << 62;  // generators do not come as far

  uint64_t network(uint64_t i) const {
    const uint64_t mask = (uint64_t(1) << half_) - 1;
    uint64_t left = i >> half_, right = i & mask;
    for (uint64_t round = 0; round < rounds; ++round) {
      const uint64_t next = left ^ (RandomStream{seed_, first_stream + round}.word(right) & mask);
      left = right;
      right = next;
    }
    return left << half_ | right;
  }

  uint64_t n_, seed_;
  int half_;  // bits, at most 32
};

}  // namespace altgrad::detail
