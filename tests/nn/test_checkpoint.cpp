// A resumed run is the run that never stopped, to the last bit; a checkpoint that does not fit changes
// nothing.
#include "catch.h"
#include "errors.h"
#include "temp_folder.h"
#include "values.h"

#include <altgrad/autograd/ops.h>
#include <altgrad/nn/checkpoint.h>
#include <altgrad/nn/containers.h>

using namespace altgrad;

namespace {

// Divides by the largest magnitude it has met: its output depends on a buffer that no gradient reaches.
struct RunningScale : nn::ModuleOf<RunningScale, nn::Layer> {
  Tensor peak = here::ones({1});
  Tensor forward(const Tensor& x) override {
    if (training()) peak.copy_(maximum(peak, max(abs(x)).reshape({1})).detach());
    return x / peak;
  }
  void visit(nn::Visitor& v) override { v.buffer("_peak", peak); }
};

// Everything that a program holds: two layers, dropout, state beside the parameters, an optimizer, a
// generator.
struct Run {
  nn::Sequential model;
  optim::AdamW optimizer;
  nn::TrainingState state;
  std::vector<float> losses;

  explicit Run(uint64_t seed, int64_t hidden = 16)
      : model(make_model(seed, hidden)), optimizer(model.parameters(), {.lr = 0.01, .weight_decay = 0.1}) {}

  static nn::Sequential make_model(uint64_t seed, int64_t hidden) {
    manual_seed(seed);
    nn::Sequential model;
    model.push_back(nn::Linear(6, hidden));
    model.push_back(RunningScale());
    model.push_back(nn::GELU());
    model.push_back(nn::Dropout(0.25));
    model.push_back(nn::Linear(hidden, 3));
    return on_device(model);
  }

  void train(int64_t steps) {
    for (; steps > 0; --steps, ++state.step) {
      const Tensor x = here::randn({8, 6}), y = here::randint(3, {8});
      Tape tape;
      const Tensor loss = cross_entropy(model(x), y);
      tape.backward(loss);
      nn::clip_grad_norm(model.parameters(), 1.0);
      optimizer.step();
      optimizer.zero_grad();
      losses.push_back(loss.item<float>());
    }
    state.generator = default_generator().state();
  }
  void save(const std::string& path) const { nn::save_checkpoint(path, model, optimizer, state); }
  void load(const std::string& path) {
    state = nn::load_checkpoint(path, model, optimizer);
    default_generator().set_state(state.generator);
  }
  // All tensors, as bytes.
  std::map<std::string, std::string> bits() const {
    std::map<std::string, std::string> all;
    for (const auto& dict : {model.state_dict(), optimizer.state_dict()}) {
      for (const auto& [name, t] : dict) all[name] = std::string(host(t).ptr<char>(), t.nbytes());
    }
    return all;
  }
};

}  // namespace

TEST_CASE("training resumed from a checkpoint continues bit for bit", "[checkpoint]") {
  const TempFolder folder;
  Run whole(1);
  whole.train(20);

  Run first(1);
  first.train(10);
  first.save(folder / "at10");
  Run second(2);  // other parameters, other generator
  second.train(3);
  REQUIRE((second.bits() != first.bits()));
  second.load(folder / "at10");
  CHECK(second.state.step == 10);
  CHECK((second.bits() == first.bits()));
  second.losses.clear();
  second.train(10);

  CHECK(second.state.step == 20);
  CHECK(second.state.generator == whole.state.generator);
  CHECK(second.losses == std::vector<float>(whole.losses.begin() + 10, whole.losses.end()));
  CHECK((second.bits() == whole.bits()));
}

TEST_CASE("a checkpoint holds parameters, buffers, optimizer and the program's own metadata",
          "[checkpoint]") {
  const TempFolder folder;
  Run run(3);
  run.train(2);
  run.state.generator = {.seed = UINT64_MAX, .next = uint64_t(1) << 63};
  run.state.extra = {{"config", "{\"lr\": 0.01}"}, {"step", "the program's"}, {"", ""}};
  run.save(folder / "c");
  CHECK(folder.num_files() == 1);

  Metadata metadata;
  const StateDict tensors = load_safetensors(folder / "c", &metadata);
  CHECK(metadata.at("step") == "2");
  CHECK(tensors.contains("model.0.weight"));
  CHECK(tensors.contains("model.1._peak"));
  CHECK(tensors.contains("optimizer.exp_avg_sq.3"));
  CHECK(tensors.at("optimizer.step").data<int64_t>()[3] == 2);

  Run other(4);
  other.load(folder / "c");
  CHECK(other.state.step == 2);
  CHECK(other.state.generator == run.state.generator);
  CHECK(other.state.extra == run.state.extra);
}

