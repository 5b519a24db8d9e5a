/* Signals at any instruction: main -> drive -> busy -> small_1 .. small_3, which set up and leave their frames all the time,
 * and, wherever a timer interrupts them, -> signal trampoline -> on_timer -> timer_cost. What a handler interrupted is not
 * a return address: with the instruction before it, a function's first instruction is put down to its neighbour. */
#include "truth.h"
#include <sys/time.h>

FRAME uint64_t timer_cost(uint64_t x) { return churn(x, ROUNDS / 2); }

FRAME void on_timer(int signal) { truth_sink ^= timer_cost((uint64_t)signal); }

FRAME uint64_t small_3(uint64_t x) { return x * 3 + 1; }

FRAME uint64_t small_2(uint64_t x) {
    uint64_t result = small_3(x ^ 5);
    return result + x;
}

FRAME uint64_t small_1(uint64_t x) {
    volatile uint64_t kept[6] = {x};
    uint64_t result = small_2(x) + small_3(x);
    return result ^ kept[0];
}

FRAME uint64_t busy(uint64_t x) {
    for (unsigned i = 0; i < 200000; i++) x += small_1(x + i);
    return x;
}

static FRAME void drive(void) {
    while (!truth_stopped()) {
        span_begin("busy");
        truth_sink ^= busy(truth_sink);
        span_end(0);
    }
    truth_sink ^= 1;
}

int main(void) {
    truth_begin("interrupted");
    struct sigaction action = {.sa_handler = on_timer, .sa_flags = SA_RESTART};
    sigaction(SIGPROF, &action, NULL);
    /* 0.7 ms of CPU time is less than the kernel's tick: as often as it can. */
    struct itimerval often = {{0, 700}, {0, 700}};
    truth_ready();
    if (setitimer(ITIMER_PROF, &often, NULL)) truth_fail("setitimer");
    drive();
    memset(&often, 0, sizeof often);
    setitimer(ITIMER_PROF, &often, NULL);
    truth_thread_end();
    truth_write();
    return 0;
}
