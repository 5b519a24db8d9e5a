/* Many threads, as many as the argument says: body -> stage_a -> stage_b -> part_0 .. part_3, by thread. Each works for a
 * moment and sleeps for a while, so that all get a share of the machine. */
#include "truth.h"

FRAME uint64_t part_0(uint64_t x) { return churn(x, ROUNDS) + 1; }
FRAME uint64_t part_1(uint64_t x) { return churn(x, ROUNDS) + 2; }
FRAME uint64_t part_2(uint64_t x) { return churn(x, ROUNDS) + 3; }
FRAME uint64_t part_3(uint64_t x) { return churn(x, ROUNDS) + 4; }

static uint64_t (*const parts[])(uint64_t) = {part_0, part_1, part_2, part_3};
static const char *const names[] = {"part_0", "part_1", "part_2", "part_3"};

FRAME uint64_t stage_b(int kind, uint64_t x) {
    uint64_t result = parts[kind](x);
    truth_sink += result;
    return result ^ 1;
}

FRAME uint64_t stage_a(int kind, uint64_t x) {
    volatile uint64_t kept[5] = {x};
    uint64_t result = stage_b(kind, x);
    return result + kept[0];
}

FRAME void *body(void *argument) {
    int kind = (int)(intptr_t)argument % 4;
    truth_thread("body");
    while (!truth_stopped()) {
        for (int i = 0; i < 4 - kind; i++) {
            span_begin(names[kind]);
            truth_sink ^= stage_a(kind, truth_sink);
            span_end(0);
        }
        sleep_ns(20000000);
    }
    truth_thread_end();
    return NULL;
}

int main(int count, char **arguments) {
    int threads = count > 1 ? atoi(arguments[1]) : 32;
    pthread_t ids[MAX_THREADS];
    truth_begin("threads");
    if (threads >= MAX_THREADS) threads = MAX_THREADS - 1;
    for (int i = 0; i < threads; i++)
        if (pthread_create(&ids[i], NULL, body, (void *)(intptr_t)i)) truth_fail("pthread_create");
    while (truth_begun < threads + 1) sleep_ns(1000000);
    truth_ready();
    wait_for_stop();
    for (int i = 0; i < threads; i++) pthread_join(ids[i], NULL);
    truth_write();
    return 0;
}
