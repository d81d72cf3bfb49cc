// Byte pair encoding of text that has no special tokens in it: pieces by the pattern, merges within each.
//
// What a piece becomes is remembered, as the pieces of texts repeat. In a piece that is not known, the pair of the
// lowest rank is merged first, of equal ranks the leftmost: by looking at all pairs where they are few, and by a queue with a
// list for each rank where they are many, so that a million letters without a space take a time in proportion.
#pragma once

#include <altgrad/models/internal/pattern.h>

#include <array>
#include <cstdint>
#include <map>
#include <memory>
#include <mutex>
#include <string>
#include <string_view>
#include <unordered_map>
#include <vector>

namespace altgrad::detail {

// Two neighbours that become one token; those of lower ranks do first. All that have one rank become the same token.
struct Merge {
  int32_t left, right, merged;
  uint32_t rank;
};

// All that there is to know of a tokenizer.
struct Vocabulary {
  std::vector<std::string> tokens = {};  // the bytes of each id; none where the id is not in use
  std::vector<Merge> merges = {};
  std::map<std::string, int64_t> special = {};  // what text encodes to only where that is allowed
  std::map<std::string, int64_t> added = {};    // what it always encodes to, whatever is around it
  std::string pattern = {};
  bool whole_pieces = false;  // a piece that is a token is that token, whatever merges would make of it
};

// The merges by their pairs: open addressing, at most half full.
class PairTable {
 public:
  static constexpr uint32_t none = UINT32_MAX;  // no rank
  explicit PairTable(const std::vector<Merge>& merges);
  uint32_t rank(int32_t left, int32_t right) const {
    const uint64_t pair = key(left, right);
    for (size_t i = place(pair);; i = (i + 1) & mask_)
      if (slots_[i].pair == pair || slots_[i].rank == none) return slots_[i].rank;
  }

 private:
  struct Slot {
    uint64_t pair = 0;
    uint32_t rank = none;
  };
  static uint64_t key(int32_t left, int32_t right) { return uint64_t(left) << 32 | uint32_t(right); }
  size_t place(uint64_t pair) const { return size_t(pair * 0x9E3779B97F4A7C15 >> 32) & mask_; }

  std::vector<Slot> slots_;
  size_t mask_;
};

class Bpe {
 public:
  // Throws std::invalid_argument, in the name of `who`, where a byte has no token.
  Bpe(const std::string& who, Vocabulary vocabulary, Pattern pattern);
  const Vocabulary& vocabulary() const { return vocabulary_; }

  // The work space of one thread at a time.
  class Encoder;
  // One that no other thread has. It is given back for the next one, with what it remembers, unless an error has left
  // it in the middle of its work.
  std::unique_ptr<Encoder> take_encoder() const;
  void give_back(std::unique_ptr<Encoder> encoder) const;

 private:
  const Vocabulary vocabulary_;
  const Pattern pattern_;
  const PairTable pairs_;
  std::array<int32_t, 256> byte_tokens_;
  std::vector<int32_t> merged_;                              // of each rank
  std::unordered_map<std::string_view, int32_t> whole_ids_;  // of tokens, where whole pieces are
  mutable std::mutex mutex_;
  mutable std::vector<std::unique_ptr<Encoder>> idle_;
};

class Bpe::Encoder {
 public:
  explicit Encoder(const Bpe& bpe);
  // Adds text's ids. Bytes that are not UTF-8 are pieces of their own.
  void encode(std::string_view text, std::vector<int32_t>& ids);

 private:
  struct alignas(64) Known {  // a piece that has been encoded, and its ids
    static constexpr size_t most_bytes = 31, most_ids = 7;
    using Key = std::array<uint64_t, 4>;
    static Key key_of(std::string_view piece, size_t readable);
    Key key = {};  // the bytes and, in the last one, their number; zeros between
    std::array<int32_t, most_ids> ids = {};
    int32_t count = 0;
  };
  struct Part {  // of a piece; neighbours by index
    int32_t id;
    uint32_t rank, previous, next;  // rank: of the pair that it makes with the next one
  };
  struct alignas(64) Links {  // a part of a list of places, the last one first
    uint32_t earlier, count = 0;
    std::array<uint32_t, 14> places = {};
  };
  struct Pass {  // over the places of one rank, of which the next is places[next]
    uint32_t rank = 0;
    size_t next = 0;
    std::vector<uint32_t> places;
  };

  void encode_piece(std::string_view piece, size_t readable, std::vector<int32_t>& ids);
  void merge(std::string_view piece, std::vector<int32_t>& ids);
  void merge_by_search(uint32_t n);
  void merge_by_queue();
  void merge_pair(uint32_t place, uint32_t rank);
  void rank_pair(uint32_t place);

  // The queue of places, by the ranks of their pairs.
  void push(uint32_t rank, uint32_t place);
  uint32_t lowest();     // rank; none where the queue is empty
  void pop(Pass& pass);  // moves all places of the pass's rank to it

  const Bpe& bpe_;
  Pattern::Matcher matcher_;
  std::vector<Known> known_;
  std::vector<Part> parts_;  // of the piece that is being merged
  bool queued_ = false;      // its pairs are
  std::vector<Pass> passes_;
  std::vector<Links> links_;
  std::vector<uint32_t> last_of_;             // by rank: 1 + index in links_, 0: none
  std::vector<uint64_t> has_any_;             // ranks with places, 64 to a word
  size_t lowest_word_ = 0;                    // none of those before it has any
  uint32_t lowest_pushed_ = PairTable::none;  // since it was last set
};

}  // namespace altgrad::detail
