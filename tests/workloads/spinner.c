/* Takes all the CPU it gets in main -> spin -> spin_inner; one span per turn. The first argument, if any, becomes its
 * command name. */
#include "truth.h"

FRAME uint64_t spin_inner(uint64_t x) { return churn(x, 4 * ROUNDS); }

FRAME void spin(void) {
    while (!truth_stopped()) {
        span_begin("spin_inner");
        truth_sink ^= spin_inner(truth_sink);
        span_end(0);
    }
    truth_sink ^= 1;
}

int main(int count, char **arguments) {
    truth_begin(count > 1 ? arguments[1] : "spinner");
    truth_ready();
    spin();
    truth_thread_end();
    truth_write();
    return 0;
}
