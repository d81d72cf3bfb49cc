// The metrics of a run: JSON lines, and, where they are asked for, the same numbers as CSV and for TensorBoard.
#pragma once

#include <charconv>
#include <cstdint>
#include <fstream>
#include <nlohmann/json.hpp>
#include <optional>
#include <string>
#include <vector>

#include "run_file.h"
#include "svg.h"
#include "tensorboard.h"

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

// The bytes of a file's whole lines up to the first that is not to stay.
template <class F>
int64_t bytes_of_lines(const std::string& path, F&& stays) {
  std::ifstream in(path, std::ios::binary);
  if (!in) altgrad::fail_runtime("cannot read ", path, ": ", std::strerror(errno));
  int64_t kept = 0;
  for (std::string line; std::getline(in, line) && !in.eof() && stays(line);)
    kept += int64_t(line.size()) + 1;
  return kept;
}

class JsonLines {
 public:
  // Starts anew, or after the lines up to `resumed_step` where that is not 0. Lines that are not of this program stay
  // among them.
  JsonLines(std::string path, int64_t resumed_step)
      : file_(std::move(path), [&](const std::string& path) {
          return resumed_step == 0 ? 0 : bytes_of_lines(path, [&](const std::string& text) {
            const auto line = nlohmann::ordered_json::parse(text, nullptr, /*allow_exceptions=*/false);
            if (!line.is_object()) return true;
            const auto step = line.find("step");
            if (line.contains("final") || (step != line.end() && step->is_number() && *step > resumed_step))
              return false;
            curves.add(line);
            return true;
          });
        }) {}

  void begin() { file_.begin(); }
  void write(const nlohmann::ordered_json& line) {
    curves.add(line);
    file_.append(line.dump() + '\n');
  }

  LossCurves curves;  // so far; declared before the file, which adds to them

 private:
  RunFile file_;
};

// A line a step; a number that a step does not have is left empty.
class Csv {
 public:
  Csv(std::string path, int64_t resumed_step)
      : file_(std::move(path), [&](const std::string& path) {
          bool first = true;
          return resumed_step == 0 ? 0 : bytes_of_lines(path, [&](const std::string& line) {
            if (std::exchange(first, false)) return line == header();
            int64_t step = 0;
            const char* end = line.data() + line.size();
            return std::from_chars(line.data(), end, step).ec == std::errc() && step <= resumed_step;
          });
        }) {}

  void begin() {
    file_.begin();
    if (file_.begins_anew()) file_.append(header() + '\n');
  }

  void write(const nlohmann::ordered_json& line) {
    std::string row;
    for (const char* column : columns) {
      if (column != columns[0]) row += ',';
      if (line.contains(column)) row += line[column].dump();
    }
    file_.append(row + '\n');
  }

 private:
  static constexpr const char* columns[] = {"step", "train_loss",  "val_loss",
                                            "lr",   "ms_per_step", "tokens_per_s"};
  static std::string header() {
    std::string names;
    for (const char* column : columns) names.append(names.empty() ? "" : ",").append(column);
    return names;
  }
  RunFile file_;
};

class Metrics {
 public:
  // csv and tensorboard, a file and a folder, are empty where they are not asked for. All start anew, or after what they
  // hold up to `resumed_step` where that is not 0; where one of them cannot be had, all are as they were.
  Metrics(std::string json, const std::optional<std::string>& csv,
          const std::optional<std::string>& tensorboard, int64_t resumed_step)
      : json_(std::move(json), resumed_step) {
    if (csv) csv_.emplace(*csv, resumed_step);
    if (tensorboard) tensorboard_.emplace(*tensorboard, resumed_step);
    json_.begin();
    if (csv_) csv_->begin();
    if (tensorboard_) tensorboard_->begin();
  }

  // A step's numbers, or those of the whole run, which have "final".
  void write(const nlohmann::ordered_json& line) {
    json_.write(line);
    if (line.contains("final")) return;
    if (csv_) csv_->write(line);
    if (!tensorboard_) return;
    std::vector<std::pair<std::string, float>> scalars;
    for (const auto& [name, value] : line.items()) {
      if (name != "step") scalars.emplace_back(name, value.get<float>());
    }
    tensorboard_->write(line["step"].get<int64_t>(), scalars);
  }

  const LossCurves& curves() const { return json_.curves; }

 private:
  JsonLines json_;
  std::optional<Csv> csv_;
  std::optional<EventFile> tensorboard_;
};
