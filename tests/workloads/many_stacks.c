/* 65,536 different stacks: main -> drive -> walk, then sixteen calls of left or right by the bits of a number, then path_cost.
 * Numbers are not taken at random but one after the other, so that all come up in the time a capture takes; the argument
 * says how many microseconds of work each one gets. The order is that of a generator which visits every number once. */
#include "truth.h"

FRAME uint64_t path_cost(uint64_t x, unsigned rounds) { return churn(x, rounds); }

FRAME uint64_t left(unsigned bits, unsigned path, uint64_t x, unsigned rounds);
FRAME uint64_t right(unsigned bits, unsigned path, uint64_t x, unsigned rounds);

#define STEP                                                                                        \
    (bits == 0    ? path_cost(x, rounds)                                                            \
     : path & 1   ? right(bits - 1, path >> 1, x + path, rounds)                                    \
                  : left(bits - 1, path >> 1, x ^ path, rounds))

FRAME uint64_t left(unsigned bits, unsigned path, uint64_t x, unsigned rounds) {
    uint64_t result = STEP;
    truth_sink += result;
    return result ^ 1;
}

FRAME uint64_t right(unsigned bits, unsigned path, uint64_t x, unsigned rounds) {
    volatile uint64_t kept[2] = {x};
    uint64_t result = STEP;
    return result + kept[0];
}

FRAME uint64_t walk(unsigned path, uint64_t x, unsigned rounds) {
    uint64_t result = path & 1 ? right(15, path >> 1, x, rounds) : left(15, path >> 1, x, rounds);
    truth_sink += result;
    return result ^ 2;
}

static FRAME void drive(unsigned rounds) {
    unsigned path = 1;
    while (!truth_stopped()) {
        /* All of 2^16, since 5 mod 4 is 1 and the addend is odd. */
        path = (path * 5 + 12345) & 0xffff;
        span_begin("path_cost");
        for (unsigned i = 0; i < 4; i++) {
            truth_sink ^= walk(path, truth_sink, rounds);
            path = (path * 5 + 12345) & 0xffff;
        }
        span_end(0);
    }
    truth_sink ^= 1;
}

int main(int count, char **arguments) {
    unsigned us = count > 1 ? (unsigned)atoi(arguments[1]) : 400;
    truth_begin("many_stacks");
    truth_ready();
    drive(us * (ROUNDS / 500));
    truth_thread_end();
    truth_write();
    return 0;
}
