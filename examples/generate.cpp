// Continues a prompt with a GPT-2 of Hugging Face's or a model that train_gpt has trained, writing text as it comes. The
// tokens are a tokenizer's, or the bytes or characters of --data, or, without either, numbers. What is said about the run
// goes to stderr.
#include <altgrad/altgrad.h>

#include <charconv>
#include <chrono>
#include <filesystem>
#include <nlohmann/json.hpp>
#include <sstream>
#include <string_view>

#include "flags.h"
#include "load_model.h"
#include "open_tokenizer.h"
#include "token_meta.h"

namespace ag = altgrad;
namespace fs = std::filesystem;

namespace {

struct Flags {
  std::string model, tokenizer, data, prompt, stop, format = "none", device = "cpu";
  int64_t tokens = 200, rows = 1, threads = 0;
  uint64_t seed = 1337;
  bool special = false;
  ag::models::GenerateOptions sampling = {.temperature = 0.8};
};

// Text as tokens, and back.
class Vocabulary {
 public:
  explicit Vocabulary(const Flags& flags)
      : special_(flags.special ? ag::models::Special::all : ag::models::Special::none), data_(flags.data) {
    if (!flags.tokenizer.empty()) {
      tokenizer_.emplace(open_tokenizer(flags.tokenizer));
      streams_.assign(size_t(flags.rows), ag::models::DecodeStream(*tokenizer_));
    } else if (!flags.data.empty()) {
      std::error_code error;
      if (fs::is_directory(flags.data, error)) {
        if (const auto meta = token_meta(flags.data)) texts_ = meta->texts;
        if (texts_.empty()) ag::fail("--data: ", flags.data, " has no meta.json of bytes or characters");
      } else {
        texts_ = texts_of(ag::models::CharDataset(flags.data, /*block_size=*/1, /*val_fraction=*/0));
      }
    }
  }
  // Throws where the model's tokens are others. `alphabet` is of the text that it was trained on, where that is known.
  void check(const Flags& flags, int64_t model_vocab, const std::string& alphabet) const {
    const int64_t own = tokenizer_ ? tokenizer_->vocab_size() : int64_t(texts_.size());
    if (own > model_vocab || (!texts_.empty() && own < model_vocab)) {
      ag::fail(tokenizer_ ? flags.tokenizer : flags.data, " has a vocabulary of ", own, ", the model one of ",
               model_vocab);
    }
    if (!texts_.empty() && !alphabet.empty() && texts_hash(texts_) != alphabet)
      ag::fail("--data: ", flags.data, " has other tokens than the text that the model was trained on");
  }
  ag::Tensor encode(const std::string& prompt) const {
    if (tokenizer_) return tokenizer_->encode(prompt, {.special = special_});
    if (!texts_.empty()) return encode_texts(texts_, prompt, data_);
    std::vector<int64_t> ids;
    std::istringstream words(prompt);
    for (std::string word; words >> word;) {
      int64_t id = -1;
      const auto [end, error] = std::from_chars(word.data(), word.data() + word.size(), id);
      if (error != std::errc() || end != word.data() + word.size() || id < 0)
        ag::fail("--prompt: without --tokenizer or --data it must be numbers of tokens, got ", word);
      ids.push_back(id);
    }
    return ag::Tensor::from(ids, {int64_t(ids.size())});
  }
  // What a row's next token adds to its text.
  std::string decode(int64_t row, int64_t token) {
    if (tokenizer_) return token < tokenizer_->vocab_size() ? streams_[size_t(row)].step(token) : "\uFFFD";
    return texts_.empty() ? " " + std::to_string(token) : texts_[size_t(token)];
  }
  // What a row's text ends with.
  std::string finish(size_t row) { return tokenizer_ ? streams_[row].finish() : ""; }
  // Tokens after which there is no more text.
  std::vector<int64_t> ends() const {
    if (!tokenizer_) return {};
    const auto end = tokenizer_->special_tokens().find("<|endoftext|>");
    return end == tokenizer_->special_tokens().end() ? std::vector<int64_t>{} : std::vector{end->second};
  }

