// The tables of a tokenizer, and how a piece of text becomes its ids.
#include <altgrad/models/internal/bpe.h>

#include <altgrad/core/error.h>

#include <algorithm>
#include <bit>
#include <cstring>
#include <utility>

namespace altgrad::detail {
namespace {

constexpr size_t known_pieces = 1 << 15;   // 2 MiB a thread
constexpr size_t few = 64;                 // bytes of a piece whose pairs are all looked at for each merge
constexpr size_t most_in_piece = 1 << 30;  // bytes, so that 32 bits count its links
constexpr uint32_t none = PairTable::none;
constexpr uint32_t nowhere = UINT32_MAX;  // an index of no part

}  // namespace

PairTable::PairTable(const std::vector<Merge>& merges)
    : slots_(std::bit_ceil(2 * merges.size() + 1)), mask_(slots_.size() - 1) {
  for (const Merge& merge : merges) {
    size_t i = place(key(merge.left, merge.right));
    while (slots_[i].rank != none) i = (i + 1) & mask_;
    slots_[i] = {key(merge.left, merge.right), merge.rank};
  }
}

Bpe::Bpe(const std::string& who, Vocabulary vocabulary, Pattern pattern)
    : vocabulary_(std::move(vocabulary)), pattern_(std::move(pattern)), pairs_(vocabulary_.merges) {
  byte_tokens_.fill(-1);
  for (size_t id = 0; id < vocabulary_.tokens.size(); ++id) {
    const std::string& token = vocabulary_.tokens[id];
    if (token.size() == 1) byte_tokens_[static_cast<unsigned char>(token[0])] = int32_t(id);
    if (vocabulary_.whole_pieces && !token.empty()) whole_ids_.emplace(token, int32_t(id));
  }
  for (const auto& [text, id] : vocabulary_.special) whole_ids_.erase(text);
  for (size_t byte = 0; byte < 256; ++byte) {
    if (byte_tokens_[byte] < 0) fail(who, ": no token is the byte ", byte, " alone");
  }
  uint32_t ranks = 0;
  for (const Merge& merge : vocabulary_.merges) ranks = std::max(ranks, merge.rank + 1);
  merged_.resize(ranks);
  for (const Merge& merge : vocabulary_.merges) merged_[merge.rank] = merge.merged;
}

std::unique_ptr<Bpe::Encoder> Bpe::take_encoder() const {
  const std::lock_guard lock(mutex_);
  if (idle_.empty()) return std::make_unique<Encoder>(*this);
  std::unique_ptr<Encoder> encoder = std::move(idle_.back());
  idle_.pop_back();
  return encoder;
}

void Bpe::give_back(std::unique_ptr<Encoder> encoder) const {
  const std::lock_guard lock(mutex_);
  idle_.push_back(std::move(encoder));
}

Bpe::Encoder::Encoder(const Bpe& bpe)
    : bpe_(bpe),
      matcher_(bpe.pattern_),
      known_(known_pieces),
      last_of_(bpe.merged_.size()),
      has_any_((bpe.merged_.size() + 63) / 64) {}

void Bpe::Encoder::encode(std::string_view text, std::vector<int32_t>& ids) {
  const char* const end = text.data() + text.size();
  matcher_.start(text);
  for (std::string_view piece; !(piece = matcher_.next()).empty();)
    encode_piece(piece, size_t(end - piece.data()), ids);
}

// The bytes of a piece, of which `readable` may be read from its beginning on. (Short copies that are then read as words
// would take most of the time.)
Bpe::Encoder::Known::Key Bpe::Encoder::Known::key_of(std::string_view piece, size_t readable) {
  static_assert(std::endian::native == std::endian::little);
  Key key = {};
  if (readable >= sizeof key) {
    std::memcpy(key.data(), piece.data(), sizeof key);
    for (size_t i = 0; i < key.size(); ++i) {
      const size_t bytes = std::min<size_t>(piece.size() > 8 * i ? piece.size() - 8 * i : 0, 8);
      key[i] &= bytes == 8 ? ~uint64_t(0) : (uint64_t(1) << 8 * bytes) - 1;
    }
  } else {
    std::memcpy(key.data(), piece.data(), piece.size());
  }
  key.back() |= uint64_t(piece.size()) << 56;
  return key;
}

// A piece has one place where it may be known, and takes it from another one.
void Bpe::Encoder::encode_piece(std::string_view piece, size_t readable, std::vector<int32_t>& ids) {
  if (piece.size() == 1) return ids.push_back(bpe_.byte_tokens_[static_cast<unsigned char>(piece[0])]);
  if (piece.size() > Known::most_bytes) return merge(piece, ids);
  const Known::Key key = Known::key_of(piece, readable);
  uint64_t hash = 0, differs = 0;
  for (const uint64_t word : key) hash = (hash ^ word ^ hash >> 29) * 0x9E3779B97F4A7C15;
  Known& known = known_[hash >> 32 & (known_pieces - 1)];
  for (size_t i = 0; i < key.size(); ++i) differs |= key[i] ^ known.key[i];
  if (differs == 0) {
    if (known.count == 1) return ids.push_back(known.ids[0]);
    ids.insert(ids.end(), known.ids.begin(), known.ids.begin() + known.count);
    return;
  }
  const size_t before = ids.size(), count = (merge(piece, ids), ids.size() - before);
  if (count > Known::most_ids) return;
  known.key = key;
  known.count = int32_t(count);
  std::copy(ids.end() - std::ptrdiff_t(count), ids.end(), known.ids.begin());
}

void Bpe::Encoder::merge(std::string_view piece, std::vector<int32_t>& ids) {
  if (const auto whole = bpe_.whole_ids_.find(piece); whole != bpe_.whole_ids_.end()) {
    ids.push_back(whole->second);
    return;
  }
  if (piece.size() > most_in_piece) {
    fail("encode: the pattern finds no place to cut in ", piece.size(), " bytes, at most ", most_in_piece,
         " can be merged");
  }
  const auto n = uint32_t(piece.size());
  if (parts_.size() < n) parts_.resize(n);
  for (uint32_t i = 0; i < n; ++i) {
    parts_[i] = {bpe_.byte_tokens_[static_cast<unsigned char>(piece[i])], none, i - 1,
                 i + 1};  // 0 - 1: nowhere
  }
  parts_[n - 1].next = nowhere;
  queued_ = n > few;
  for (uint32_t i = 0; i < n; ++i) rank_pair(i);
  if (queued_) {
    merge_by_queue();
  } else {
    merge_by_search(n);
  }
  for (uint32_t i = 0; i != nowhere; i = parts_[i].next) ids.push_back(parts_[i].id);
}

void Bpe::Encoder::merge_by_search(uint32_t n) {
  for (;;) {
    uint32_t lowest = 0;
    for (uint32_t i = 1; i < n; ++i)
      if (parts_[i].rank < parts_[lowest].rank) lowest = i;
    if (parts_[lowest].rank == none) return;
    merge_pair(lowest, parts_[lowest].rank);
  }
}

// Passes from left to right, each over the places of one rank. Ranks rise from pass to pass where merges stand in the
// order in which they were learnt; where they do not, a merge may make a pair of a lower rank, and a pass over those is
// put in.
void Bpe::Encoder::merge_by_queue() {
  for (size_t depth = 0;;) {  // of passes under way, the last of the lowest rank
    const uint32_t rank = lowest();
    if (rank != none && (depth == 0 || rank < passes_[depth - 1].rank)) {
      if (passes_.size() == depth) passes_.emplace_back();
      passes_[depth].rank = rank;
      passes_[depth].next = 0;
      passes_[depth++].places.clear();
    }
    if (depth == 0) break;
    Pass& pass = passes_[depth - 1];
    if (rank == pass.rank) pop(pass);
    lowest_pushed_ = none;
    while (pass.next < pass.places.size() && pass.rank < lowest_pushed_) {
      constexpr size_t ahead = 8;
      if (pass.next + ahead < pass.places.size()) __builtin_prefetch(&parts_[pass.places[pass.next + ahead]]);
      merge_pair(pass.places[pass.next++], pass.rank);
    }
    if (pass.next == pass.places.size()) --depth;
  }
  links_.clear();
}

void Bpe::Encoder::merge_pair(uint32_t place, uint32_t rank) {
  Part& part = parts_[place];
  if (part.rank != rank) return;  // since it was pushed it has merged, or been merged
  Part& right = parts_[part.next];
  part.id = bpe_.merged_[rank];
  part.next = right.next;
  right.rank = none;
  if (part.next != nowhere) parts_[part.next].previous = place;
  rank_pair(place);
  if (part.previous != nowhere) rank_pair(part.previous);
}

void Bpe::Encoder::rank_pair(uint32_t place) {
  Part& part = parts_[place];
  part.rank = part.next == nowhere ? none : bpe_.pairs_.rank(part.id, parts_[part.next].id);
  if (queued_ && part.rank != none) push(part.rank, place);
}

void Bpe::Encoder::push(uint32_t rank, uint32_t place) {
  uint32_t& last = last_of_[rank];
  if (last == 0 || links_[last - 1].count == links_[last - 1].places.size()) {
    links_.push_back({.earlier = last});
    last = uint32_t(links_.size());
  }
  Links& links = links_[last - 1];
  links.places[links.count++] = place;
  has_any_[rank / 64] |= uint64_t(1) << rank % 64;
  lowest_word_ = std::min(lowest_word_, size_t(rank / 64));
  lowest_pushed_ = std::min(lowest_pushed_, rank);
}

uint32_t Bpe::Encoder::lowest() {
  while (lowest_word_ < has_any_.size() && has_any_[lowest_word_] == 0) ++lowest_word_;
  if (lowest_word_ == has_any_.size()) return none;
  return uint32_t(lowest_word_ * 64 + size_t(std::countr_zero(has_any_[lowest_word_])));
}

void Bpe::Encoder::pop(Pass& pass) {
  has_any_[pass.rank / 64] &= ~(uint64_t(1) << pass.rank % 64);
  const auto old = std::ptrdiff_t(pass.places.size());
  for (uint32_t last = std::exchange(last_of_[pass.rank], 0); last > 0; last = links_[last - 1].earlier) {
    const Links& links = links_[last - 1];
    for (uint32_t i = links.count; i > 0; --i) pass.places.push_back(links.places[i - 1]);
  }
  std::reverse(pass.places.begin() + old, pass.places.end());
  // What one pass pushes is in order, but may stand behind what another one has pushed.
  const auto first = pass.places.begin() + std::ptrdiff_t(pass.next);
  if (!std::is_sorted(first, pass.places.end())) std::sort(first, pass.places.end());
}

}  // namespace altgrad::detail
