/* libc in the middle of a stack: main -> drive -> sort_all -> qsort -> compare -> compare_cost, and
 * main -> drive -> find_all -> bsearch -> probe -> probe_cost. */
#include "truth.h"

#define ITEMS 64
#define STEPS 20000u

static int items[ITEMS], sorted[4096];

FRAME int compare_cost(int a, int b) {
    truth_sink ^= churn((uint64_t)a * 2654435761u + (uint64_t)b, STEPS);
    return (a > b) - (a < b);
}

FRAME int compare(const void *a, const void *b) {
    int order = compare_cost(*(const int *)a, *(const int *)b);
    truth_sink += 1;
    return order;
}

FRAME int probe_cost(int a, int b) {
    truth_sink ^= churn((uint64_t)a * 40503u + (uint64_t)b, STEPS);
    return (a > b) - (a < b);
}

FRAME int probe(const void *a, const void *b) {
    int order = probe_cost(*(const int *)a, *(const int *)b);
    truth_sink += 1;
    return order;
}

/* Through a pointer: glibc's header would put the search into its caller. */
static void *(*volatile search)(const void *, const void *, size_t, size_t, int (*)(const void *, const void *)) = bsearch;

FRAME void sort_all(uint64_t *state) {
    for (int i = 0; i < ITEMS; i++) items[i] = (int)percent(state);
    qsort(items, ITEMS, sizeof *items, compare);
    truth_sink += 1;
}

FRAME void find_all(uint64_t *state) {
    for (int i = 0; i < 10; i++) {
        int key = (int)(percent(state) * 40);
        int *found = search(&key, sorted, 4096, sizeof *sorted, probe);
        truth_sink += found ? 1 : 0;
    }
}

static FRAME void drive(void) {
    uint64_t state = (uint64_t)getpid();
    while (!truth_stopped()) {
        if (percent(&state) < 46) {
            span_begin("compare_cost");
            sort_all(&state);
        } else {
            span_begin("probe_cost");
            find_all(&state);
        }
        span_end(0);
    }
    truth_sink ^= 1;
}

int main(void) {
    for (int i = 0; i < 4096; i++) sorted[i] = i;
    truth_begin("callbacks");
    truth_ready();
    drive();
    truth_thread_end();
    truth_write();
    return 0;
}
