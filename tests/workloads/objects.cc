// What C++ makes of stacks, below main -> app::drive:
//   app::sort_words  -> std::sort and its parts -> app::word_cost                       a callback out of a template
//   app::fail_often  -> app::outer -> app::middle -> __cxa_throw ...                    the unwinder of exceptions itself
//   app::fail_once   -> app::catch_cost                                                in a catch clause
//   app::draw_all    -> app::Circle::draw -> std::function and its parts -> app::shape_cost   virtual call, lambda
#include "truth.h"

#include <algorithm>
#include <functional>
#include <memory>
#include <stdexcept>
#include <string>
#include <vector>

namespace app {

FRAME bool word_cost(uint64_t a, uint64_t b) {
    truth_sink = truth_sink ^ churn(a * 31 + b, 20000);
    return a < b;
}

FRAME uint64_t catch_cost(uint64_t x) { return churn(x, ROUNDS) + 1; }
FRAME uint64_t shape_cost(uint64_t x) { return churn(x, ROUNDS) + 2; }

FRAME void sort_words(uint64_t *state) {
    std::vector<uint64_t> words(40);
    for (auto &word : words) word = percent(state);
    std::sort(words.begin(), words.end(), [](uint64_t a, uint64_t b) { return word_cost(a, b); });
    truth_sink = truth_sink + words[3];
}

struct Guard {
    std::string text;
    ~Guard() { truth_sink = truth_sink + text.size(); }
};

FRAME void middle(unsigned n) {
    Guard guard{std::string(n % 8, 'x')};
    if (truth_sink != 3) throw std::runtime_error("no room");
    truth_sink = truth_sink ^ 1;
}

FRAME void outer(unsigned n) {
    Guard guard{std::string(n % 4, 'y')};
    middle(n);
    truth_sink = truth_sink ^ 2;
}

FRAME void fail_often() {
    for (unsigned n = 0; n < 300; n++) {
        try {
            outer(n);
        } catch (const std::exception &error) {
            truth_sink = truth_sink + (uint64_t)error.what()[0];
        }
    }
}

FRAME void fail_once() {
    try {
        outer(5);
    } catch (const std::exception &error) {
        truth_sink = truth_sink ^ catch_cost((uint64_t)error.what()[0]);
    }
}

struct Shape {
    virtual ~Shape() {}
    virtual uint64_t draw(uint64_t) = 0;
};

struct Circle : Shape {
    std::function<uint64_t(uint64_t)> fill;
    FRAME uint64_t draw(uint64_t x) override {
        uint64_t result = fill(x);
        truth_sink = truth_sink + result;
        return result ^ 1;
    }
};

FRAME void draw_all(Shape &shape) { truth_sink = truth_sink ^ shape.draw(truth_sink); }

FRAME void drive(Shape &shape) {
    uint64_t state = (uint64_t)getpid();
    while (!truth_stopped()) {
        unsigned draw = percent(&state);
        if (draw < 4) {
            span_begin("app::word_cost");
            sort_words(&state);
        } else if (draw < 34) {
            span_begin("app::catch_cost");
            fail_once();
        } else if (draw < 70) {
            span_begin("app::middle");
            fail_often();
        } else {
            span_begin("app::shape_cost");
            draw_all(shape);
        }
        span_end(0);
    }
    truth_sink = truth_sink ^ 1;
}

} // namespace app

int main() {
    auto circle = std::make_unique<app::Circle>();
    uint64_t colour = 5;
    circle->fill = [colour](uint64_t x) {
        uint64_t result = app::shape_cost(x + colour);
        truth_sink = truth_sink + result;
        return result ^ 7;
    };
    truth_begin("objects");
    truth_ready();
    app::drive(*circle);
    truth_thread_end();
    truth_write();
    return 0;
}
