// Learning merges (Sennrich et al. 2016, on bytes): the distinct pieces of the text with their counts, and the pairs
// within them by count and place. A merge looks at the places of its pair alone, however long their pieces are.
#include <altgrad/models/tokenizer.h>

#include <altgrad/core/error.h>
#include <altgrad/models/internal/bpe.h>

#include <algorithm>
#include <optional>
#include <queue>
#include <unordered_map>
#include <utility>

namespace altgrad::models {
namespace {

using Pair = std::pair<int32_t, int32_t>;
struct PairHash {
  size_t operator()(const Pair& pair) const {
    return size_t((uint64_t(pair.first) << 32 | uint32_t(pair.second)) * 0x9E3779B97F4A7C15 >> 20);
  }
};

class Trainer {
 public:
  Trainer(const std::string& who, std::string_view text, const detail::Pattern& pattern) {
    std::unordered_map<std::string_view, int64_t> pieces;
    std::vector<std::string_view> in_order;
    detail::Pattern::Matcher matcher(pattern);
    matcher.start(text);
    size_t bytes = 0;
    for (std::string_view piece; !(piece = matcher.next()).empty();) {
      const auto [found, is_new] = pieces.emplace(piece, 0);
      if (is_new) in_order.push_back(piece), bytes += piece.size();
      ++found->second;
    }
    if (bytes >= nowhere)
      fail(who, ": the text has ", bytes, " bytes of different words, at most ", nowhere - 1);
    parts_.reserve(bytes);
    for (const std::string_view piece : in_order) {
      counts_.push_back(pieces[piece]);
      for (size_t i = 0; i < piece.size(); ++i) {
        const auto place = uint32_t(parts_.size());
        parts_.push_back({static_cast<unsigned char>(piece[i]), uint32_t(counts_.size() - 1),
                          i > 0 ? place - 1 : nowhere, i + 1 < piece.size() ? place + 1 : nowhere});
      }
    }
    for (uint32_t place = 0; place < parts_.size(); ++place) count_pair(place, +1);
    for (const auto& [pair, uses] : uses_) candidates_.push({uses.count, pair});
  }

  // The most frequent pair, of those the smallest; its count is 0 where none is left. Candidates may have had larger
  // counts when they came in.
  std::pair<int64_t, Pair> best() {
    while (!candidates_.empty()) {
      const Candidate top = candidates_.top();
      const int64_t count = uses_[top.pair].count;
      if (count == top.count) return {count, top.pair};
      candidates_.pop();
      if (count > 0) candidates_.push({count, top.pair});
    }
    return {0, {}};
  }

  // From left to right, so that of a pair's places that overlap the first one is merged.
  void merge(const Pair& pair, int32_t merged) {
    std::vector<uint32_t> places = std::exchange(uses_[pair].places, {});
    std::sort(places.begin(), places.end());
    std::vector<Pair> made;
    for (const uint32_t place : places) {
      Part& left = parts_[place];
      if (left.id != pair.first || left.next == nowhere || parts_[left.next].id != pair.second) continue;
      Part& right = parts_[left.next];
      const uint32_t touched[] = {left.previous, place};  // where the pairs change that begin there
      count_pair(left.next, -1);
      for (const uint32_t at : touched) count_pair(at, -1);
      left.id = merged;
      right.id = gone;
      left.next = right.next;
      if (left.next != nowhere) parts_[left.next].previous = place;
      for (const uint32_t at : touched)
        if (const std::optional<Pair> now = count_pair(at, +1)) made.push_back(*now);
    }
    std::sort(made.begin(), made.end());
    made.erase(std::unique(made.begin(), made.end()), made.end());
    for (const Pair& now : made) candidates_.push({uses_[now].count, now});
    uses_.erase(pair);
  }

 private:
  static constexpr uint32_t nowhere = UINT32_MAX;
  static constexpr int32_t gone = -1;  // the id of a part that another one has taken in
  struct Part {
    int32_t id;
    uint32_t word, previous, next;
  };
  struct Uses {
    int64_t count = 0;
    std::vector<uint32_t> places;  // where the pair begins, or has begun
  };
  struct Candidate {
    int64_t count;
    Pair pair;
    bool operator<(const Candidate& other) const {
      return count != other.count ? count < other.count : pair > other.pair;
    }
  };

  // The pair that begins at a place, if one does, comes up or goes with each repetition of its word.
  std::optional<Pair> count_pair(uint32_t place, int sign) {
    if (place == nowhere || parts_[place].next == nowhere) return {};
    const Pair pair = {parts_[place].id, parts_[parts_[place].next].id};
    Uses& uses = uses_[pair];
    uses.count += sign * counts_[parts_[place].word];
    if (sign > 0) uses.places.push_back(place);
    return pair;
  }

  std::vector<int64_t> counts_;  // of each word
  std::vector<Part> parts_;      // of one word after the other
  std::unordered_map<Pair, Uses, PairHash> uses_;
  std::priority_queue<Candidate> candidates_;
};

}  // namespace

Tokenizer Tokenizer::train(std::string_view text, int64_t vocab_size) {
  const std::string who = "Tokenizer::train";
  constexpr int64_t least = 257, most = 1 << 24;
  if (vocab_size < least || vocab_size > most)
    fail(who, ": vocab_size must be in [", least, ", ", most, "], got ", vocab_size);
  const detail::Pattern pattern(who, gpt2_pattern);
  Trainer trainer(who, text, pattern);
  detail::Vocabulary v{.pattern = gpt2_pattern};
  for (int byte = 0; byte < 256; ++byte) v.tokens.emplace_back(1, char(byte));
  while (int64_t(v.tokens.size()) + 1 < vocab_size) {
    const auto [count, pair] = trainer.best();
    if (count < 2) break;
    const auto merged = int32_t(v.tokens.size());
    v.tokens.push_back(v.tokens[size_t(pair.first)] + v.tokens[size_t(pair.second)]);
    v.merges.push_back({pair.first, pair.second, merged, uint32_t(v.merges.size())});
    trainer.merge(pair, merged);
  }
  v.special.emplace("<|endoftext|>", int64_t(v.tokens.size()));
  v.tokens.push_back("<|endoftext|>");
  return Tokenizer(std::make_shared<const detail::Bpe>(who, std::move(v), pattern));
}

}  // namespace altgrad::models
