// Where a tensor lives. Asking for a device that is not there throws std::runtime_error when memory is asked
// for, so no op needs to look: "altgrad was built without CUDA".
#pragma once

#include <altgrad/core/export.h>

#include <cstdint>
#include <iosfwd>

struct CUstream_st;

ALTGRAD_API_BEGIN
namespace altgrad {

enum class DeviceType : uint8_t { cpu, cuda };

struct Device {
  DeviceType type = DeviceType::cpu;
  int index = 0;

  static constexpr Device cpu() { return {}; }
  static constexpr Device cuda(int index = 0) { return {DeviceType::cuda, index}; }
  constexpr bool is_cpu() const { return type == DeviceType::cpu; }
  friend constexpr bool operator==(const Device&, const Device&) = default;
};
std::ostream& operator<<(std::ostream& out, const Device& device);  ///< cpu, cuda:0

/// Counts the usable CUDA devices: 0 where altgrad was built without CUDA or no driver answers. Never throws.
int cuda_device_count();

/// Waits for all that was started on the device: kernels and copies of a GPU run while the host goes on. Throws what they
/// have found wrong: std::invalid_argument for an id out of range. On the CPU nothing is left to wait for.
void synchronize(Device device);

/// Devices as values: what kernels are overloaded on (core/dispatch.h).
struct Cpu {};
struct Cuda {
  int index;
  CUstream_st* stream;  ///< a cudaStream_t, the device's only one: what is started there runs in that order
};

}  // namespace altgrad
ALTGRAD_API_END