 private:
  const ag::models::Special special_;
  std::optional<ag::models::Tokenizer> tokenizer_;
  std::vector<ag::models::DecodeStream> streams_;  // of each row
  const std::string data_;
  std::vector<std::string> texts_;  // of each token, where there is no tokenizer
};

int run(const Flags& flags) {
  using Clock = std::chrono::steady_clock;
  if (flags.threads > 0) ag::set_num_threads(int(flags.threads));
  Vocabulary vocabulary(flags);
  std::string alphabet;
  ag::models::GPT model = load_model(flags.model, &alphabet);
  vocabulary.check(flags, model.config().vocab_size, alphabet);
  if (flags.format != "none") {
    const ag::fp8::SurgeryReport report =
        ag::fp8::quantize_model(model, ag::fp8::format(flags.format), {.skip_patterns = {"lm_head"}});
    if (report.replaced.empty()) ag::fail("--format: the model's layers are quantized already");
    if (ag::fp8::format(flags.format).bits() <= 8) {  // a byte a weight is all that generating needs
      ag::fp8::drop_masters(model);
      ag::empty_cache();
    }
  }
  model.eval();
  model.to(flags.device == "cuda" ? ag::Device::cuda() : ag::Device::cpu());
  const ag::Tensor prompt = vocabulary.encode(flags.prompt);
  if (prompt.numel() == 0) ag::fail("--prompt is empty: there must be a token to begin with");
  std::vector<int64_t> ids;
  for (int64_t r = 0; r < flags.rows; ++r)
    ids.insert(ids.end(), prompt.data<int64_t>().begin(), prompt.data<int64_t>().end());

  // One row is written as it comes, behind its prompt, several one after the other, at their end.
  std::vector<std::string> texts(size_t(flags.rows), "");
  auto write = [&, begun = false](const std::string& text) mutable {
    std::fputs((begun ? text : flags.prompt + text).c_str(), stdout), std::fflush(stdout);
    begun = true;
  };
  std::vector<Clock::time_point> times;
  int64_t drawn = 0;
  ag::models::GenerateOptions sampling = flags.sampling;
  ag::Generator generator(flags.seed);
  sampling.generator = &generator;
  sampling.stop = vocabulary.ends();
  sampling.on_token = [&](int64_t row, int64_t token) {
    std::string& text = texts[size_t(row)];
    const std::string piece = vocabulary.decode(row, token);
    const size_t unread = text.size() - std::min(text.size(), flags.stop.size());
    text += piece;
    if (flags.rows == 1) write(piece);
    ++drawn;
    if (row == 0 || times.size() < 2) times.push_back(Clock::now());
    return flags.stop.empty() || text.find(flags.stop, unread) == std::string::npos;
  };
  const auto begin = Clock::now();
  model.generate(ag::Tensor::from(ids, {flags.rows, prompt.numel()}), flags.tokens, sampling);
  const auto seconds = [](Clock::duration time) { return std::chrono::duration<double>(time).count(); };
  if (flags.rows == 1) write(vocabulary.finish(0) + "\n");
  for (size_t r = 0; flags.rows > 1 && r < texts.size(); ++r)
    std::printf("--- %zu ---\n%s%s%s\n", r + 1, flags.prompt.c_str(), texts[r].c_str(),
                vocabulary.finish(r).c_str());
  if (drawn > flags.rows) {
    std::fprintf(stderr, "prompt of %ld tokens in %.3f s, then %.1f tokens/s\n", long(prompt.numel()),
                 seconds(times.front() - begin),
                 double(drawn - flags.rows) / seconds(Clock::now() - times.front()));
  }
  return 0;
}

}  // namespace

int main(int argc, char** argv) {
  CLI::App app("Continues a prompt with a GPT.", "generate");
  Flags flags;
  ag::models::GenerateOptions& sampling = flags.sampling;
  app.add_option("--model", flags.model, model_help)->required();
  app.add_option(
      "--tokenizer", flags.tokenizer,
      "a folder of vocab.json and merges.txt, a tokenizer.json, or a file of ranks; default: --model, "
      "where it has one");
  app.add_option(
      "--data", flags.data,
      "the text that it was trained on, or prepare's folder of its bytes or characters; default: tokens are "
      "numbers");
  app.add_option("--prompt", flags.prompt, "what to continue")->required();
  app.add_flag("--special", flags.special,
               "special tokens' names in --prompt, <|endoftext|> say, are those tokens");
  app.add_option("--tokens", flags.tokens, "to generate, at most")
      ->check(whole<int64_t>(0, INT32_MAX))
      ->capture_default_str();
  app.add_option("--temperature", sampling.temperature, "0 takes the most likely token")
      ->capture_default_str();
  app.add_option("--top-k", sampling.top_k, "sample among the k most likely tokens")
      ->check(whole<int64_t>(1, INT32_MAX));
  app.add_option("--top-p", sampling.top_p, "sample among the most likely ones of this probability together");
  app.add_option("--min-p", sampling.min_p,
                 "sample among those of this share of the most likely one's probability");
  app.add_option("--penalty", sampling.repetition_penalty, "of tokens that were there before; 1 is none");
  app.add_option("--stop", flags.stop, "text that ends a row");
  app.add_option("--format", flags.format, "of the Linear layers' weights, but lm_head's; none: as they are")
      ->capture_default_str();
  app.add_option("--seed", flags.seed, "of what is drawn")
      ->check(whole<uint64_t>(0, UINT64_MAX))
      ->capture_default_str();
  app.add_option("--rows", flags.rows, "continuations of the prompt")
      ->check(whole<int64_t>(1, 1 << 16))
      ->capture_default_str();
  app.add_option("--threads", flags.threads, "default: all cores")->check(whole<int64_t>(1, 1024));
  app.add_option("--device", flags.device, "cpu or cuda")
      ->check(CLI::IsMember({"cpu", "cuda"}))
      ->capture_default_str();
  try {
    app.parse(argc, argv);
    if (flags.tokenizer.empty() && flags.data.empty() && has_tokenizer(flags.model))
      flags.tokenizer = flags.model;
    if (flags.special && flags.tokenizer.empty()) ag::fail("--special needs a --tokenizer");
    return run(flags);
  } catch (const CLI::ParseError& error) {
    if (error.get_exit_code() == 0) return app.exit(error);  // --help
    std::fprintf(stderr, "generate: %s\n", error.what());
    return 2;
  } catch (const std::exception& error) {  // GPT::generate says its name itself
    const bool is_named = std::string_view(error.what()).starts_with("generate: ");
    std::fprintf(stderr, "%s%s\n", is_named ? "" : "generate: ", error.what());
    return 1;
  }
}
