// Printing a device.
#include <altgrad/core/device.h>

#include <ostream>
#include <string>

namespace altgrad {

std::ostream& operator<<(std::ostream& out, const Device& device) {
  switch (device.type) {
    case DeviceType::cpu: return out << "cpu";
    case DeviceType::cuda: return out << "cuda:" << std::to_string(device.index);
  }
  return out << "none of DeviceType";
}

}  // namespace altgrad
