/* Calls itself 700 deep, more than a stack that is kept: main -> dive -> descend x 700 -> bottom. */
#include "truth.h"

#define DEPTH 700

FRAME uint64_t bottom(uint64_t x) { return churn(x, ROUNDS); }

FRAME uint64_t descend(unsigned left, uint64_t x) {
    uint64_t result = left <= 1 ? bottom(x) : descend(left - 1, x + left);
    truth_sink += result;
    return result ^ left;
}

FRAME void dive(void) {
    while (!truth_stopped()) {
        span_begin("bottom");
        truth_sink ^= descend(DEPTH, truth_sink);
        span_end(0);
    }
    truth_sink ^= 1;
}

int main(void) {
    truth_begin("recursion");
    truth_ready();
    dive();
    truth_thread_end();
    truth_write();
    return 0;
}
