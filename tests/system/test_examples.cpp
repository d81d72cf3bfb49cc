// What the examples write, beyond what their own runs show.
#define EIGEN_INCLUDE_DIR ""  // train_gpt's default text
#include "../../examples/evaluation.h"
#include "../../examples/metrics.h"
#include "../../examples/svg.h"
#include "../../examples/tensorboard.h"

#include "catch.h"
#include "errors.h"
#include "temp_folder.h"

#include <altgrad/autograd/ops.h>

using namespace altgrad;

namespace {

struct Grouped : std::numpunct<char> {  // as in much of Europe: 1.234,5
  char do_decimal_point() const override { return ','; }
  char do_thousands_sep() const override { return '.'; }
  std::string do_grouping() const override { return "\3"; }
};

}  // namespace

TEST_CASE("a loss curve's numbers do not follow the program's locale", "[examples]") {
  const TempFolder folder;
  std::vector<Point> train, val;
  for (int step = 1; step <= 3000; ++step) train.push_back({double(step), 4 - step / 1024.});
  val = {{1500, 2.53125}, {3000, 1.0625}};
  svg::write_loss_curve(folder / "plain.svg", "title", train, val);
  const std::locale before = std::locale::global(std::locale(std::locale(), new Grouped));
  svg::write_loss_curve(folder / "grouped.svg", "title", train, val);
  std::locale::global(before);
  CHECK(read_bytes(folder / "plain.svg") == read_bytes(folder / "grouped.svg"));
  CHECK_THAT(read_bytes(folder / "grouped.svg"), ContainsSubstring(">3000</text>"));
}

TEST_CASE("TensorBoard's records have the bytes that its own writer gives them", "[examples]") {
  CHECK(tensorboard::crc32c("123456789") == 0xE3069283);  // RFC 3720's
  CHECK(tensorboard::crc32c(std::string(32, '\0')) == 0x8A9136AA);
  // Written by tensorboard 2.21: RecordWriter.write(Event(...).SerializeToString()).
  const auto bytes = [](const char(&text)[41]) { return std::string(text, 40); };
  CHECK(tensorboard::record(tensorboard::version_event(1234567890.5)) ==
        bytes("\x18\x00\x00\x00\x00\x00\x00\x00\xA3\x7F\x4B\x22\x09\x00\x00\xA0\xB4\x80\x65\xD2\x41\x1A\x0D"
              "brain.Event:2\xF5\xE8\xF0\x16"));
  const char scalars[] =
      "\x2C\x00\x00\x00\x00\x00\x00\x00\xF4\xAE\xCC\x45\x09\x00\x00\xA0\xB4\x80\x65\xD2\x41\x10\xAC\x02\x2A"
      "\x1E"
      "\x0A\x11\x0A\x0Atrain_loss\x15\x00\x00\x20\x40\x0A\x09\x0A\x02lr\x15\x00\x00\x00\x00\xA4\xC0\xF6\x2E";
  CHECK(tensorboard::record(
            tensorboard::scalars_event(1234567890.5, 300, {{"train_loss", 2.5f}, {"lr", 0.f}})) ==
        std::string(scalars, sizeof scalars - 1));
}

TEST_CASE("a resumed run's files keep what is up to its step, and cut what came after it", "[examples]") {
  const TempFolder folder;
  const auto line = [](int64_t step) {
    return nlohmann::ordered_json{{"step", step}, {"train_loss", 0.5}, {"lr", 1e-3}};
  };
  const auto write = [&](int64_t resumed, std::initializer_list<int64_t> steps) {
    Metrics metrics(folder / "m.jsonl", folder / "m.csv", folder / "events", resumed);
    for (const int64_t step : steps) metrics.write(line(step));
    return metrics.curves().train.size();
  };
  const std::string events = folder / "events/events.out.tfevents.0.train_gpt";
  write(0, {1, 2, 299, 300, 301});
  CHECK(read_bytes(folder / "m.csv") ==
        "step,train_loss,val_loss,lr,ms_per_step,tokens_per_s\n1,0.5,,0.001,,\n2,0.5,,0.001,,\n299,0.5,,0."
        "001,,\n"
        "300,0.5,,0.001,,\n301,0.5,,0.001,,\n");
  const std::string csv = read_bytes(folder / "m.csv"), whole = read_bytes(events);
  // Part of a record, which a full disk leaves, goes too.
  std::ofstream(folder / "m.csv", std::ios::app) << "30";
  std::ofstream(events, std::ios::app | std::ios::binary) << whole.substr(whole.size() - 20);
  CHECK(write(300, {301}) == 5);
  CHECK(read_bytes(folder / "m.csv") == csv);
  CHECK(read_bytes(events).size() == whole.size());
  const std::string kept = whole.substr(0, whole.size() * 4 / 5);  // all but the last
  CHECK(read_bytes(events).substr(0, kept.size()) == kept);
  CHECK(write(2, {}) == 2);
  CHECK(read_bytes(folder / "m.csv") == csv.substr(0, csv.find("299,")));
  // A file of another kind begins anew.
  write_bytes(folder / "m.csv", "a,b\n1,2\n");
  write_bytes(events, "no record of any kind, but long enough for one");
  write(2, {3});
  CHECK(read_bytes(folder / "m.csv") ==
        "step,train_loss,val_loss,lr,ms_per_step,tokens_per_s\n3,0.5,,0.001,,\n");
  CHECK(read_bytes(events).find("brain.Event:2") == 23);
}

