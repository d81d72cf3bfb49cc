// Counter-based randomness: Philox 4x32-10 (Salmon et al., "Parallel random numbers: as easy as 1, 2, 3", SC
// 2011). Every call that needs randomness takes one stream number from a Generator; element i of that call is
// a pure function of (seed, stream, i). So the numbers do not depend on the number of threads, and dropout
// stores no mask.
#pragma once

#include <altgrad/core/export.h>

#include <array>
#include <cstdint>

ALTGRAD_API_BEGIN
namespace altgrad {

/// Four random words for a key and a counter.
AG_HD constexpr std::array<uint32_t, 4> philox(std::array<uint32_t, 4> counter, std::array<uint32_t, 2> key) {
  for (int round = 0; round < 10; ++round) {
    const uint64_t a = uint64_t(0xD2511F53u) * counter[0], b = uint64_t(0xCD9E8D57u) * counter[2];
    counter = {uint32_t(b >> 32) ^ counter[1] ^ key[0], uint32_t(b), uint32_t(a >> 32) ^ counter[3] ^ key[1],
               uint32_t(a)};
    key = {key[0] + 0x9E3779B9u, key[1] + 0xBB67AE85u};
  }
  return counter;
}

/// A position in a sequence of random streams: what a kernel needs to draw numbers.
struct RandomStream {
  uint64_t seed = 0, stream = 0;
  /// In a captured step (optim::CapturedStep), null elsewhere: memory of a GPU that holds how many streams the generator
  /// has handed out since the capture.
  const uint64_t* advance = nullptr;
  /// What a kernel on a GPU draws from, which runs again with other streams.
  AG_HD constexpr RandomStream on_device() const { return {seed, advance ? stream + *advance : stream}; }
  /// Words 4 * block .. 4 * block + 3 of the stream.
  AG_HD constexpr std::array<uint32_t, 4> block(uint64_t block) const {
    return philox({uint32_t(block), uint32_t(block >> 32), uint32_t(stream), uint32_t(stream >> 32)},
                  {uint32_t(seed), uint32_t(seed >> 32)});
  }
  /// Word i of the stream: what element i of a tensor uses.
  AG_HD constexpr uint32_t word(uint64_t i) const {
    const auto words = block(i / 4);
    // By choices: for an index that it does not know, a GPU would keep the words in memory.
    return i & 2 ? (i & 1 ? words[3] : words[2]) : (i & 1 ? words[1] : words[0]);
  }
};

/// Uniform in [0, 1) with 24 bits.
AG_HD constexpr float uniform01(uint32_t word) { return float(word >> 8) * 0x1p-24f; }

/// Hands out streams. Its state is two numbers, to be saved and set as they are.
class Generator {
 public:
  struct State {
    uint64_t seed = 0, next = 0;
    friend bool operator==(const State&, const State&) = default;
  };
  explicit constexpr Generator(uint64_t seed = 0) : Generator(State{seed, 0}) {}
  explicit constexpr Generator(State state) : state_(state) {}
  /// Throws std::invalid_argument in a captured step that was not given this generator.
  RandomStream next();
  State state() const { return state_; }
  void set_state(State state) { state_ = state; }

 private:
  State state_;
};

/// The calling thread's generator, which everything uses that is not given one. In every thread it begins with
/// seed 0: threads that must not draw the same numbers need seeds of their own.
Generator& default_generator();
/// The calling thread's generator for stochastic rounding alone, so that a run that rounds differently has the same
/// batches and dropout masks. It has the seed of default_generator() and the upper half of the streams, from 2^63 on.
Generator& rounding_generator();
constexpr uint64_t first_rounding_stream = uint64_t(1) << 63;
/// Restarts the calling thread's two generators, and no others, from this seed.
void manual_seed(uint64_t seed);

}  // namespace altgrad
ALTGRAD_API_END
