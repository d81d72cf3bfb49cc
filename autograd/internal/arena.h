// Memory for a tape's ops: chunks that are filled one after the other and kept for the next tape.
#pragma once

#include <algorithm>
#include <cstddef>
#include <memory>
#include <vector>

namespace altgrad::detail {

class Arena {
 public:
  struct Mark {
    size_t chunk = 0, used = 0;
  };
  Mark mark() const { return mark_; }
  void rewind(Mark mark) { mark_ = mark; }

  void* allocate(size_t size, size_t align) {
    for (;; ++mark_.chunk, mark_.used = 0) {
      if (mark_.chunk == chunks_.size()) chunks_.emplace_back(std::max(chunk_size, size + align));
      Chunk& chunk = chunks_[mark_.chunk];
      void* p = chunk.data.get() + mark_.used;
      size_t space = chunk.size - mark_.used;
      if (std::align(align, size, p, space)) {
        mark_.used = chunk.size - space + size;
        return p;
      }
    }
  }

 private:
  static constexpr size_t chunk_size = 1 << 16;
  struct Chunk {
    explicit Chunk(size_t n) : data(new std::byte[n]), size(n) {}
    std::unique_ptr<std::byte[]> data;
    size_t size;
  };
  std::vector<Chunk> chunks_;
  Mark mark_;
};

}  // namespace altgrad::detail
