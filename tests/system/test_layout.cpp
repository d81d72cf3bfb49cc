// Keeps the house in order by reading its files: includes point one way (core <- autograd <- nn <- fp8;
// models stands on nn and does not know fp8), dependencies stay where they belong, the umbrella is complete,
// no file grows too long. The rules are functions from a tree of files to its faults, so that made-up trees can show
// that they find something.
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
using Tree = std::map<std::string, std::string>;  // texts by their paths from the root

const fs::path root = ALTGRAD_SOURCE_DIR;
constexpr long max_lines = 450;
constexpr size_t max_readers = 8;  // sources that see a kernel's declaration

// What each folder may include, and the umbrella.
const std::map<std::string, std::set<std::string>> layers = {
    {"core", {"core"}},
    {"autograd", {"core", "autograd"}},
    {"nn", {"core", "autograd", "nn"}},
    {"fp8", {"core", "autograd", "nn", "fp8"}},
    {"models", {"core", "autograd", "nn", "models"}},
    {"altgrad.h", {"core", "autograd", "nn", "fp8", "models"}},
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
      pcre2(R"(pcre2\.h)"), cuda(R"((cu|nv)[a-z_A-Z0-9]*\.(h|hpp|cuh)|(thrust|cub|cuda)/.*)");
  const bool source = !is_header(path);
  if (std::regex_match(name, eigen)) return path.starts_with("core/cpu/") || path == "core/eigen.h";
  if (std::regex_match(name, cuda)) return path.starts_with("core/cuda/");
  if (std::regex_match(name, openmp)) return (source || is_private(path)) && path.starts_with("core/");
  if (std::regex_match(name, pcre2)) return path == "models/pattern.cpp";
  if (std::regex_match(name, json))
    return source && !path.starts_with("core/") && !path.starts_with("autograd/");
  return true;
}

// Faults in what the files include.
Faults include_faults(const Tree& tree) {
  Faults faults;
  for (const auto& [path, text] : tree) {
    auto fault = [&, &path = path](const std::string& what) { faults.push_back(path + ": " + what); };
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
        if (!tree.contains(own)) fault("includes " + include + ", which does not exist");
        if (is_header(path) && !is_private(path) && is_private(own))
          fault("is public, includes private " + include);
      }
    }
    if (is_header(path) && text.find("#pragma once") == std::string::npos) fault("has no #pragma once");
  }
  return faults;
}

// The files that are reached from one of them by what they include.
std::set<std::string> reached_from(const std::string& path, const Tree& tree) {
  std::set<std::string> reached;
  std::vector<std::string> open = {path};
  while (!open.empty()) {
    const std::string file = open.back();
    open.pop_back();
    if (!tree.contains(file) || !reached.insert(file).second) continue;
    for (const std::string& include : includes_of(tree.at(file)))
      if (include.starts_with("<altgrad/")) open.push_back(include.substr(9, include.size() - 10));
  }
  return reached;
}

// Headers that declare kernels and are read by more sources than they should be, by way of other headers too.
Faults reader_faults(const Tree& tree) {
  std::map<std::string, size_t> readers;
  for (const auto& [path, text] : tree) {
    if (is_header(path)) continue;
    for (const std::string& name : reached_from(path, tree)) ++readers[name];
  }
  Faults faults;
  for (const auto& [name, count] : readers) {
    if (name.find("internal/kernels") != std::string::npos && count > max_readers)
      faults.push_back(name + " is read by " + std::to_string(count) + " sources");
  }
  return faults;
}

// Public headers that <altgrad/altgrad.h> does not bring.
Faults umbrella_faults(const Tree& tree) {
  const std::set<std::string> reached = reached_from("altgrad.h", tree);
  Faults faults;
  for (const auto& [path, text] : tree)
    if (is_header(path) && !is_private(path) && !reached.contains(path)) faults.push_back(path);
  return faults;
}

