// What the examples write, beyond what their own runs show.
#include "../../examples/svg.h"

#include "catch.h"
#include "temp_folder.h"

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