TEST_CASE("an ending's score is the mean of its tokens' log-likelihoods after what comes before",
          "[examples]") {
  manual_seed(1);
  models::GPT model({.n_layer = 1, .n_head = 1, .n_embd = 16, .block_size = 6, .vocab_size = 11});
  model.eval();
  const auto slow = [&](std::vector<int64_t> context, const std::vector<int64_t>& ending) {
    double sum = 0;
    for (const int64_t id : ending) {
      // Windows that the scorer shows: the last block_size tokens before the whole sequence's end.
      const Tensor logits = model(Tensor::from(context, {1, int64_t(context.size())}));
      const float* last = logits.ptr<float>() + (logits.size(1) - 1) * 11;
      double total = 0;
      for (int i = 0; i < 11; ++i) total += std::exp(double(last[i]));
      sum += double(last[id]) - std::log(total);
      context.push_back(id);
    }
    return sum / double(ending.size());
  };
  const auto score = [&](const std::vector<int64_t>& context, const std::vector<int64_t>& ending) {
    return log_likelihood(model, Tensor::from(context, {int64_t(context.size())}),
                          Tensor::from(ending, {int64_t(ending.size())}), Device::cpu());
  };
  CHECK(score({1, 2, 3}, {4, 5}) == Approx(slow({1, 2, 3}, {4, 5})));
  CHECK(score({7}, {4}) == Approx(slow({7}, {4})));
  CHECK(score({9, 9, 9, 1, 2, 3, 4, 5}, {6, 10}) ==
        Approx(slow({1, 2, 3, 4, 5}, {6, 10})));  // as far as it sees
  CHECK(score({1, 2}, {3, 4, 5, 6, 7, 8}) == Approx(slow({2}, {3, 4, 5, 6, 7, 8})));
}

TEST_CASE("an evaluation sees every window of the validation data", "[examples]") {
  const TempFolder folder;
  std::string text;
  for (int i = 0; i < 1000; ++i) text += char('a' + i * i % 7);
  write_bytes(folder / "text", text);
  const Corpus corpus = text_corpus(folder / "text", 8, "text");
  models::GPT model(
      {.n_layer = 1, .n_head = 1, .n_embd = 16, .block_size = 8, .vocab_size = corpus.vocab_size()});
  model.eval();
  const std::optional<Evaluation> all = evaluate_all(model, corpus, 5, Device::cpu());
  REQUIRE(all);
  CHECK(all->windows == 12);
  double sum = 0;
  for (int64_t i = 0; i < 12; ++i) {
    const std::string window = text.substr(size_t(900 + 8 * i), 9);
    sum += model
               .loss(corpus.encode(window.substr(0, 8)).reshape({1, 8}),
                     corpus.encode(window.substr(1)).reshape({1, 8}))
               .item<double>();
  }
  CHECK(all->loss == Approx(sum / 12));
  CHECK(*all->bits_per_byte == Approx(sum / 12 / std::log(2)));
}

TEST_CASE("choices say what is wrong with a line", "[examples]") {
  const TempFolder folder;
  write_bytes(folder / "text", std::string(1000, 'a') + "one two three\n");
  const Corpus corpus = text_corpus(folder / "text", 8, "text");
  const auto read = [&](const std::string& lines) {
    write_bytes(folder / "c.jsonl", lines);
    return read_choices(folder / "c.jsonl", corpus);
  };
  const std::string good = R"({"context": "one", "endings": ["two", "three"], "label": 1})";
  const std::vector<Choice> choices =
      read(good + "\n" + R"({"ctx": "two ", "endings": ["one"], "label": 0})");
  REQUIRE(choices.size() == 2);
  CHECK(choices[0].label == 1);
  CHECK(corpus.decode(choices[0].context) == "one");
  CHECK(corpus.decode(choices[0].endings[1]) == " three");
  CHECK(corpus.decode(choices[1].context) == "two ");
  const std::pair<const char*, const char*> wrong[] = {
      {"", "not a JSON object"},
      {"[]", "not a JSON object"},
      {"{\"context\": \"\x80\"}", "not a JSON object"},
      {R"({"endings": ["two"], "label": 0})", "\"context\" must be a text"},
      {R"({"context": 1, "endings": ["two"], "label": 0})", "\"context\" must be a text"},
      {R"({"context": "", "endings": ["two"], "label": 0})", "the context is empty"},
      {R"({"context": "xyz", "endings": ["two"], "label": 0})", "xyz begins with what is not in text"},
      {R"({"context": "one", "label": 0})", "\"endings\" must be a list"},
      {R"({"context": "one", "endings": [], "label": 0})", "\"endings\" must be a list"},
      {R"({"context": "one", "endings": ["two", 3], "label": 0})", "\"endings\" must be a list"},
      {R"({"context": "one", "endings": ["two"]})", "\"label\" must be a whole number from 0 to 0"},
      {R"({"context": "one", "endings": ["two"], "label": 1})", "from 0 to 0"},
      {R"({"context": "one", "endings": ["two"], "label": -1})", "from 0 to 0"},
      {R"({"context": "one", "endings": ["two"], "label": "0"})", "from 0 to 0"},
      {R"({"context": "one", "endings": ["two", "two one two"], "label": 0})", "an ending has 12 tokens"}};
  for (const auto& [line, what] : wrong) {
    CAPTURE(line);
    CHECK(throws([&, &line = line] { read(good + "\n" + line + "\n" + good); },
                 {"--choices", "c.jsonl, line 2", what}));
  }
  CHECK(throws<std::runtime_error>([&] { read(""); }, {"c.jsonl"}));
  CHECK(throws<std::runtime_error>([&] { read_choices(folder / "missing", corpus); }, {"missing"}));
}
