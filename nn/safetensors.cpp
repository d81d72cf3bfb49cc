// A file is read only after all of its header has been checked, as the format's reference implementation
// does: the tensors' byte ranges must tile the rest of the file, without holes or overlaps.
#include <altgrad/nn/safetensors.h>

#include <fcntl.h>
#include <signal.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include <nlohmann/json.hpp>

#include <algorithm>
#include <atomic>
#include <bit>
#include <cerrno>
#include <cstring>
#include <filesystem>
#include <set>
#include <system_error>

namespace altgrad {
namespace {

using nlohmann::json;

static_assert(std::endian::native == std::endian::little,
              "the format is little-endian, and bytes are copied as they are");

constexpr uint64_t max_header = 100'000'000;
constexpr const char* metadata_key = "__metadata__";

std::string errno_text(int error) { return std::generic_category().message(error); }

struct File {
  int fd;
  explicit File(int fd) : fd(fd) {}
  ~File() {
    if (fd >= 0) ::close(fd);
  }
  File(const File&) = delete;
  File& operator=(const File&) = delete;
};

// ---- Reading ----

struct Half {
  uint16_t bits;
  // A half's exponent and mantissa are a float's 13 bits further down, and 112 lower in the exponent.
  explicit operator float() const {
    const uint32_t sign = uint32_t(bits & 0x8000) << 16, magnitude = uint32_t(bits & 0x7FFF) << 13;
    const float value = std::bit_cast<float>(magnitude) * 0x1p112f;
    const bool special = (bits & 0x7C00) == 0x7C00;
    return std::bit_cast<float>(sign | (special ? 0x7F800000 | magnitude : std::bit_cast<uint32_t>(value)));
  }
};
struct Bfloat {
  uint16_t bits;
  explicit operator float() const { return std::bit_cast<float>(uint32_t(bits) << 16); }
};

// bytes: at any alignment
template <class To, class From>
void convert(const Tensor& to, const char* bytes) {
  for (To& element : to.data<To>()) {
    From value;
    std::memcpy(&value, bytes, sizeof value);
    element = To(value);
    bytes += sizeof value;
  }
}

// How a dtype of the format is held.
struct Stored {
  const char* name;
  size_t size;  // bytes an element
  DType held;
  void (*read)(const Tensor& to, const char* bytes);
};
template <class To, class From>
constexpr Stored stored(const char* name) {
  return {name, sizeof(From), dtype_of<To>, convert<To, From>};
}
constexpr Stored stored_dtypes[] = {
    stored<float, float>("F32"),      stored<double, double>("F64"),    stored<int64_t, int64_t>("I64"),
    stored<uint8_t, uint8_t>("U8"),   stored<float, Half>("F16"),       stored<float, Bfloat>("BF16"),
    stored<int64_t, int32_t>("I32"),  stored<int64_t, uint32_t>("U32"), stored<int64_t, int16_t>("I16"),
    stored<int64_t, uint16_t>("U16"), stored<int64_t, int8_t>("I8"),    stored<int64_t, uint8_t>("BOOL"),
};

struct Entry {
  std::string name;
  const Stored* dtype;
  Shape shape;
  int64_t begin, end;  // bytes after the header
};

// The member of a tensor's description.
const json& member(const json& tensor, const char* key) {
  const auto found = tensor.find(key);
  if (found == tensor.end()) fail("has no \"", key, "\"");
  return *found;
}

std::vector<int64_t> whole_numbers(const json& tensor, const char* key) {
  const json& list = member(tensor, key);
  if (!list.is_array()) fail("\"", key, "\" is not a list");
  std::vector<int64_t> numbers;
  for (const json& x : list) {
    if (!x.is_number_unsigned() || x.get<uint64_t>() > uint64_t(INT64_MAX)) {
      fail("\"", key, "\" must hold whole numbers from 0 to 2^63 - 1, got ", x);
    }
    numbers.push_back(x.get<int64_t>());
  }
  return numbers;
}

const Stored* stored_dtype(const json& tensor) {
  const json& name = member(tensor, "dtype");
  std::string known;
  for (const Stored& s : stored_dtypes) {
    if (name == s.name) return &s;
    known += concat(" ", s.name);
  }
  fail("dtype ", name, " is not one that can be read:", known);
}

Entry parse_tensor(const std::string& name, const json& tensor) try {
  if (!tensor.is_object()) fail("is described by ", tensor.type_name(), ", not an object");
  const Shape shape(whole_numbers(tensor, "shape"));
  const std::vector<int64_t> offsets = whole_numbers(tensor, "data_offsets");
  if (offsets.size() != 2) fail("\"data_offsets\" must be two numbers, has ", offsets.size());
  Entry entry{name, stored_dtype(tensor), shape, offsets[0], offsets[1]};
  if (entry.begin > entry.end)
    fail("its data would end at ", entry.end, " before it begins at ", entry.begin);
  const int64_t needed = shape.numel() * int64_t(entry.dtype->size);
  if (needed != entry.end - entry.begin) {
    fail(entry.dtype->name, " of shape ", shape, " needs ", needed, " bytes, its offsets hold ",
         entry.end - entry.begin);
  }
  return entry;
} catch (const std::invalid_argument& e) {
  fail("tensor \"", name, "\": ", e.what());
}

// JSON itself lets the last of two equal names win; here they are an error.
json parse_header(std::string_view text) {
  if (!text.starts_with('{')) fail("the header is not a JSON object");
  std::vector<std::set<std::string>> names;  // of each object that is open
  const auto watch = [&](int, json::parse_event_t event, json& parsed) {
    if (event == json::parse_event_t::object_start) names.emplace_back();
    if (event == json::parse_event_t::object_end) names.pop_back();
    if (event == json::parse_event_t::key && !names.back().insert(parsed.get<std::string>()).second) {
      fail("the header has the name ", parsed, " twice");
    }
    return true;
  };
  try {
    return json::parse(text, watch);
  } catch (const json::exception& e) {
    fail("the header is not JSON: ", e.what());
  }
}

Metadata parse_metadata(const json& object) {
  if (!object.is_object()) fail("\"", metadata_key, "\" is not an object");
  Metadata metadata;
  for (const auto& [key, value] : object.items()) {
    if (!value.is_string()) fail("\"", metadata_key, "\": \"", key, "\" is not a string");
    metadata[key] = value.get<std::string>();
  }
  return metadata;
}

StateDict parse(std::string_view file, Metadata* metadata) {
  if (file.size() < 8) fail("has ", file.size(), " bytes, the length of the header alone takes 8");
  uint64_t header_size;
  std::memcpy(&header_size, file.data(), 8);
  if (header_size > max_header)
    fail("the header would have ", header_size, " bytes, at most ", max_header, " are allowed");
  if (header_size > file.size() - 8) {
    fail("is cut short: the header has ", header_size, " bytes, the file ends after ", file.size() - 8);
  }
  const json header = parse_header(file.substr(8, header_size));
  const std::string_view data = file.substr(8 + header_size);

  Metadata found;
  std::vector<Entry> entries;
  for (const auto& [name, value] : header.items()) {
    if (name == metadata_key) {
      found = parse_metadata(value);
    } else {
      entries.push_back(parse_tensor(name, value));
    }
  }
  std::sort(entries.begin(), entries.end(), [](const Entry& a, const Entry& b) {
    return std::pair(a.begin, a.end) < std::pair(b.begin, b.end);
  });
  int64_t at = 0;
  for (const Entry& e : entries) {
    if (e.begin < at) fail("tensor \"", e.name, "\": its data at ", e.begin, " overlaps what ends at ", at);
    if (e.begin > at)
      fail("tensor \"", e.name, "\": a hole lies before its data, from ", at, " to ", e.begin);
    if (e.end > int64_t(data.size())) {
      fail("tensor \"", e.name, "\": its data would end at ", e.end, ", the file's end at ", data.size());
    }
    at = e.end;
  }
  if (at != int64_t(data.size())) fail("has ", int64_t(data.size()) - at, " bytes after the last tensor");

  StateDict tensors;
  for (const Entry& e : entries) {
    const Tensor t = Tensor::empty(e.shape, {.dtype = e.dtype->held});
    e.dtype->read(t, data.data() + e.begin);
    tensors[e.name] = t;
  }
  if (metadata) *metadata = std::move(found);
  return tensors;
}

// A whole file, readable as long as this lives.
class MappedFile {
 public:
  explicit MappedFile(const std::string& path) {
    const File file(::open(path.c_str(), O_RDONLY | O_CLOEXEC | O_NONBLOCK));
    struct stat info;
    if (file.fd < 0 || ::fstat(file.fd, &info) != 0) refuse(path, errno);
    if (!S_ISREG(info.st_mode)) refuse(path, S_ISDIR(info.st_mode) ? EISDIR : EINVAL);
    size_ = size_t(info.st_size);
    if (size_ == 0) return;  // cannot be mapped
    memory_ = ::mmap(nullptr, size_, PROT_READ, MAP_PRIVATE, file.fd, 0);
    if (memory_ == MAP_FAILED) refuse(path, errno);
  }
  ~MappedFile() {
    if (size_) ::munmap(memory_, size_);
  }
  MappedFile(const MappedFile&) = delete;
  MappedFile& operator=(const MappedFile&) = delete;
  std::string_view bytes() const { return {static_cast<const char*>(memory_), size_}; }

