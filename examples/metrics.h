// The metrics of a run as JSON lines, flushed line by line. A resumed run keeps the lines up to its
// checkpoint and drops what came after it, so that the file reads like one run that never stopped.
#pragma once

#include <cerrno>
#include <cstring>
#include <fstream>
#include <nlohmann/json.hpp>
#include <stdexcept>
#include <string>
#include <vector>

#include "svg.h"

class Metrics {
 public:
  // Starts the file anew, or with the lines it holds up to `resumed_step` where that is not 0. Throws
  // std::runtime_error where the file cannot be written.
  Metrics(std::string path, int64_t resumed_step) : path_(std::move(path)) {
    std::vector<nlohmann::ordered_json> kept;
    if (resumed_step > 0) {
      std::ifstream in(path_);
      for (std::string text; std::getline(in, text);) {
        const auto line = nlohmann::ordered_json::parse(text, nullptr, /*allow_exceptions=*/false);
        if (!line.is_object() || line.contains("final") ||
            line.value("step", resumed_step + 1) > resumed_step)
          break;
        kept.push_back(line);
      }
    }
    out_.open(path_, std::ios::trunc);
    for (const auto& line : kept) write(line);
    if (!out_) refuse();
  }

  void write(const nlohmann::ordered_json& line) {
    if (!line.contains("final")) {
      const double step = line.at("step").get<double>();
      train.push_back({step, line.at("train_loss").get<double>()});
      if (line.contains("val_loss")) val.push_back({step, line.at("val_loss").get<double>()});
    }
    if (!(out_ << line.dump() << std::endl)) refuse();
  }

  std::vector<Point> train, val;  // the curves so far

 private:
  [[noreturn]] void refuse() const {
    throw std::runtime_error("cannot write " + path_ + ": " + std::strerror(errno));
  }
  std::string path_;
  std::ofstream out_;
};