TEST_CASE("a checkpoint holds both generators, and one of before there were two loads", "[checkpoint]") {
  const TempFolder folder;
  Run run(3);
  run.state = {.step = 7};
  rounding_generator().next();
  const nn::TrainingState now;  // where the thread's generators stand
  CHECK(now.generator == default_generator().state());
  CHECK(now.rounding == rounding_generator().state());
  CHECK(now.rounding == Generator::State{3, (uint64_t(1) << 63) + 1});
  run.state.rounding = {.seed = 4, .next = UINT64_MAX};
  run.save(folder / "c");
  CHECK(nn::load_checkpoint(folder / "c", run.model, run.optimizer).rounding == run.state.rounding);

  Metadata metadata;
  const StateDict tensors = load_safetensors(folder / "c", &metadata);
  CHECK(metadata.at("rounding.seed") == "4");
  metadata.erase("rounding.next");
  save_safetensors(folder / "cut", tensors, metadata);
  CHECK(throws([&] { nn::load_checkpoint(folder / "cut", run.model, run.optimizer); },
               {"no \"rounding.next\""}));
  metadata.erase("rounding.seed");
  save_safetensors(folder / "old", tensors, metadata);
  const nn::TrainingState old = nn::load_checkpoint(folder / "old", run.model, run.optimizer);
  CHECK(old.generator == run.state.generator);
  CHECK(old.rounding == Generator::State{run.state.generator.seed, uint64_t(1) << 63});
}

TEST_CASE("a checkpoint that does not fit is refused, and neither model nor optimizer changes",
          "[checkpoint]") {
  const TempFolder folder;
  const std::string path = folder / "c";
  Run run(5), source(6);
  run.train(2);
  source.train(3);
  source.save(path);
  Metadata metadata;
  StateDict tensors = load_safetensors(path, &metadata);
  const auto before = run.bits();
  std::vector<std::string> parts = {"load_checkpoint", path};

  SECTION("the model has another width") {
    Run(7, 17).save(path);
    CHECK(throws([&] { run.load(path); }, {"(16, 6)", "(17, 6)"}));
    parts = {};
  }
  SECTION("a parameter is missing") {
    tensors.erase("model.4.bias");
    parts = {"4.bias"};
  }
  SECTION("the optimizer's state is missing") {
    std::erase_if(tensors, [](const auto& item) { return item.first.starts_with("optimizer."); });
    parts = {"adamw", "exp_avg.0"};
  }
  SECTION("the optimizer's state has another shape") {
    tensors["optimizer.exp_avg.0"] = Tensor::zeros({1});
    parts = {"adamw", "exp_avg.0", "(1)"};
  }
  SECTION("it is not a checkpoint") {
    metadata.clear();
    parts.push_back("not a training checkpoint");
  }
  SECTION("it has a later layout") {
    metadata["altgrad_checkpoint"] = "2";
    parts.push_back("layout 2");
  }
  SECTION("the step is missing") {
    metadata.erase("step");
    parts.push_back("no \"step\"");
  }
  SECTION("the step is not a number") {
    metadata["step"] = "3 or so";
    parts.push_back("\"step\" must be a whole number, got \"3 or so\"");
  }
  SECTION("the step is negative") {
    metadata["step"] = "-1";
    parts.push_back("\"step\" must not be negative, got -1");
    run.state.step = -1;
    CHECK(throws([&] { run.save(path); }, {"save_checkpoint: step must not be negative, got -1"}));
  }
  SECTION("the generator's state does not fit") {
    metadata["generator.seed"] = "18446744073709551616";
    parts.push_back("generator.seed");
  }
  SECTION("the file is cut short") {
    write_bytes(path, read_bytes(path).substr(0, 1000));
    CHECK(throws([&] { run.load(path); }, {"load_safetensors", path}));
    parts = {};
  }
  if (!parts.empty()) {
    save_safetensors(path, tensors, metadata);
    bool mentions_all = true;
    for (const std::string& part : parts)
      mentions_all = throws([&] { run.load(path); }, {part}) && mentions_all;
    CHECK(mentions_all);
  }
  CHECK(throws<std::runtime_error>([&] { run.load(folder / "nowhere"); }, {folder / "nowhere"}));
  CHECK((run.bits() == before));
}

TEST_CASE("a checkpoint of a model on the tape can be saved in the middle of a step", "[checkpoint]") {
  const TempFolder folder;
  Run run(8);
  Tape tape;
  const Tensor loss = sum(run.model(here::ones({2, 6})));
  const int64_t ops = tape.num_ops();
  run.save(folder / "c");
  CHECK(tape.num_ops() == ops);
  tape.backward(loss);
  CHECK(run.model.parameters()[0].has_grad());
}
