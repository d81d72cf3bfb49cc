// Makes the token files that a GPT is trained on: train.bin, val.bin, and meta.json, which says what the tokens are. Text
// is read once, in parts that are encoded side by side and written in their order, so that the bytes do not depend on
// the number of threads.
#include "encodings.h"
#include "progress.h"
#include "token_file.h"

#include <altgrad/core/parallel.h>

#include <CLI/CLI.hpp>
#include <algorithm>
#include <cmath>
#include <fstream>

namespace ag = altgrad;
namespace fs = std::filesystem;

namespace {

struct Options {
  std::string input, out = "data", tokenizer = "bytes";
  double val_fraction = 0.1;
  int64_t threads = 0;
};

// The file, or all files of a folder and those below it but hidden ones and `out`, by name.
std::vector<fs::path> texts(const std::string& input, const fs::path& out) {
  if (!fs::is_directory(input)) return {input};
  std::vector<fs::path> files;
  if (fs::equivalent(input, out)) ag::fail("--out ", out.string(), " is the folder of texts itself");
  for (auto entry = fs::recursive_directory_iterator(input); entry != fs::recursive_directory_iterator();
       ++entry) {
    const bool hidden = entry->path().filename().string().starts_with('.');
    if (entry->is_directory() && (hidden || fs::equivalent(entry->path(), out)))
      entry.disable_recursion_pending();
    if (entry->is_regular_file() && !hidden) files.push_back(entry->path());
  }
  std::sort(files.begin(), files.end());
  return files;
}

int64_t size_of(const std::vector<fs::path>& files) {
  int64_t bytes = 0;
  for (const fs::path& file : files) bytes += int64_t(fs::file_size(file));
  return bytes;
}

// How far it is: a line that is rewritten on a terminal, one every few seconds elsewhere.
class Meter {
 public:
  explicit Meter(int64_t bytes) : bytes_(bytes) {}
  ~Meter() {
    if (terminal_) std::printf("\r\033[K");
  }
  void update(int64_t done) {
    const auto now = std::chrono::steady_clock::now();
    const auto seconds = [&](auto since) { return std::chrono::duration<double>(now - since).count(); };
    if (seconds(drawn_) < (terminal_ ? 0.1 : 5.0)) return;
    drawn_ = now;
    const double rate = double(done) / seconds(start_);
    std::printf("%s%.0f of %.0f MB  %.1f MB/s  %s left%s", terminal_ ? "\r" : "", double(done) / 1e6,
                double(bytes_) / 1e6, rate / 1e6, duration_text(double(bytes_ - done) / rate).c_str(),
                terminal_ ? "\033[K" : "\n");
    std::fflush(stdout);
  }

 private:
  const bool terminal_ = isatty(STDOUT_FILENO);
  const int64_t bytes_;
  const std::chrono::steady_clock::time_point start_ = std::chrono::steady_clock::now();
  std::chrono::steady_clock::time_point drawn_ = start_;
};

// A folder that is made where it is missing, and taken away again where nothing came of it.
struct OutFolder {
  explicit OutFolder(const fs::path& path) : path(path), is_new(!fs::exists(path)) {
    std::error_code error;
    fs::create_directories(path, error);
    if (error) ag::fail_runtime("cannot write to ", path.string(), ": ", error.message());
  }
  ~OutFolder() {
    std::error_code error;
    if (is_new) fs::remove(path, error);  // which it does to empty ones alone
  }
  const fs::path path;
  const bool is_new;
};

class Preparation {
 public:
  explicit Preparation(const Options& o)
      : o(o),
        encoding_(encoding(o.tokenizer)),
        folder_(o.out),
        files_(texts(o.input, o.out)),
        total_(size_of(files_)),
        train_{{folder_.path / "train.bin", encoding_->wide()}},
        val_{{folder_.path / "val.bin", encoding_->wide()}} {}

  void run() {
    if (total_ == 0) ag::fail(o.input, " has no text");
    // As nanoGPT splits, by bytes; the character at that place is the first one of val.
    boundary_ = int64_t(double(total_) * (1 - o.val_fraction));
    for (size_t i = 0; i < files_.size(); ++i) {
      if (i > 0) add({.split = &split_at(read_), .tokens = encoding_->separator()});
      read(files_[i]);
    }
    encode_and_write();
    write_meta();
  }

 private:
  struct Split {
    TokenFile file;
    int64_t bytes = 0;
  };
  struct Part {
    Split* split;
    const fs::path* file = nullptr;
    std::string text = {};
    std::vector<uint32_t> tokens = {};
  };
  static constexpr size_t part_bytes = 1 << 20;

  Split& split_at(int64_t byte) { return byte < boundary_ ? train_ : val_; }

