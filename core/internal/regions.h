// Large blocks of the CPU's memory, cut from regions of huge pages: the smallest free range that fits, whatever size
// it was freed with, as freed ranges join their neighbours. Activations and gradients of many sizes so take turns in
// the same memory. Not for several threads at once.
#pragma once

#include <altgrad/core/memory.h>

#include <sys/mman.h>
#include <unistd.h>

#include <algorithm>
#include <cstdint>
#include <cstdlib>
#include <iterator>
#include <map>
#include <vector>

namespace altgrad::detail {

class Regions {
 public:
  ~Regions() {
    for (const Region& r : regions_) std::free(r.begin);
  }

  // Takes a block from what was freed; gives null where no free range is large enough.
  void* take(size_t bytes) {
    Region* region = nullptr;
    Ranges::iterator best;
    for (Region& r : regions_) {
      for (auto range = r.free.begin(); range != r.free.end(); ++range) {
        if (range->second >= bytes && (!region || range->second < best->second)) region = &r, best = range;
      }
    }
    if (!region) return nullptr;
    const auto [begin, size] = *best;
    Ranges::node_type node = region->free.extract(best);
    if (size > bytes) {
      insert(region->free, std::move(node), begin + bytes, size - bytes);
    } else {
      spare_.push_back(std::move(node));
    }
    return begin;
  }

  // Cuts a block from memory that no block has been in, joined with the free range before it; gives null where the
  // system has none. A new region takes the place of those that hold no block.
  void* extend(size_t bytes) {
    for (Region& r : regions_) {
      const auto last = r.free.empty() ? r.free.end() : std::prev(r.free.end());
      const bool joins = last != r.free.end() && last->first + last->second == r.begin + r.used;
      char* const begin = joins ? last->first : r.begin + r.used;
      if (size_t(r.begin + r.size - begin) < bytes) continue;
      if (joins) spare_.push_back(r.free.extract(last));
      r.used = size_t(begin - r.begin) + bytes;
      return begin;
    }
    release();
    size_t size = std::max(bytes, smallest_region);
    void* memory = host_allocate(size);
    if (!memory) memory = host_allocate(size = bytes);
    if (!memory) return nullptr;
    regions_.push_back(Region{static_cast<char*>(memory), size, bytes, {}});
    return memory;
  }

  void give(void* block, size_t bytes) {
    char* const p = static_cast<char*>(block);
    Region& r = *std::find_if(regions_.begin(), regions_.end(), [=](const Region& region) {
      return p >= region.begin && p < region.begin + region.size;
    });
    const auto next = r.free.lower_bound(p);
    const bool joins_next = next != r.free.end() && p + bytes == next->first;
    const bool joins_last = next != r.free.begin() && std::prev(next)->first + std::prev(next)->second == p;
    if (joins_last) {
      std::prev(next)->second += bytes + (joins_next ? next->second : 0);
      if (joins_next) spare_.push_back(r.free.extract(next));
    } else if (joins_next) {
      const size_t size = bytes + next->second;
      insert(r.free, r.free.extract(next), p, size);
    } else if (!spare_.empty()) {
      Ranges::node_type node = std::move(spare_.back());
      spare_.pop_back();
      insert(r.free, std::move(node), p, bytes);
    } else {
      spare_.reserve(nodes_ + 1);  // all nodes may be spare at once
      r.free.emplace(p, bytes);
      ++nodes_;
    }
  }

  // Gives regions without blocks back to the system.
  void release() {
    const auto in_use = [](const Region& r) {
      return r.free.size() != 1 || r.free.begin()->second != r.used;
    };
    const auto unused = std::partition(regions_.begin(), regions_.end(), in_use);
    for (auto r = unused; r != regions_.end(); ++r) {
      spare_.push_back(r->free.extract(r->free.begin()));
      std::free(r->begin);
    }
    regions_.erase(unused, regions_.end());
  }

  // Gives the pages of free ranges back to the system as well; they are there again when they are written to.
  void release_pages() {
    release();
#if defined(__linux__)
    const auto page = uintptr_t(sysconf(_SC_PAGESIZE));
    for (const Region& r : regions_) {
      for (const auto& [begin, size] : r.free) {
        const uintptr_t first = (uintptr_t(begin) + page - 1) / page * page,
                        end = (uintptr_t(begin) + size) / page * page;
        if (first < end) madvise(reinterpret_cast<void*>(first), end - first, MADV_DONTNEED);
      }
    }
#endif
  }

  size_t free_bytes() const {
    size_t bytes = 0;
    for (const Region& r : regions_) {
      for (const auto& [begin, size] : r.free) bytes += size;
    }
    return bytes;
  }

 private:
  using Ranges = std::map<char*, size_t>;  // by their beginnings; none touches another
  struct Region {
    char* begin;
    size_t size, used;  // blocks have been in the first `used` bytes
    Ranges free;        // within those
  };
  static constexpr size_t smallest_region = size_t(256) << 20;

  static void insert(Ranges& ranges, Ranges::node_type node, char* begin, size_t size) {
    node.key() = begin;
    node.mapped() = size;
    ranges.insert(std::move(node));
  }

  std::vector<Region> regions_;
  size_t nodes_ = 0;                      // in all
  std::vector<Ranges::node_type> spare_;  // so that a repeated step asks the heap for nothing
};

}  // namespace altgrad::detail
