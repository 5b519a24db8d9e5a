/* The child of `fork_storm`: main -> short_a -> short_b -> short_cost for about 2 ms, then it is gone. Tells how much CPU
 * time it has had, all of it, on the descriptor it is given. */
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
    truth_sink ^= short_a((uint64_t)count);
    if (count > 1) {
        uint64_t cpu_ns = clock_ns(CLOCK_PROCESS_CPUTIME_ID);
        if (write(atoi(arguments[1]), &cpu_ns, sizeof cpu_ns) != sizeof cpu_ns) return 1;
    }
    return 0;
}
