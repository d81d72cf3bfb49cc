// The check of options that generate() makes before it begins.
#pragma once

#include <altgrad/models/generate.h>

namespace altgrad::models::detail {

// Throws std::invalid_argument where a number is out of its range.
void check(const GenerateOptions& options);

}  // namespace altgrad::models::detail
