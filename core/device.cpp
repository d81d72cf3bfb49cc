// Devices: waiting for one, printing it.
#include <altgrad/core/device.h>

#include <altgrad/core/cuda/cuda.h>

#include <ostream>
#include <string>

namespace altgrad {

void synchronize(Device device) {
  if (!device.is_cpu()) cuda::synchronize(device.index);
}

std::ostream& operator<<(std::ostream& out, const Device& device) {
  switch (device.type) {
    case DeviceType::cpu: return out << "cpu";
    case DeviceType::cuda: return out << "cuda:" << std::to_string(device.index);
  }
  return out << "none of DeviceType";
}

}  // namespace altgrad
