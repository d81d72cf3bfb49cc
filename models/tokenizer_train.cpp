// Learning merges (Sennrich et al. 2016, on bytes): the distinct pieces of the text with their counts, and the pairs
// within them by count. A merge changes only the pieces that have its pair.
#include <altgrad/models/tokenizer.h>

#include <altgrad/core/error.h>
#include <altgrad/models/internal/bpe.h>

#include <algorithm>
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
  Trainer(std::string_view text, const detail::Pattern& pattern) {
    std::unordered_map<std::string_view, size_t> index;
    detail::Pattern::Matcher matcher(pattern);
    matcher.start(text);
    for (std::string_view piece; !(piece = matcher.next()).empty();) {
      const auto [found, is_new] = index.emplace(piece, words_.size());
      if (is_new) {
        words_.emplace_back();
        for (const unsigned char byte : piece) words_.back().ids.push_back(byte);
      }
      ++words_[found->second].count;
    }
    for (size_t word = 0; word < words_.size(); ++word) {
      add_pairs(words_[word], +1);
      for (const Pair& pair : pairs_of(words_[word])) words_with_[pair].push_back(word);
    }
    for (const auto& [pair, count] : counts_) candidates_.push({count, pair});
  }

  // The most frequent pair, of those the smallest; its count is 0 where none is left. Candidates may have had larger
  // counts when they came in.
  std::pair<int64_t, Pair> best() {
    while (!candidates_.empty()) {
      Candidate top = candidates_.top();
      const int64_t count = counts_[top.pair];
      if (count == top.count) return {count, top.pair};
      candidates_.pop();
      if (count > 0) candidates_.push({count, top.pair});
    }
    return {0, {}};
  }

  void merge(const Pair& pair, int32_t merged) {
    for (const size_t index : std::exchange(words_with_[pair], {})) {
      Word& word = words_[index];
      add_pairs(word, -1);
      size_t n = 0;
      for (size_t i = 0; i < word.ids.size(); ++i) {
        const bool here = i + 1 < word.ids.size() && Pair(word.ids[i], word.ids[i + 1]) == pair;
        word.ids[n++] = here ? merged : word.ids[i];
        i += here;
      }
      word.ids.resize(n);
      add_pairs(word, +1);
      for (const Pair& now : pairs_of(word)) {
        if (now.first != merged && now.second != merged) continue;
        words_with_[now].push_back(index);
        made_.push_back(now);
      }
    }
    std::sort(made_.begin(), made_.end());
    made_.erase(std::unique(made_.begin(), made_.end()), made_.end());
    for (const Pair& made : made_) candidates_.push({counts_[made], made});
    made_.clear();
  }

 private:
  struct Word {
    std::vector<int32_t> ids;
    int64_t count = 0;
  };
  struct Candidate {
    int64_t count;
    Pair pair;
    bool operator<(const Candidate& other) const {
      return count != other.count ? count < other.count : pair > other.pair;
    }
  };

  static std::vector<Pair> pairs_of(const Word& word) {  // each once
    std::vector<Pair> pairs;
    for (size_t i = 0; i + 1 < word.ids.size(); ++i) pairs.emplace_back(word.ids[i], word.ids[i + 1]);
    std::sort(pairs.begin(), pairs.end());
    pairs.erase(std::unique(pairs.begin(), pairs.end()), pairs.end());
    return pairs;
  }
  void add_pairs(const Word& word, int64_t sign) {
    for (size_t i = 0; i + 1 < word.ids.size(); ++i)
      counts_[{word.ids[i], word.ids[i + 1]}] += sign * word.count;
  }

  std::vector<Word> words_;
  std::unordered_map<Pair, int64_t, PairHash> counts_;
  std::unordered_map<Pair, std::vector<size_t>, PairHash> words_with_;
  std::priority_queue<Candidate> candidates_;
  std::vector<Pair> made_;
};

}  // namespace

Tokenizer Tokenizer::train(std::string_view text, int64_t vocab_size) {
  const std::string who = "Tokenizer::train";
  constexpr int64_t least = 257, most = 1 << 24;
  if (vocab_size < least || vocab_size > most)
    fail(who, ": vocab_size must be in [", least, ", ", most, "], got ", vocab_size);
  const detail::Pattern pattern(who, gpt2_pattern);
  Trainer trainer(text, pattern);
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
