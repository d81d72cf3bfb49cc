// Keeps the house in order by reading its files: includes point one way (core <- autograd <- nn <- fp8;
// models stands on nn and does not know fp8), dependencies stay where they belong, the umbrella is complete,
// no file grows too long. The rules are one function from a file's path and text to its faults, so that they
// can be shown to find something.
#include <algorithm>
#include <filesystem>
#include <fstream>
#include <map>
#include <regex>
#include <set>
#include <sstream>
#include <string>
#include <vector>

#include "catch.h"

namespace {

namespace fs = std::filesystem;

using Faults = std::vector<std::string>;

const fs::path root = ALTGRAD_SOURCE_DIR;
constexpr long max_lines = 450;

// What each folder may include.
const std::map<std::string, std::set<std::string>> layers = {
    {"core", {"core"}},
    {"autograd", {"core", "autograd"}},
    {"nn", {"core", "autograd", "nn"}},
    {"fp8", {"core", "autograd", "nn", "fp8"}},
    {"models", {"core", "autograd", "nn", "models"}},
};

std::string read(const fs::path& path) {
  std::ostringstream text;
  text << std::ifstream(path).rdbuf();
  return text.str();
}

// The files an #include names, with their brackets or quotes.
std::vector<std::string> includes_of(const std::string& text) {
  static const std::regex include(R"((?:^|\n)[ \t]*#[ \t]*include[ \t]*([<"][^>"\n]+[>"]))");
  std::vector<std::string> names;
  for (std::sregex_iterator it(text.begin(), text.end(), include), end; it != end; ++it)
    names.push_back((*it)[1]);
  return names;
}

bool is_header(const std::string& path) { return path.ends_with(".h"); }
// Private headers are not installed.
bool is_private(const std::string& path) {
  return path.starts_with("core/cpu/") || path.starts_with("core/cuda/") ||
         path.find("/internal/") != std::string::npos;
}

// May the library's file `path` include <name>, which is not one of altgrad's own?
bool dependency_allowed(const std::string& path, const std::string& name) {
  static const std::regex eigen("(Eigen|unsupported)/.*"), json("nlohmann/.*"), openmp(R"(omp\.h)"),
      cuda(R"((cu|nv)[a-z_A-Z0-9]*\.(h|hpp|cuh)|(thrust|cub|cuda)/.*)");
  const bool source = !is_header(path);
  if (std::regex_match(name, eigen)) return path.starts_with("core/cpu/") || path == "core/eigen.h";
  if (std::regex_match(name, cuda)) return path.starts_with("core/cuda/");
  if (std::regex_match(name, openmp)) return (source || is_private(path)) && path.starts_with("core/");
  if (std::regex_match(name, json))
    return source && !path.starts_with("core/") && !path.starts_with("autograd/");
  return true;
}

Faults faults_of(const std::string& path, const std::string& text) {
  Faults faults;
  auto fault = [&](const std::string& what) { faults.push_back(path + ": " + what); };
  const std::set<std::string>& allowed = layers.at(path.substr(0, path.find('/')));
  for (const std::string& include : includes_of(text)) {
    const std::string name = include.substr(1, include.size() - 2);
    if (include.front() == '"') {
      fault("includes " + include + ", not as <altgrad/FOLDER/FILE.h>");
    } else if (!name.starts_with("altgrad/")) {
      if (!dependency_allowed(path, name)) fault("must not include " + include);
    } else {
      const std::string own = name.substr(8);
      if (!allowed.contains(own.substr(0, own.find('/'))))
        fault("includes " + include + ": the arrow points up");
      if (!fs::exists(root / own)) fault("includes " + include + ", which does not exist");
      if (is_header(path) && !is_private(path) && is_private(own))
        fault("is public, includes private " + include);
    }
  }
  if (is_header(path) && text.find("#pragma once") == std::string::npos) fault("has no #pragma once");
  return faults;
}

// All C++ files in a folder, as paths from the root.
std::set<std::string> files_in(const std::string& folder) {
  std::set<std::string> files;
  for (const auto& entry : fs::recursive_directory_iterator(root / folder)) {
    const std::string extension = entry.path().extension().string();
    if (extension == ".h" || extension == ".cpp" || extension == ".cu" || extension == ".cuh") {
      files.insert(fs::relative(entry.path(), root).generic_string());
    }
  }
  return files;
}

std::string lines(const Faults& faults) {
  std::string all;
  for (const std::string& fault : faults) all += fault + "\n";
  return all;
}

}  // namespace

TEST_CASE("includes point one way and dependencies stay in their places", "[layout]") {
  Faults faults;
  size_t count = 0;
  for (const auto& [folder, allowed] : layers) {
    for (const std::string& path : files_in(folder)) {
      ++count;
      for (std::string& fault : faults_of(path, read(root / path))) faults.push_back(std::move(fault));
    }
  }
  INFO(lines(faults));
  CHECK(faults.empty());
  CHECK(count >= 50);
}