 private:
  [[noreturn]] static void refuse(const std::string& path, int error) {
    fail_runtime("load_safetensors: cannot read ", path, ": ", errno_text(error));
  }
  void* memory_ = nullptr;
  size_t size_ = 0;
};

// ---- Writing ----

const char* stored_name(DType dtype) {
  for (const Stored& s : stored_dtypes) {
    if (s.held == dtype) return s.name;  // each held dtype comes first as itself
  }
  return nullptr;
}

// A file that takes the place of `path` when it is complete, and leaves no trace when it is not.
class Replacement {
 public:
  explicit Replacement(const std::string& path) : path_(path), file_(create()) {}
  ~Replacement() {
    if (!temporary_.empty()) ::unlink(temporary_.c_str());
  }

  void write(const void* bytes, size_t size) {
    const char* next = static_cast<const char*>(bytes);
    while (size > 0) {
      const ssize_t written = ::write(file_.fd, next, size);
      if (written < 0 && errno == EINTR) continue;
      if (written < 0) refuse();
      next += written;
      size -= size_t(written);
    }
  }

  // The bytes must be on the disk before the name is: else a crash of the machine could leave an empty file.
  void commit() {
    if (::fsync(file_.fd) != 0 || ::rename(temporary_.c_str(), path_.c_str()) != 0) refuse();
    temporary_.clear();
    const std::filesystem::path folder = std::filesystem::path(path_).parent_path();
    const File directory(::open(folder.c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC));
    if (directory.fd < 0 || ::fsync(directory.fd) != 0) refuse();
    remove_abandoned(folder);
  }

