/* CPU time of a known split, at the end of a known chain of calls:
 * main -> serve -> accept_job -> parse_job -> check_job -> plan_job -> queue_job -> take_job -> run_job -> pick_part
 *      -> part_large 60 % / part_middle 30 % / part_small 10 %, one span each. */
#include "truth.h"

FRAME uint64_t part_large(uint64_t x) { return churn(x, ROUNDS) + 1; }
FRAME uint64_t part_middle(uint64_t x) { return churn(x, ROUNDS) + 2; }
FRAME uint64_t part_small(uint64_t x) { return churn(x, ROUNDS) + 3; }

FRAME uint64_t pick_part(unsigned draw, uint64_t x) {
    uint64_t result = 0;
    if (draw < 60) {
        span_begin("part_large");
        result = part_large(x);
    } else if (draw < 90) {
        span_begin("part_middle");
        result = part_middle(x);
    } else {
        span_begin("part_small");
        result = part_small(x);
    }
    span_end(0);
    return result;
}

/* One level of the chain: does something after the call, so that it is no tail call. */
#define LEVEL(name, next)                               \
    FRAME uint64_t name(unsigned draw, uint64_t x) {    \
        uint64_t result = next(draw, x + 1);            \
        truth_sink += result;                           \
        return result ^ 1;                              \
    }
LEVEL(run_job, pick_part)
LEVEL(take_job, run_job)
LEVEL(queue_job, take_job)
LEVEL(plan_job, queue_job)
LEVEL(check_job, plan_job)
LEVEL(parse_job, check_job)
LEVEL(accept_job, parse_job)

FRAME void serve(void) {
    uint64_t state = (uint64_t)getpid();
    while (!truth_stopped()) truth_sink ^= accept_job(percent(&state), state);
    truth_sink ^= 1;
}

int main(void) {
    truth_begin("cpu_split");
    truth_ready();
    serve();
    truth_thread_end();
    truth_write();
    return 0;
}