TEST_CASE("a kernel's signature is read by few files, so that a change of it rebuilds few", "[layout]") {
  std::map<std::string, std::set<std::string>> readers;  // of each header, by way of other headers too
  for (const auto& [folder, allowed] : layers) {
    for (const std::string& path : files_in(folder)) {
      if (is_header(path)) continue;
      std::set<std::string> seen;
      std::vector<std::string> open = {path};
      while (!open.empty()) {
        const std::string file = open.back();
        open.pop_back();
        for (const std::string& include : includes_of(read(root / file))) {
          if (!include.starts_with("<altgrad/")) continue;
          const std::string name = include.substr(9, include.size() - 10);
          if (seen.insert(name).second) open.push_back(name);
        }
      }
      for (const std::string& name : seen) readers[name].insert(path);
    }
  }
  int headers = 0;
  for (const auto& [name, files] : readers) {
    if (name.find("internal/kernels") == std::string::npos) continue;
    CAPTURE(name, files.size());
    CHECK(files.size() <= 8);
    ++headers;
  }
  CHECK(headers >= 9);
}

TEST_CASE("the layout rules find what they are for", "[layout]") {
  auto found = [](const char* path, const char* text) {
    return faults_of(path, std::string("#pragma once\n") + text).size() == 1;
  };
  CHECK(found("core/a.h", "#include <altgrad/autograd/tape.h>\n"));
  CHECK(found("autograd/a.cpp", "  #  include <altgrad/nn/module.h>\n"));
  CHECK(found("nn/a.h", "#include <altgrad/fp8/format.h>\n"));
  CHECK(found("models/a.cpp", "#include <altgrad/fp8/format.h>\n"));
  CHECK(found("fp8/a.cpp", "#include <altgrad/models/gpt.h>\n"));
  CHECK(found("nn/a.cpp", "#include <altgrad/altgrad.h>\n"));
  CHECK(found("nn/a.cpp", "#include \"module.h\"\n"));
  CHECK(found("nn/a.cpp", "#include <altgrad/nn/no_such_file.h>\n"));
  CHECK(found("core/tensor.h", "#include <altgrad/core/cpu/parallel.h>\n"));
  CHECK(found("nn/optim.h", "#include <altgrad/core/internal/kernels/optim.h>\n"));
  CHECK(found("core/tensor.h", "#include <Eigen/Core>\n"));
  CHECK(found("nn/a.cpp", "#include <Eigen/Core>\n"));
  CHECK(found("core/tensor.h", "#include <cuda_runtime.h>\n"));
  CHECK(found("core/memory.cpp", "#include <cublas_v2.h>\n"));
  CHECK(found("nn/a.h", "#include <nlohmann/json.hpp>\n"));
  CHECK(found("core/a.cpp", "#include <nlohmann/json.hpp>\n"));
  CHECK(faults_of("core/a.h", "int a;\n").size() == 1);

  CHECK(faults_of("core/eigen.h", "#pragma once\n#include <Eigen/Core>\n").empty());
  CHECK(faults_of("nn/a.cpp", "#include <nlohmann/json.hpp>\n#include <cstdio>\n").empty());
  CHECK(
      faults_of("fp8/a.cpp", "#include <altgrad/nn/module.h>\n// #include <altgrad/models/gpt.h>\n").empty());
}

TEST_CASE("altgrad.h brings every public header but the Eigen interop", "[layout]") {
  std::set<std::string> reached;
  std::vector<std::string> open = {"altgrad.h"};
  while (!open.empty()) {
    const std::string path = open.back();
    open.pop_back();
    if (!reached.insert(path).second) continue;
    for (const std::string& include : includes_of(read(root / path))) {
      if (include.starts_with("<altgrad/")) open.push_back(include.substr(9, include.size() - 10));
    }
  }
  Faults missing;
  for (const auto& [folder, allowed] : layers) {
    for (const std::string& path : files_in(folder)) {
      if (is_header(path) && !is_private(path) && !reached.contains(path)) {
        missing.push_back(path);
      }
    }
  }
  CHECK(missing == Faults{"core/eigen.h"});

  // A shared library lets out what public headers declare, and nothing else: core/export.h.
  Faults wrong;
  for (const std::string& path : reached) {
    const std::string text = read(root / path);
    const bool declares = text.find("\nnamespace altgrad") != std::string::npos;
    const bool is_exported = text.find("\nALTGRAD_API_BEGIN\nnamespace altgrad") != std::string::npos &&
                             text.ends_with("\nALTGRAD_API_END\n");
    if (declares && !is_exported) wrong.push_back(path);
  }
  INFO(lines(wrong));
  CHECK(wrong.empty());
}

TEST_CASE("no file is longer than a room", "[layout]") {
  Faults long_files;
  for (const char* folder : {"core", "autograd", "nn", "fp8", "models", "tests", "examples"}) {
    for (const std::string& path : files_in(folder)) {
      const std::string text = read(root / path);
      const long count = std::count(text.begin(), text.end(), '\n');
      if (count > max_lines) long_files.push_back(path + ": " + std::to_string(count) + " lines");
    }
  }
  INFO(lines(long_files));
  CHECK(long_files.empty());
}