// Functions of <bit> that count bits, where GPUs run them: nvcc makes constants of them there, without a word.
Faults device_faults(const Tree& tree) {
  static const std::regex counting(
      "std::(countl_|countr_|popcount|bit_width|bit_floor|bit_ceil|has_single_bit)");
  Faults faults;
  for (const auto& [path, text] : tree) {
    const bool device_code =
        path.ends_with(".cu") || (is_header(path) && text.find("AG_HD") != std::string::npos);
    std::smatch found;
    if (device_code && std::regex_search(text, found, counting))
      faults.push_back(path + " calls " + found.str());
  }
  return faults;
}

// All C++ files in folders, or files.
Tree read_tree(std::initializer_list<const char*> places) {
  Tree tree;
  const auto add = [&](const fs::path& path) {
    const std::string extension = path.extension().string();
    if (extension == ".h" || extension == ".cpp" || extension == ".cu" || extension == ".cuh")
      tree[fs::relative(path, root).generic_string()] = read(path);
  };
  for (const char* place : places) {
    if (fs::is_directory(root / place)) {
      for (const auto& entry : fs::recursive_directory_iterator(root / place)) add(entry.path());
    } else {
      add(root / place);
    }
  }
  return tree;
}
Tree library() { return read_tree({"core", "autograd", "nn", "fp8", "models", "altgrad.h"}); }

std::string lines(const Faults& faults) {
  std::string all;
  for (const std::string& fault : faults) all += fault + "\n";
  return all;
}

}  // namespace

TEST_CASE("includes point one way and dependencies stay in their places", "[layout]") {
  const Tree tree = library();
  const Faults faults = include_faults(tree);
  INFO(lines(faults));
  CHECK(faults.empty());
  CHECK(tree.size() >= 50);
  CHECK(tree.contains("altgrad.h"));
}

TEST_CASE("a kernel's signature is read by few files, so that a change of it rebuilds few", "[layout]") {
  const Tree tree = library();
  const Faults faults = reader_faults(tree);
  INFO(lines(faults));
  CHECK(faults.empty());
  const auto headers = std::ranges::count_if(tree, [](const auto& file) {
    return is_header(file.first) && file.first.find("internal/kernels") != std::string::npos;
  });
  CHECK(headers >= 9);
}

TEST_CASE("device code counts no bits by <bit>", "[layout]") {
  const Faults faults = device_faults(library());
  INFO(lines(faults));
  CHECK(faults.empty());
  CHECK(device_faults({{"core/a.cu", "std::bit_width(m)"}}).size() == 1);
  CHECK(device_faults({{"core/a.h", "AG_HD int f() { return std::countl_zero(u); }"}}).size() == 1);
}

TEST_CASE("the layout rules find what they are for", "[layout]") {
  const std::string once = "#pragma once\n";
  const Tree house = {{"core/a.h", once},
                      {"core/tensor.h", once},
                      {"core/cpu/parallel.h", once},
                      {"core/internal/kernels/optim.h", once},
                      {"autograd/tape.h", once},
                      {"nn/module.h", once},
                      {"fp8/format.h", once},
                      {"models/gpt.h", once},
                      {"altgrad.h", once}};
  REQUIRE(include_faults(house).empty());
  const auto faults_with = [&](const char* path, const std::string& text) {
    Tree tree = house;
    tree[path] = text;
    return include_faults(tree);
  };
  const auto found = [&](const char* path, const char* text) {
    return faults_with(path, once + text).size() == 1;
  };
  CHECK(found("core/b.h", "#include <altgrad/autograd/tape.h>\n"));
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
  CHECK(found("models/a.cpp", "#include <pcre2.h>\n"));
  CHECK(found("altgrad.h", "#include <altgrad/core/internal/kernels/optim.h>\n"));
  CHECK(found("altgrad.h", "#include <altgrad/core/no_such_file.h>\n"));
  CHECK(faults_with("core/b.h", "int b;\n").size() == 1);

  CHECK(faults_with("core/eigen.h", once + "#include <Eigen/Core>\n").empty());
  CHECK(faults_with("nn/a.cpp", "#include <nlohmann/json.hpp>\n#include <cstdio>\n").empty());
  CHECK(faults_with("models/pattern.cpp", "#include <pcre2.h>\n").empty());
  CHECK(faults_with("fp8/a.cpp", "#include <altgrad/nn/module.h>\n// #include <altgrad/models/gpt.h>\n")
            .empty());
  CHECK(faults_with("nn/a.cpp", "#include <altgrad/core/internal/kernels/optim.h>\n").empty());
}

