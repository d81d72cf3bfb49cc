// Files of tokens. They are read by pread and not through a map: where another program cuts a file short, or a disk
// fails, a map gives a signal, and here it is an error. A map would not read less: only the windows that are drawn are
// read, into memory that the system's cache of files holds anyway.
#include <altgrad/models/internal/token_source.h>

#include <altgrad/core/error.h>
#include <altgrad/nn/internal/files.h>

#include <glob.h>

#include <algorithm>
#include <array>
#include <bit>
#include <cstddef>
#include <filesystem>
#include <mutex>
#include <nlohmann/json.hpp>
#include <set>

namespace altgrad::detail {
namespace {

namespace fs = std::filesystem;

static_assert(std::endian::native == std::endian::little, "tokens are used as they lie in a file");

constexpr int64_t header_size = 256 * sizeof(int32_t);  // llm.c's (dev/data/data_common.py there)

// What llm.c's files begin with; 0 beyond the end of a file.
struct Header {
  int32_t magic, version, count;
};
Header header_of(const InputFile& file) {
  std::array<int32_t, 3> numbers = {};
  file.read(0, numbers.data(), size_t(std::min(file.size(), int64_t(sizeof numbers))));
  return {numbers[0], numbers[1], numbers[2]};
}

// How llm.c writes tokens.
struct TokenKind {
  int32_t magic, version;
  int width;  // bytes of a token
};
constexpr TokenKind token_kinds[] = {{20240520, 1, 2}, {20240801, 7, 4}};

// What else it writes would be read as tokens too. No text begins with these numbers: their bytes are not UTF-8.
struct OtherKind {
  int32_t magic;
  const char* what;
};
constexpr OtherKind other_kinds[] = {
    {20240326, "a model"},       {20240327, "a model's state for debugging"}, {20240328, "a tokenizer"},
    {20240522, "an evaluation"}, {20240527, "the state of a training run"},   {20240803, "a model"}};

bool is_llmc_file(const Header& header) {
  const auto begins_so = [&](const auto& kind) { return kind.magic == header.magic; };
  return std::ranges::any_of(token_kinds, begins_so) || std::ranges::any_of(other_kinds, begins_so);
}

struct TokenFile {
  std::string path;
  int64_t bytes, header;  // in all, and those before the tokens
  int width;
  int64_t count() const { return (bytes - header) / width; }
};

TokenFile token_file(const InputFile& file) {
  const Header header = header_of(file);
  for (const auto& [magic, what] : other_kinds) {
    if (header.magic == magic) fail("TokenDataset: ", file.path(), " is ", what, " of llm.c, and not tokens");
  }
  for (const TokenKind& kind : token_kinds) {
    if (header.magic != kind.magic) continue;
    if (header.version != kind.version) {
      fail("TokenDataset: ", file.path(), " is a token file of llm.c of version ", header.version, "; ",
           kind.version, " can be read");
    }
    if (file.size() < header_size || file.size() - header_size != int64_t(header.count) * kind.width) {
      fail("TokenDataset: ", file.path(), " has ", file.size(), " bytes; its header of ", header_size,
           " says that ", header.count, " tokens of ", kind.width, " bytes follow");
    }
    return {file.path(), file.size(), header_size, kind.width};
  }
  if (!file.path().ends_with(".bin")) {
    fail("TokenDataset: ", file.path(),
         " has neither the name of a .bin file nor the header of one of llm.c");
  }
  if (file.size() % 2 != 0) {
    fail("TokenDataset: ", file.path(), " has ", file.size(),
         " bytes, which is no whole number of uint16 tokens");
  }
  return {file.path(), file.size(), 0, 2};
}

// The vocabulary that a folder's meta.json tells.
int64_t vocabulary_of(const fs::path& folder, const std::string& path) {
  const std::string name = folder / "meta.json";
  std::error_code error;
  if (!fs::exists(name, error)) {
    fail("TokenDataset: ", path, " needs a vocab_size: there is no meta.json beside it that tells one");
  }
  const InputFile file("TokenDataset", name);
  constexpr int64_t most_bytes = 1 << 24;
  if (file.size() > most_bytes) {
    fail("TokenDataset: ", name, " has ", file.size(), " bytes, more than a description of tokens");
  }
  std::string text(size_t(file.size()), '\0');
  file.read(0, text.data(), text.size());
  const auto meta = nlohmann::json::parse(text, nullptr, /*allow_exceptions=*/false);
  if (!meta.is_object()) fail("TokenDataset: ", name, " is not a JSON object");
  const auto found = meta.find("vocab_size");
  if (found == meta.end()) fail("TokenDataset: ", name, " has no \"vocab_size\"");
  // What is nested deep is not printed: that would recurse.
  if (!found->is_number()) {
    fail("TokenDataset: ", name, ": \"vocab_size\" must be a number, is ", found->type_name());
  }
  if (!found->is_number_unsigned() || found->get<uint64_t>() - 1 >= INT64_MAX) {
    fail("TokenDataset: ", name, ": \"vocab_size\" must be a whole number above 0, got ", found->dump());
  }
  return found->get<int64_t>();
}

int64_t vocabulary_beside(const std::vector<std::string>& paths) {
  std::set<fs::path> folders;
  for (const std::string& path : paths) folders.insert(fs::path(path).parent_path());
  const int64_t n = vocabulary_of(*folders.begin(), paths.front());
  for (const fs::path& folder : folders) {
    const int64_t other = vocabulary_of(folder, paths.front());
    if (other != n) {
      fail("TokenDataset: ", (folder / "meta.json").string(), " tells a vocabulary of ", other, ", that in ",
           folders.begin()->string(), " one of ", n);
    }
  }
  return n;
}

class FileTokens final : public TokenSource {
 public:
  FileTokens(const std::vector<std::string>& paths, std::optional<int64_t> vocab_size) {
    for (const std::string& path : paths) {
      auto file = std::make_shared<const InputFile>("TokenDataset", path);
      files_.push_back(token_file(*file));
      Open& open = open_[(files_.size() - 1) % open_.size()];
      if (!open.file) open = {files_.size() - 1, std::move(file)};
    }
    vocab_size_ = vocab_size ? *vocab_size : vocabulary_beside(paths);
  }

