// The metrics of a run as JSON lines. Each is appended by one write, so that a kill leaves whole lines. A resumed run
// keeps the lines up to its checkpoint where they are and cuts off what came after it, so that the file reads like
// one run that never stopped, whenever it is looked at.
#pragma once

#include <sys/stat.h>

#include <cstdint>
#include <fstream>
#include <nlohmann/json.hpp>
#include <string>
#include <vector>

#include "run_folder.h"
#include "svg.h"

// The curves that a run's lines hold.
struct LossCurves {
  std::vector<Point> train, val;

  // Lines that are not of train_gpt have none of the numbers; the last line of a run has none of its steps.
  void add(const nlohmann::ordered_json& line) {
    const auto number = [&](const char* key) { return line.contains(key) && line[key].is_number(); };
    if (!line.is_object() || !number("step") || line.contains("final")) return;
    for (const auto& [curve, key] : {std::pair{&train, "train_loss"}, std::pair{&val, "val_loss"}})
      if (number(key)) curve->push_back({line["step"].get<double>(), line[key].get<double>()});
  }
};

class Metrics {
 public:
  // Locks the file, and starts it anew, or after the lines it holds up to `resumed_step` where that is not 0. Throws
  // std::runtime_error where it cannot be written, or another trainer writes there.
  Metrics(std::string path, int64_t resumed_step)
      : path_(std::move(path)),
        file_(::open(path_.c_str(), O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0666)) {
    struct stat info = {};
    if (file_.fd < 0 || ::fstat(file_.fd, &info) != 0) refuse();
    // A pipe or a terminal has nothing to keep or to cut; what the shell has opened is not ours to cut.
    if (!S_ISREG(info.st_mode) || path_.starts_with("/dev/") || path_.starts_with("/proc/")) return;
    if (::flock(file_.fd, LOCK_EX | LOCK_NB) != 0) {
      if (errno == EWOULDBLOCK) altgrad::fail_runtime(path_, ": another train_gpt writes there");
      refuse();
    }
    const int64_t kept = resumed_step > 0 ? keep(resumed_step) : 0;
    if (::ftruncate(file_.fd, kept) != 0) refuse();
  }

  void write(const nlohmann::ordered_json& line) {
    curves.add(line);
    const std::string text = line.dump() + '\n';
    for (size_t done = 0; done < text.size();) {
      const ssize_t written = ::write(file_.fd, text.data() + done, text.size() - done);
      if (written < 0 && errno == EINTR) continue;
      if (written < 0) refuse();
      done += size_t(written);
    }
  }

  LossCurves curves;  // so far

 private:
  // Remembers the lines up to that step; the bytes they take. Lines that are not of this program stay among them.
  int64_t keep(int64_t resumed_step) {
    std::ifstream in(path_, std::ios::binary);
    if (!in) refuse();
    int64_t kept = 0;
    for (std::string text; std::getline(in, text) && !in.eof(); kept += int64_t(text.size()) + 1) {
      const auto line = nlohmann::ordered_json::parse(text, nullptr, /*allow_exceptions=*/false);
      if (!line.is_object()) continue;
      const auto step = line.find("step");
      if (line.contains("final") || (step != line.end() && step->is_number() && *step > resumed_step)) break;
      curves.add(line);
    }
    return kept;
  }

  [[noreturn]] void refuse() const {
    altgrad::fail_runtime("cannot write ", path_, ": ", std::strerror(errno));
  }
  const std::string path_;
  const Descriptor file_;
};
