/* The child of `fork_storm`: main -> short_a -> short_b -> short_cost for about 2 ms, then it is gone. */
#include "truth.h"

FRAME uint64_t short_cost(uint64_t x) { return churn(x, 4 * ROUNDS); }

FRAME uint64_t short_b(uint64_t x) {
    uint64_t result = short_cost(x);
    truth_sink += result;
    return result ^ 1;
}

FRAME uint64_t short_a(uint64_t x) {
    uint64_t result = short_b(x);
    truth_sink ^= result;
    return result + 1;
}

int main(int count, char **arguments) {
    (void)arguments;
    truth_sink ^= short_a((uint64_t)count);
    truth_sink ^= 1;
    return 0;
}
