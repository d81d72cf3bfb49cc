// Headers first: all that can be wrong with a folder but its numbers is found before the model is made. Then each
// tensor is read to its place, the transposed ones in pieces that stay in the cache.
#include <altgrad/core/internal/utf8.h>
#include <altgrad/models/gpt2.h>
#include <altgrad/models/internal/gpt2_folder.h>
#include <altgrad/nn/init.h>

#include <algorithm>
#include <array>
#include <cstring>
#include <filesystem>
#include <set>

namespace altgrad::models {
namespace detail {
namespace {

namespace fs = std::filesystem;
using altgrad::detail::in_quotes;
using altgrad::detail::InputFile;

constexpr int64_t piece = 1 << 16;          // numbers that are read at once, on their way to another place
constexpr int64_t most_text = 100'000'000;  // bytes of JSON, as of a header

std::string read_text(const std::string& path) {
  const InputFile file("load_gpt2", path);
  if (file.size() > most_text) fail(path, ": has ", file.size(), " bytes, at most ", most_text, " are read");
  std::string text(size_t(file.size()), '\0');
  file.read(0, text.data(), text.size());
  return text;
}

// f, with the file in front of what it says is wrong.
template <class F>
auto about(const std::string& path, F f) try {
  return f();
} catch (const std::invalid_argument& e) {
  fail(path, ": ", e.what());
}

// The N and the rest of "h.N.rest", as they stand there; empty where the name is another.
std::pair<std::string_view, std::string_view> layer_of(std::string_view name) {
  if (!name.starts_with("h.")) return {};
  const size_t dot = name.find('.', 2);
  if (dot == name.npos) return {};
  return {name.substr(2, dot - 2), name.substr(dot + 1)};
}

bool is_mask(std::string_view name, const Shape& shape) {
  const std::string_view rest = layer_of(name).second;
  return rest == "attn.masked_bias" || (rest == "attn.bias" && shape.dim() == 4);
}

// A few of the names, for an error.
std::string listed(const char* what, const std::vector<std::string>& names) {
  constexpr size_t most = 8;
  std::string text;
  for (size_t i = 0; i < std::min(names.size(), most); ++i) text += concat("\n  ", what, ": ", names[i]);
  if (names.size() > most) text += concat("\n  and ", names.size() - most, " more that are ", what);
  return text;
}

// to (columns, rows), of which a row is `stride` long, from (rows, columns). By squares of 4 x 4, which compilers make
// shuffles of, and rows of `to` that come next are asked for early: twice as fast as number by number.
void transpose(float* to, int64_t stride, const float* from, int64_t rows, int64_t columns) {
  constexpr int64_t n = 4, ahead = 16, line = 16;
  const int64_t whole_rows = rows / n * n, whole_columns = columns / n * n;
  for (int64_t c = 0; c < whole_columns; c += n) {
    for (int64_t i = c + ahead; i < std::min(c + ahead + n, columns); ++i)
      for (int64_t r = 0; r < rows; r += line) __builtin_prefetch(to + i * stride + r, 1);
    for (int64_t r = 0; r < whole_rows; r += n) {
      float square[n][n];
      for (int64_t i = 0; i < n; ++i) std::memcpy(square[i], from + (r + i) * columns + c, sizeof square[i]);
      for (int64_t i = 0; i < n; ++i) {
        const float row[n] = {square[0][i], square[1][i], square[2][i], square[3][i]};
        std::memcpy(to + (c + i) * stride + r, row, sizeof row);
      }
    }
  }
  for (int64_t r = 0; r < rows; ++r)
    for (int64_t c = r < whole_rows ? whole_columns : 0; c < columns; ++c)
      to[c * stride + r] = from[r * columns + c];
}

}  // namespace

bool is_conv1d(std::string_view name) {
  constexpr std::array names = {".attn.c_attn.weight", ".attn.c_proj.weight", ".mlp.c_fc.weight",
                                ".mlp.c_proj.weight"};
  return std::ranges::any_of(names, [&](const char* end) { return name.ends_with(end); });
}

std::vector<Parameter> parameters_of(const GPTConfig& config) {
  const int64_t c = config.n_embd;
  std::vector<Parameter> all = {{"wte.weight", {config.vocab_size, c}},
                                {"wpe.weight", {config.block_size, c}}};
  const auto add = [&](const std::string& name, std::initializer_list<int64_t> weight) {
    all.push_back({name + ".weight", weight});
    all.push_back({name + ".bias", {*weight.begin()}});
  };
  for (int64_t i = 0; i < config.n_layer; ++i) {
    const std::string h = concat("h.", i, ".");
    add(h + "ln_1", {c});
    add(h + "attn.c_attn", {3 * c, c});
    add(h + "attn.c_proj", {c, c});
    add(h + "ln_2", {c});
    add(h + "mlp.c_fc", {4 * c, c});
    add(h + "mlp.c_proj", {c, 4 * c});
  }
  add("ln_f", {c});
  return all;
}

Weights::Weights(const std::string& folder) {
  const std::string single = fs::path(folder) / weights_name, index_path = fs::path(folder) / index_name;
  if (fs::exists(single)) {
    open(single);
    add(*files_.back());
    return;
  }
  if (!fs::exists(index_path))
    fail_runtime("load_gpt2: cannot read ", folder, ": it has neither ", weights_name, " nor ", index_name);
  about(index_path, [&] {
    const auto index = parse_index(read_text(index_path));
    std::set<std::string> names, found;
    for (const auto& [tensor, file] : index) names.insert(file);
    for (const std::string& name : names) {
      open(fs::path(folder) / name);
      for (const File::Entry& e : files_.back()->tensors()) {
        const std::string tensor((*files_.back())[e.name]);
        const auto known = index.find(tensor);
        if (known == index.end()) fail(name, " holds ", in_quotes(tensor), ", which the index does not list");
        if (known->second != name)
          fail(name, " holds ", in_quotes(tensor), ", which the index says is in ", known->second);
        found.insert(tensor);
      }
    }
    for (const auto& [tensor, name] : index)
      if (!found.contains(tensor))
        fail("says that ", in_quotes(tensor), " is in ", name, ", which does not hold it");
  });
  for (const auto& file : files_) add(*file);
}

void Weights::open(const std::string& path) {
  files_.push_back(about(path, [&] { return std::make_unique<File>("load_gpt2", path); }));
}

void Weights::add(const File& file) {
  for (const File::Entry& e : file.tensors()) {
    const std::string_view full = file[e.name];
    const std::string name(full.starts_with(prefix) ? full.substr(prefix.size()) : full);
    if (is_mask(name, e.shape)) continue;
    if (!places_.emplace(name, Place{&file, &e}).second)
      fail(file.path(), ": ", in_quotes(full), " is there with and without \"", prefix, "\"");
  }
}

const Weights::Place& Weights::at(const std::string& name) const { return places_.at(name); }

void Weights::check(const GPTConfig& config) const {
  // First, as there may be any number of layers.
  std::set<std::string_view> layers;
  for (const auto& [name, place] : places_)
    if (const std::string_view layer = layer_of(name).first; !layer.empty()) layers.insert(layer);
  if (int64_t(layers.size()) != config.n_layer)
    fail("n_layer is ", config.n_layer, ", the weights hold ", layers.size(), " layers");

  std::vector<std::string> missing, unexpected, mismatched;
  std::set<std::string> expected = {"lm_head.weight"};
  for (const auto& [name, shape] : parameters_of(config)) {
    expected.insert(name);
    const auto found = places_.find(name);
    if (found == places_.end()) {
      missing.push_back(name);
      continue;
    }
    const auto& [file, entry] = found->second;
    const Shape stored = is_conv1d(name) ? Shape{shape[1], shape[0]} : shape;
    const std::string_view dtype = (*file)[entry->dtype];
    if (entry->shape != stored) {
      mismatched.push_back(concat(name, ", by the config ", stored, ", in the file ", entry->shape));
    } else if (dtype != "F32" && dtype != "F16" && dtype != "BF16") {
      mismatched.push_back(concat(name, " is ", dtype, "; F32, F16 and BF16 are read"));
    }
  }
  for (const auto& [name, place] : places_)
    if (!expected.contains(name)) unexpected.push_back(altgrad::detail::printable(name));
  const std::string faults =
      listed("missing", missing) + listed("unexpected", unexpected) + listed("mismatched", mismatched);
  if (!faults.empty()) fail("the weights are not those of this config", faults);
  check_head();
}

// The head is tied, so what the file says of it must be what it says of the embedding.
void Weights::check_head() const {
  if (!places_.contains("lm_head.weight")) return;
  const Place head = at("lm_head.weight"), wte = at("wte.weight");
  bool same = head.entry->shape == wte.entry->shape && head.file->held_dtype(*head.entry) == DType::f32;
  const int64_t n = wte.entry->shape.numel();
  for (int64_t first = 0; same && first < n; first += piece) {
    const Tensor a = Tensor::empty({std::min(piece, n - first)}), b = Tensor::empty(a.shape());
    head.file->read(*head.entry, a, first);
    wte.file->read(*wte.entry, b, first);
    same = std::memcmp(a.raw(), b.raw(), a.nbytes()) == 0;
  }
  if (!same) fail("lm_head.weight differs from wte.weight; GPT has one tensor for both");
}

// Turns (in, out), as transformers keeps it, into (out, in): some rows of the file at a time, which stay in the cache.
void Weights::read(const std::string& name, const Tensor& to) const {
  const auto& [file, entry] = at(name);
  if (!is_conv1d(name)) return file->read(*entry, to);
  constexpr int64_t rows = 64;
  const int64_t out = to.size(0), in = to.size(1);
  for (int64_t i = 0; i < in; i += rows) {
    const Tensor part = Tensor::empty({std::min(rows, in - i), out});
    file->read(*entry, part, i * out);
    transpose(to.ptr<float>() + i, in, part.ptr<float>(), part.size(0), out);
  }
}

}  // namespace detail

GPT load_gpt2(const std::string& folder) try {
  const std::string config_path = std::filesystem::path(folder) / detail::config_name;
  const GPTConfig config =
      detail::about(config_path, [&] { return detail::parse_config(detail::read_text(config_path)); });
  const detail::Weights weights(folder);
  detail::about(folder, [&] { weights.check(config); });

  const nn::init::Skip all_are_read;
  GPT model(config);
  for (const auto& [name, parameter] : model.named_parameters())
    weights.read(name.substr(detail::prefix.size()), parameter.detach());
  return model;
} catch (const std::invalid_argument& e) {
  fail("load_gpt2: ", e.what());
}

}  // namespace altgrad::models
