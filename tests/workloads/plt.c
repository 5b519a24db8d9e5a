/* Calls through the linkage table of the program into a library of tiny functions, so that many samples lie in the table
 * itself: main -> drive -> call_tiny -> (table) -> tiny_1 .. tiny_4. */
#include "truth.h"

uint64_t tiny_1(uint64_t x);
uint64_t tiny_2(uint64_t x);
uint64_t tiny_3(uint64_t x);
uint64_t tiny_4(uint64_t x);

FRAME uint64_t call_tiny(uint64_t x) {
    for (unsigned i = 0; i < 50000; i++) x += tiny_1(x) + tiny_2(i) + tiny_3(x ^ i) + tiny_4(x + i);
    return x;
}

static FRAME void drive(void) {
    while (!truth_stopped()) {
        span_begin("call_tiny");
        truth_sink ^= call_tiny(truth_sink);
        span_end(0);
    }
    truth_sink ^= 1;
}

int main(void) {
    truth_begin("plt");
    truth_ready();
    drive();
    truth_thread_end();
    truth_write();
    return 0;
}