 private:
  int create() {
    static std::atomic<int> count{0};
    int fd;
    do {  // a killed process of the same number may have left its own
      temporary_ = concat(path_, ".tmp-", ::getpid(), "-", count++);
      fd = ::open(temporary_.c_str(), O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0666);
    } while (fd < 0 && errno == EEXIST);
    if (fd < 0) {
      temporary_.clear();
      refuse();
    }
    return fd;
  }
  // What processes that were killed while they saved to this path have left.
  void remove_abandoned(const std::filesystem::path& folder) const {
    const std::string prefix = std::filesystem::path(path_).filename().string() + ".tmp-";
    std::error_code error;
    for (const auto& entry : std::filesystem::directory_iterator(folder, error)) {
      const std::string name = entry.path().filename();
      if (!name.starts_with(prefix)) continue;
      const int process = std::atoi(name.c_str() + prefix.size());
      if (process > 0 && ::kill(process, 0) != 0 && errno == ESRCH) ::unlink(entry.path().c_str());
    }
  }
  [[noreturn]] void refuse() const {
    fail_runtime("save_safetensors: cannot write ", path_, ": ", errno_text(errno));
  }

  std::string path_, temporary_;
  File file_;
};

// The file to be replaced, symbolic links followed. Renaming would replace a device or a pipe as well.
std::string resolve(const std::string& path) {
  std::error_code error;
  std::filesystem::path target = std::filesystem::absolute(path, error);
  if (!error) target = std::filesystem::weakly_canonical(target, error);
  if (error) fail_runtime("save_safetensors: cannot write ", path, ": ", error.message());
  if (std::filesystem::exists(target) && !std::filesystem::is_regular_file(target)) {
    fail_runtime("save_safetensors: cannot write ", path, ": it exists and is not a regular file");
  }
  return target;
}

}  // namespace

void save_safetensors(const std::string& path, const StateDict& tensors, const Metadata& metadata) {
  // Wider elements first, so that each tensor is aligned.
  std::vector<const StateDict::value_type*> order;
  for (const auto& item : tensors) {
    if (!item.second.defined()) fail("save_safetensors: tensor \"", item.first, "\" is undefined");
    if (item.first == metadata_key) fail("save_safetensors: the name \"", metadata_key, "\" is reserved");
    order.push_back(&item);
  }
  std::stable_sort(order.begin(), order.end(),
                   [](auto* a, auto* b) { return size_of(a->second.dtype()) > size_of(b->second.dtype()); });

  json header = json::object();
  if (!metadata.empty()) header[metadata_key] = metadata;
  size_t at = 0;
  for (const auto* item : order) {
    const Tensor& t = item->second;
    header[item->first] = {{"dtype", stored_name(t.dtype())},
                           {"shape", std::vector<int64_t>(t.shape().begin(), t.shape().end())},
                           {"data_offsets", {at, at + t.nbytes()}}};
    at += t.nbytes();
  }
  std::string text;
  try {
    text = header.dump();
  } catch (const json::exception& e) {
    fail("save_safetensors: ", path, ": a name or metadata is not UTF-8: ", e.what());
  }
  text.resize((text.size() + 7) / 8 * 8, ' ');
  if (text.size() > max_header)
    fail("save_safetensors: ", path, ": names and metadata exceed ", max_header, " bytes");

  Replacement file(resolve(path));
  const uint64_t header_size = text.size();
  file.write(&header_size, sizeof header_size);
  file.write(text.data(), text.size());
  for (const auto* item : order) {
    const Tensor host = item->second.detach().to(Device::cpu());
    file.write(host.raw(), host.nbytes());
  }
  file.commit();
}

StateDict load_safetensors(const std::string& path, Metadata* metadata) {
  const MappedFile file(path);
  try {
    return parse(file.bytes(), metadata);
  } catch (const std::invalid_argument& e) {
    fail("load_safetensors: ", path, ": ", e.what());
  }
}

}  // namespace altgrad
