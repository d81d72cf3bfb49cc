// The rules by which amaxes make a scale.
#pragma once

#include <altgrad/core/export.h>

#include <iosfwd>

ALTGRAD_API_BEGIN
namespace altgrad::fp8 {

/// Which amax a training step's scale comes from:
///   window   the largest of the history with this step in it, so that nothing is ever clipped
///   delayed  the largest of the history before this step, this tensor's own where that is empty; clips where
///            values have grown, and counts the steps in which it did (TransformerEngine's delayed scaling)
///   current  this tensor's own
/// In eval mode window and delayed both use the history's, and the tensor's own where the history is empty. One that holds
/// zeros alone counts as empty.
enum class Scaling { window, delayed, current };
std::ostream& operator<<(std::ostream& out, Scaling scaling);  ///< window, delayed, current

}  // namespace altgrad::fp8
ALTGRAD_API_END
