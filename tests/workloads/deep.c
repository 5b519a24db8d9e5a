/* Depth: main -> drive -> level_0 -> level_1 -> ... -> level_4 -> level_0 -> ... -> part_large 60 % / part_middle 30 % /
 * part_small 10 %. The argument says how many levels. They differ in what they keep on the stack, and follow each other
 * in a fixed order, so that one which is left out or comes twice shows. */
#include "truth.h"

typedef uint64_t (*part_fn)(uint64_t);

FRAME uint64_t part_large(uint64_t x) { return churn(x, ROUNDS) + 1; }
FRAME uint64_t part_middle(uint64_t x) { return churn(x, ROUNDS) + 2; }
FRAME uint64_t part_small(uint64_t x) { return churn(x, ROUNDS) + 3; }

FRAME uint64_t level_0(unsigned left, part_fn part, uint64_t x);

#define DOWN(next) (left <= 1 ? part(x) : next(left - 1, part, x + left))

/* Keeps nothing but what it must. */
FRAME uint64_t level_4(unsigned left, part_fn part, uint64_t x) {
    uint64_t result = DOWN(level_0);
    truth_sink += result;
    return result;
}

/* Has locals in memory. */
FRAME uint64_t level_3(unsigned left, part_fn part, uint64_t x) {
    volatile uint64_t kept[3] = {x, left, 7};
    uint64_t result = DOWN(level_4);
    return result ^ kept[left % 3];
}

/* Saves every register that is the caller's. */
FRAME uint64_t level_2(unsigned left, part_fn part, uint64_t x) {
    uint64_t a = truth_sink, b = a * 3, c = b + x, d = c * 7, e = d ^ left;
    __asm__ volatile("" : "+r"(a), "+r"(b), "+r"(c), "+r"(d), "+r"(e));
    uint64_t result = DOWN(level_3);
    __asm__ volatile("" : "+r"(a), "+r"(b), "+r"(c), "+r"(d), "+r"(e));
    return result + a + b + c + d + e;
}

FRAME uint64_t level_1(unsigned left, part_fn part, uint64_t x) {
    uint64_t result = DOWN(level_2);
    return result ^ left;
}

FRAME uint64_t level_0(unsigned left, part_fn part, uint64_t x) {
    volatile char kept = (char)x;
    uint64_t result = DOWN(level_1);
    return result + (uint64_t)kept;
}

static FRAME void drive(unsigned depth) {
    uint64_t state = (uint64_t)getpid();
    while (!truth_stopped()) {
        unsigned draw = percent(&state);
        part_fn part = draw < 60 ? part_large : draw < 90 ? part_middle : part_small;
        span_begin(draw < 60 ? "part_large" : draw < 90 ? "part_middle" : "part_small");
        truth_sink ^= level_0(depth, part, state);
        span_end(0);
    }
    truth_sink ^= 1;
}

int main(int count, char **arguments) {
    unsigned depth = count > 1 ? (unsigned)atoi(arguments[1]) : 20;
    truth_begin("deep");
    truth_ready();
    drive(depth);
    truth_thread_end();
    truth_write();
    return 0;
}
