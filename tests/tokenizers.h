// What tests of the tokenizer share.
#pragma once

#include "catch.h"

#include <altgrad/models/tokenizer.h>

#include <cstdint>
#include <string>
#include <vector>

#if ALTGRAD_BPE
#define NEEDS_PCRE2() static_cast<void>(0)
#else
#define NEEDS_PCRE2() SKIP_TEST("this altgrad was built without PCRE2")
#endif

// vocab.json, merges.txt, tokenizer.json, ranks.tiktoken, cases.txt: tests/interop/make_tokenizer_cases.py
inline std::string tokenizer_folder() { return ALTGRAD_SOURCE_DIR "/tests/models/tokenizer"; }

inline std::vector<int64_t> ids_of(const altgrad::Tensor& ids) {
  return {ids.data<int64_t>().begin(), ids.data<int64_t>().end()};
}
