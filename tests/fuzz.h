// How often fuzz targets try.
#pragma once

#include <cstdint>
#include <cstdlib>

// `usual` changes, or ALTGRAD_FUZZ times as many.
inline int64_t fuzz_changes(int64_t usual) {
  const char* const times = std::getenv("ALTGRAD_FUZZ");
  return usual * (times ? std::atoll(times) : 1);
}