  // A text in parts, the last of train ending where val begins.
  void read(const fs::path& path) {
    std::ifstream in(path, std::ios::binary);
    const int64_t end = read_ + int64_t(fs::file_size(path));
    std::string text;
    while (read_ < end) {
      Split& split = split_at(read_);
      const int64_t stop = &split == &train_ ? std::min(end, boundary_) : end;
      const size_t old = text.size(), more = size_t(std::min(stop - read_, int64_t(part_bytes)));
      text.resize(old + more);
      if (!in.read(text.data() + old, std::streamsize(more))) ag::fail_runtime("cannot read ", path.string());
      read_ += int64_t(more);
      if (read_ == boundary_ && read_ < end && (in.peek() & 0xC0) == 0x80) {  // within a character
        ++boundary_;
        continue;
      }
      const size_t cut = read_ == stop ? text.size() : encoding_->cut(text, old);
      if (cut == 0) continue;
      split.bytes += int64_t(cut);
      add({.split = &split, .file = &path, .text = text.substr(0, cut)});
      text.erase(0, cut);
    }
  }

  void add(Part part) {
    parts_.push_back(std::move(part));
    if (parts_.size() >= size_t(4 * ag::num_threads())) encode_and_write();
  }

  void encode_and_write() {
    ag::parallel_for(int64_t(parts_.size()), 1, [&](int64_t begin, int64_t end) {
      for (int64_t i = begin; i < end; ++i) {
        Part& part = parts_[size_t(i)];
        if (part.file) encode(part);
      }
    });
    for (Part& part : parts_) {
      if (part.file) encoding_->number(part.tokens);
      part.split->file.append(part.tokens);
    }
    parts_.clear();
    meter_.update(read_);
  }

  void encode(Part& part) const {
    try {
      part.tokens = encoding_->encode(part.text);
    } catch (const std::invalid_argument& error) {
      ag::fail(part.file->string(), ": ", error.what());
    }
  }

  // All three files are complete before the first gets its name.
  void write_meta() {
    nlohmann::ordered_json meta;
    encoding_->describe(meta);
    meta["dtype"] = encoding_->wide() ? "uint32" : "uint16";
    meta["texts"] = files_.size();
    for (const auto& [name, split] : {std::pair{"train", &train_}, {"val", &val_}}) {
      meta[name] = {{"tokens", split->file.count()}, {"bytes", split->bytes}};
      std::printf("%s.bin: %ld tokens of %ld bytes\n", name, long(split->file.count()), long(split->bytes));
    }
    const std::string text = meta.dump(2) + "\n";
    NewFile meta_file(folder_.path / "meta.json");
    meta_file.write(0, text.data(), text.size());
    meta_file.sync();
    train_.file.finish();
    val_.file.finish();
    train_.file.rename();
    val_.file.rename();
    meta_file.rename();
    std::printf("vocabulary %ld, %s: %s\n", meta["vocab_size"].get<long>(),
                meta["dtype"].get<std::string>().c_str(), folder_.path.c_str());
  }

  const Options o;
  const std::unique_ptr<Encoding> encoding_;
  const OutFolder folder_;
  const std::vector<fs::path> files_;
  const int64_t total_;  // bytes
  Meter meter_{total_};
  Split train_, val_;
  std::vector<Part> parts_;
  int64_t boundary_ = 0, read_ = 0;
};

}  // namespace

int main(int argc, char** argv) {
  CLI::App app("Makes token files of text: train.bin, val.bin and meta.json.", "prepare");
  Options options;
  app.add_option("input", options.input,
                 "a text, or a folder whose files are texts (by name, but for hidden ones)")
      ->required()
      ->check(CLI::ExistingPath);
  app.add_option("--out", options.out, "folder for the three files; those there are replaced")
      ->capture_default_str();
  app.add_option("--tokenizer", options.tokenizer,
                 "bytes; characters; a folder with vocab.json and merges.txt; a tokenizer.json; or a file of "
                 "ranks with "
                 "GPT-2's pattern")
      ->capture_default_str();
  app.add_option("--val-fraction", options.val_fraction, "of the bytes, the last ones, that go to val.bin")
      ->check([](const std::string& text) {
        const double value = std::strtod(text.c_str(), nullptr);
        return value >= 0 && value < 1 ? "" : ag::concat("must be in [0, 1), got ", text);
      })
      ->capture_default_str();
  app.add_option("--threads", options.threads, "default: all cores")->check(CLI::Range(1, 1024));
  try {
    app.parse(argc, argv);
    if (options.threads > 0) ag::set_num_threads(int(options.threads));
    Preparation(options).run();
    return 0;
  } catch (const CLI::ParseError& error) {
    if (error.get_exit_code() == 0) return app.exit(error);  // --help
    std::fprintf(stderr, "prepare: %s\n", error.what());
    return 2;
  } catch (const std::exception& error) {
    std::fprintf(stderr, "prepare: %s\n", error.what());
    return 1;
  }
}
