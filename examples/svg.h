// Loss curves as an SVG file: axes with round numbers, a legend, light or dark as the reader's screen is. A run's are its
// training loss as it came and averaged, and its validation loss with a dot at each evaluation.
#pragma once

#include <algorithm>
#include <cerrno>
#include <cmath>
#include <cstring>
#include <fstream>
#include <locale>
#include <sstream>
#include <stdexcept>
#include <string>
#include <vector>

struct Point {
  double x, y;
};

namespace svg {

constexpr double width = 800, height = 480, left = 70, right = 20, top = 50, bottom = 60;

// About five steps of 1, 2 or 5 times a power of ten.
inline double tick_step(double range) {
  const double rough = range / 5, power = std::pow(10, std::floor(std::log10(rough)));
  for (const double factor : {1.0, 2.0, 5.0}) {
    if (rough <= factor * power) return factor * power;
  }
  return 10 * power;
}

// From numbers to pixels, with the range widened to whole ticks.
struct Axis {
  double low, high, step, from, to;  // from, to: pixels of low and high
  Axis(double lowest, double highest, double from, double to) : from(from), to(to) {
    if (highest - lowest < 1e-9) highest = lowest + 1;
    step = tick_step(highest - lowest);
    low = std::floor(lowest / step) * step;
    high = std::ceil(highest / step) * step;
  }
  double operator()(double value) const { return from + (value - low) / (high - low) * (to - from); }
  int ticks() const { return int(std::lround((high - low) / step)) + 1; }
  double tick(int i) const { return low + i * step; }
};

inline std::string escaped(const std::string& text) {
  std::string out;
  for (const char c : text) {
    if (c == '<')
      out += "&lt;";
    else if (c == '>')
      out += "&gt;";
    else if (c == '&')
      out += "&amp;";
    else
      out += c;
  }
  return out;
}

// Means of `size` neighbours each, in their middle.
inline std::vector<Point> averaged(const std::vector<Point>& points, size_t size) {
  std::vector<Point> means;
  for (size_t i = 0; i < points.size(); i += size) {
    const size_t n = std::min(size, points.size() - i);
    Point sum = {0, 0};
    for (size_t j = i; j < i + n; ++j) sum.x += points[j].x, sum.y += points[j].y;
    means.push_back({sum.x / double(n), sum.y / double(n)});
  }
  return means;
}

struct Curve {
  std::string label;
  const char* color;
  double width;
  std::vector<Point> points;
  bool dots = false;  // one at each point
};

// The curves of training losses: means over enough steps to be smooth, and all, as far as they can be told apart.
inline std::vector<Point> smooth(const std::vector<Point>& train) {
  return averaged(train, train.size() / 100 + 1);
}
inline std::vector<Point> fine(const std::vector<Point>& train) {
  return averaged(train, train.size() / 2000 + 1);
}

// Throws std::runtime_error where the file cannot be written.
inline void write_curves(const std::string& path, const std::string& title,
                         const std::vector<Curve>& curves) {
  double low = INFINITY, high = -INFINITY, last = 1;
  size_t longest = 0;  // label
  for (const Curve& curve : curves) {
    longest = std::max(longest, curve.label.size());
    for (const Point& p : curve.points) {
      low = std::min(low, p.y), high = std::max(high, p.y), last = std::max(last, p.x);
    }
  }
  if (low > high) low = 0, high = 1;  // nothing to draw
  const Axis x(0, last, left, width - right), y(low, high, height - bottom, top);

  std::ostringstream out;
  out.imbue(std::locale::classic());  // "0.5" and "2000" whatever the program's locale writes
  out << "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 " << width << ' ' << height << "\" width=\""
      << width << "\" height=\"" << height << "\" font-family=\"sans-serif\" font-size=\"13\">\n"
      << "<style>text{fill:#24292f}.paper{fill:#fff}.grid{stroke:#e4e7eb}.frame{stroke:#8c959f;fill:none}"
      << "@media(prefers-color-scheme:dark){text{fill:#e6edf3}.paper{fill:#0d1117}.grid{stroke:#262c36}}</"
         "style>\n"
      << "<rect class=\"paper\" width=\"100%\" height=\"100%\"/>\n"
      << "<text x=\"" << width / 2 << "\" y=\"28\" text-anchor=\"middle\" font-size=\"16\">" << escaped(title)
      << "</text>\n";
  for (int i = 0; i < x.ticks(); ++i) {
    const double at = x(x.tick(i));
    out << "<line class=\"grid\" x1=\"" << at << "\" y1=\"" << top << "\" x2=\"" << at << "\" y2=\""
        << height - bottom << "\"/>\n<text x=\"" << at << "\" y=\"" << height - bottom + 20
        << "\" text-anchor=\"middle\">" << x.tick(i) << "</text>\n";
  }
  for (int i = 0; i < y.ticks(); ++i) {
    const double at = y(y.tick(i));
    out << "<line class=\"grid\" x1=\"" << left << "\" y1=\"" << at << "\" x2=\"" << width - right
        << "\" y2=\"" << at << "\"/>\n<text x=\"" << left - 8 << "\" y=\"" << at + 4
        << "\" text-anchor=\"end\">" << std::round(y.tick(i) * 1e6) / 1e6 << "</text>\n";
  }
  out << "<rect class=\"frame\" x=\"" << left << "\" y=\"" << top << "\" width=\"" << width - left - right
      << "\" height=\"" << height - top - bottom << "\"/>\n"
      << "<text x=\"" << (left + width - right) / 2 << "\" y=\"" << height - 16
      << "\" text-anchor=\"middle\">step</text>\n"
      << "<text transform=\"translate(20 " << (top + height - bottom) / 2
      << ") rotate(-90)\" text-anchor=\"middle\">loss (nats per token)</text>\n";

  for (const Curve& curve : curves) {
    out << "<polyline fill=\"none\" stroke=\"" << curve.color << "\" stroke-width=\"" << curve.width
        << "\" points=\"";
    for (const Point& p : curve.points) out << x(p.x) << ',' << y(p.y) << ' ';
    out << "\"/>\n";
    for (const Point& p : curve.points) {
      if (!curve.dots) break;
      out << "<circle cx=\"" << x(p.x) << "\" cy=\"" << y(p.y) << "\" r=\"" << curve.width + 1 << "\" fill=\""
          << curve.color << "\"/>\n";
    }
  }
  const double start = width - right - 60 - 7.5 * double(longest);
  for (size_t i = 0; i < curves.size(); ++i) {
    const double at = top + 22 + 20 * double(i);
    out << "<line x1=\"" << start << "\" y1=\"" << at << "\" x2=\"" << start + 30 << "\" y2=\"" << at
        << "\" stroke=\"" << curves[i].color << "\" stroke-width=\"" << curves[i].width << "\"/>\n<text x=\""
        << start + 40 << "\" y=\"" << at + 4 << "\">" << escaped(curves[i].label) << "</text>\n";
  }
  out << "</svg>\n";

  std::ofstream file(path, std::ios::binary);
  file << out.str();
  if (!file.flush()) throw std::runtime_error("cannot write " + path + ": " + std::strerror(errno));
}

// Throws as write_curves does.
inline void write_loss_curve(const std::string& path, const std::string& title,
                             const std::vector<Point>& train, const std::vector<Point>& val) {
  write_curves(path, title,
               {{"train, each step", "#9ecae1", 1, fine(train)},
                {"train, mean", "#1f77b4", 2, smooth(train)},
                {"validation", "#d62728", 2.5, val, true}});
}

}  // namespace svg