  void read(size_t file, int64_t first, std::span<int64_t> tokens) const override {
    if (files_[file].width == 2) {
      read_as<uint16_t>(file, first, tokens);
    } else {
      read_as<uint32_t>(file, first, tokens);
    }
  }

  const std::vector<TokenFile>& files() const { return files_; }
  int64_t vocab_size() const { return vocab_size_; }

 private:
  struct Open {
    size_t number = 0;
    std::shared_ptr<const InputFile> file;
  };

  template <class T>
  void read_as(size_t number, int64_t first, std::span<int64_t> tokens) const {
    const TokenFile& file = files_[number];
    const int64_t at = file.header + first * int64_t(sizeof(T));
    std::vector<T> stored(tokens.size());
    open(number)->read(at, stored.data(), stored.size() * sizeof(T));
    for (size_t i = 0; i < stored.size(); ++i) {
      if (int64_t(stored[i]) >= vocab_size_) {
        fail_runtime("TokenDataset: ", file.path, " has token ", stored[i], " at byte ",
                     at + int64_t(i * sizeof(T)), ", and the vocabulary is of ", vocab_size_);
      }
      tokens[i] = stored[i];
    }
  }

  // A process may have about a thousand files open, data sets have more: each file has a place among a few that stay
  // open, and takes it from the one that was there.
  std::shared_ptr<const InputFile> open(size_t number) const {
    Open& open = open_[number % open_.size()];
    {
      const std::lock_guard lock(mutex_);
      if (open.file && open.number == number) return open.file;
    }
    const TokenFile& known = files_[number];
    auto file = std::make_shared<const InputFile>("TokenDataset", known.path);
    if (file->size() != known.bytes) {
      fail_runtime("TokenDataset: cannot read ", known.path, ": it has ", file->size(), " bytes, and had ",
                   known.bytes, " when the data set was opened");
    }
    const std::lock_guard lock(mutex_);
    open = {number, file};
    return file;
  }

  std::vector<TokenFile> files_;
  int64_t vocab_size_ = 0;
  mutable std::mutex mutex_;  // of what is open
  mutable std::array<Open, 64> open_;
};

std::vector<std::string> matching_files(const std::string& path) {
  std::error_code error;
  const bool pattern = path.find_first_of("*?[") != path.npos && path.find('\0') == path.npos;
  if (!pattern || fs::exists(path, error)) return {path};
  struct Matches : glob_t {
    ~Matches() { ::globfree(this); }
  } matches = {};
  const int status = ::glob(path.c_str(), GLOB_NOSORT | GLOB_ERR, nullptr, &matches);
  if (status == GLOB_NOMATCH) fail_runtime("TokenDataset: no file matches ", path);
  if (status != 0) fail_runtime("TokenDataset: cannot list the files that match ", path);
  std::vector<std::string> files(matches.gl_pathv, matches.gl_pathv + matches.gl_pathc);
  std::ranges::sort(files);  // by bytes, whatever the locale
  return files;
}

}  // namespace

bool is_token_file(const std::string& path) {
  return path.ends_with(".bin") || is_llmc_file(header_of(InputFile("CharDataset", path)));
}

TokenFiles open_token_files(const std::string& path, std::optional<int64_t> vocab_size) {
  const auto source = std::make_shared<const FileTokens>(matching_files(path), vocab_size);
  TokenFiles files{source, {}, source->vocab_size()};
  for (const TokenFile& file : source->files()) files.sizes.push_back(file.count());
  return files;
}

}  // namespace altgrad::detail