TEST_CASE("a kernel's header that is read by one source too many is found, and a header nobody brings",
          "[layout]") {
  Tree tree = {{"core/internal/kernels/gemm.h", ""},
               {"autograd/internal/common.h", "#include <altgrad/core/internal/kernels/gemm.h>\n"}};
  for (size_t i = 0; i < max_readers; ++i) {
    CHECK(reader_faults(tree).empty());
    tree["autograd/a" + std::to_string(i) + ".cpp"] =
        i % 2 ? "#include <altgrad/core/internal/kernels/gemm.h>\n"
              : "#include <altgrad/autograd/internal/common.h>\n";
  }
  CHECK(reader_faults(tree).empty());
  tree["nn/one_too_many.cpp"] = "#include <altgrad/autograd/internal/common.h>\n";
  CHECK(reader_faults(tree) == Faults{"core/internal/kernels/gemm.h is read by 9 sources"});

  tree["core/tensor.h"] = "#include <altgrad/core/shape.h>\n";
  tree["core/shape.h"] = "";
  tree["nn/forgotten.h"] = "";
  tree["altgrad.h"] = "#include <altgrad/core/tensor.h>\n";
  CHECK(umbrella_faults(tree) == Faults{"nn/forgotten.h"});
}

TEST_CASE("altgrad.h brings every public header but the Eigen interop", "[layout]") {
  const Tree tree = library();
  CHECK(umbrella_faults(tree) == Faults{"core/eigen.h"});

  // A shared library lets out what public headers declare, and nothing else: core/export.h.
  Faults wrong;
  for (const std::string& path : reached_from("altgrad.h", tree)) {
    const std::string& text = tree.at(path);
    const bool declares = text.find("\nnamespace altgrad") != std::string::npos;
    const bool is_exported = text.find("\nALTGRAD_API_BEGIN\nnamespace altgrad") != std::string::npos &&
                             text.ends_with("\nALTGRAD_API_END\n");
    if (declares && !is_exported)
      wrong.push_back(path + ": not between ALTGRAD_API_BEGIN and _END (core/export.h)");
  }
  INFO(lines(wrong));
  CHECK(wrong.empty());
}

TEST_CASE("no file is longer than a room", "[layout]") {
  Faults long_files;
  for (const auto& [path, text] :
       read_tree({"core", "autograd", "nn", "fp8", "models", "tests", "examples"})) {
    const long count = std::count(text.begin(), text.end(), '\n');
    if (count > max_lines) long_files.push_back(path + ": " + std::to_string(count) + " lines");
  }
  INFO(lines(long_files));
  CHECK(long_files.empty());
}

TEST_CASE("each folder says what lives there", "[layout]") {
  for (const char* folder :
       {"core", "core/cpu", "autograd", "nn", "fp8", "models", "tests", "tests/bench", "examples"}) {
    CAPTURE(folder);
    CHECK(fs::exists(root / folder / "README.md"));
  }
}

TEST_CASE("tests lie in folders, where CMake looks for them", "[layout]") {
  size_t found = 0;
  for (const auto& [path, text] : read_tree({"tests"})) {
    if (!fs::path(path).filename().string().starts_with("test_")) continue;
    ++found;
    CAPTURE(path);
    CHECK(std::count(path.begin(), path.end(), '/') == 2);
  }
  CHECK(found >= 60);
}
