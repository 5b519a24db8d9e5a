/* A library that `odd` loads while it runs: loaded_entry -> loaded_cost. */
#include "truth.h"

static FRAME uint64_t loaded_cost(uint64_t x) { return churn(x, ROUNDS) + 1; }

uint64_t loaded_entry(uint64_t x) {
    uint64_t result = loaded_cost(x);
    truth_sink += result;
    return result ^ 1;
}
