/* What every workload shares: it records what it did in spans, and writes them down as JSON when it is told to end.
 *
 * A span is one piece of work or one wait of one thread: when it began and ended (CLOCK_MONOTONIC), and at both ends how
 * much CPU the thread had had (its CPU clock) and how long it had waited for one (the kernel's count of its run delay).
 * The test clips the spans to the window of a capture, so what it compares with is what happened, not what was planned.
 *
 *   main:  truth_begin(); threads and work until truth_stopped(); truth_write();
 *
 * SIGTERM ends a workload. One that nobody ends is ended by its alarm.
 */
#ifndef TRUTH_H
#define TRUTH_H

#ifndef _GNU_SOURCE
#define _GNU_SOURCE
#endif
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <pthread.h>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

/* A function that stays a frame of its own. libc's functions are not built with frame pointers: a walk by frame
 * pointers that begins in one skips its caller. So whatever is to be seen calls libc through one more frame. */
#define FRAME __attribute__((noinline, noclone))
/* No workload uses all of this file. */
#define UNUSED __attribute__((unused))

#define MAX_SPANS 200000
#define MAX_THREADS 64
#define LIFETIME_SECONDS 120

/* At one end of a span. */
struct reading {
    uint64_t time_ns, cpu_ns, delay_ns;
};

struct span {
    const char *name;
    struct reading start, end;
    uint64_t bytes;
};

struct thread_truth {
    pid_t tid;
    char comm[16];
    int schedstat;
    struct span *spans;
    size_t used;
};

static struct thread_truth truth_threads[MAX_THREADS];
/* Changed by __atomic_ builtins: C++ has no _Atomic. */
static volatile int truth_count, truth_begun;
static __thread struct thread_truth *truth_mine;
static volatile sig_atomic_t truth_stop;
/* Results go here, so that the compiler keeps the work. */
static volatile uint64_t truth_sink;

static void truth_fail(const char *what) {
    fprintf(stderr, "workload: %s: %s\n", what, strerror(errno));
    _exit(1);
}

static void truth_on_signal(int signal) {
    (void)signal;
    truth_stop = 1;
}

static UNUSED inline int truth_stopped(void) { return truth_stop; }

static inline uint64_t clock_ns(clockid_t clock) {
    struct timespec now;
    clock_gettime(clock, &now);
    return (uint64_t)now.tv_sec * 1000000000u + (uint64_t)now.tv_nsec;
}

/* How long the calling thread has waited for a CPU: the second number of its schedstat. */
static UNUSED uint64_t run_delay_ns(void) {
    char text[96];
    ssize_t length = pread(truth_mine->schedstat, text, sizeof text - 1, 0);
    if (length <= 0) truth_fail("schedstat");
    text[length] = 0;
    char *second;
    strtoull(text, &second, 10);
    return strtoull(second, NULL, 10);
}

/* Longer than it takes to read all clocks: the thread lost the CPU between two of them. */
#define INTERRUPTED_NS 100000u

/* The clock that a span begins or ends with is read next to the work. Reading the CPU clock makes the scheduler look
 * whether the thread has had its share, and take the CPU away if so: once before the run delay is read at the begin, and
 * only after it at the end. Waiting for a CPU between the readings is not in the span: at the begin all are read again,
 * at the end it is taken off. */
static UNUSED FRAME void span_begin(const char *name) {
    struct span *span = &truth_mine->spans[truth_mine->used];
    span->name = name;
    uint64_t began;
    do {
        clock_ns(CLOCK_THREAD_CPUTIME_ID);
        began = clock_ns(CLOCK_MONOTONIC);
        span->start.delay_ns = run_delay_ns();
        span->start.cpu_ns = clock_ns(CLOCK_THREAD_CPUTIME_ID);
        span->start.time_ns = clock_ns(CLOCK_MONOTONIC);
    } while (span->start.time_ns - began > INTERRUPTED_NS);
}

static UNUSED FRAME void span_end(uint64_t bytes) {
    uint64_t now = clock_ns(CLOCK_MONOTONIC);
    struct span *span = &truth_mine->spans[truth_mine->used];
    span->end.time_ns = now;
    span->end.delay_ns = run_delay_ns();
    uint64_t gap = clock_ns(CLOCK_MONOTONIC) - now;
    uint64_t waited = span->end.delay_ns - span->start.delay_ns;
    if (gap > INTERRUPTED_NS) span->end.delay_ns -= gap < waited ? gap : waited;
    span->end.cpu_ns = clock_ns(CLOCK_THREAD_CPUTIME_ID);
    span->bytes = bytes;
    if (truth_mine->used < MAX_SPANS - 1) truth_mine->used++;
}

/* Names the calling thread and begins its spans: from here on what it does is known. */
static UNUSED void truth_thread(const char *comm) {
    int at = __atomic_fetch_add(&truth_count, 1, __ATOMIC_SEQ_CST);
    if (at >= MAX_THREADS) {
        errno = ENOSPC;
        truth_fail("too many threads");
    }
    struct thread_truth *mine = &truth_threads[at];
    mine->tid = (pid_t)syscall(SYS_gettid);
    prctl(PR_SET_NAME, comm);
    prctl(PR_GET_NAME, mine->comm);
    char path[64];
    snprintf(path, sizeof path, "/proc/self/task/%d/schedstat", mine->tid);
    mine->schedstat = open(path, O_RDONLY | O_CLOEXEC);
    if (mine->schedstat < 0) truth_fail(path);
    mine->spans = (struct span *)calloc(MAX_SPANS, sizeof *mine->spans);
    if (!mine->spans) truth_fail("room for spans");
    truth_mine = mine;
    span_begin("begin");
    span_end(0);
    __atomic_fetch_add(&truth_begun, 1, __ATOMIC_SEQ_CST);
}

/* At the end of a thread: from here on it does nothing that counts. */
static UNUSED void truth_thread_end(void) {
    span_begin("end");
    span_end(0);
}

/* For main; further threads call truth_thread. */
static UNUSED void truth_begin(const char *comm) {
    struct sigaction action;
    memset(&action, 0, sizeof action);
    action.sa_handler = truth_on_signal;
    sigaction(SIGTERM, &action, NULL);
    sigaction(SIGINT, &action, NULL);
    alarm(LIFETIME_SECONDS);
    truth_thread(comm);
}

/* Tells the test that everything runs. */
static UNUSED void truth_ready(void) {
    puts("ready");
    fflush(stdout);
}

static UNUSED FRAME void sleep_ns(uint64_t ns) {
    struct timespec time = {(time_t)(ns / 1000000000u), (long)(ns % 1000000000u)};
    nanosleep(&time, NULL);
}

static inline UNUSED void wait_for_stop(void) {
    while (!truth_stopped()) sleep_ns(20000000);
}

static UNUSED void write_reading(FILE *file, const char *name, const struct reading *reading) {
    fprintf(file, ",\"%s\":{\"time_ns\":%" PRIu64 ",\"cpu_ns\":%" PRIu64 ",\"delay_ns\":%" PRIu64 "}", name,
            reading->time_ns, reading->cpu_ns, reading->delay_ns);
}

/* Writes what all threads recorded to the file that TRUTH names. Other threads have ended. */
static UNUSED void truth_write(void) {
    const char *path = getenv("TRUTH");
    if (!path) return;
    FILE *file = fopen(path, "w");
    if (!file) truth_fail(path);
    fprintf(file, "{\"pid\":%d,\"threads\":[", (int)getpid());
    for (int i = 0; i < truth_count; i++) {
        struct thread_truth *thread = &truth_threads[i];
        fprintf(file, "%s{\"tid\":%d,\"comm\":\"%s\",\"spans\":[", i ? "," : "", (int)thread->tid, thread->comm);
        for (size_t s = 0; s < thread->used; s++) {
            struct span *span = &thread->spans[s];
            fprintf(file, "%s\n{\"name\":\"%s\",\"bytes\":%" PRIu64, s ? "," : "", span->name, span->bytes);
            write_reading(file, "start", &span->start);
            write_reading(file, "end", &span->end);
            fprintf(file, "}");
        }
        fprintf(file, "]}");
    }
    fprintf(file, "]}\n");
    if (fclose(file)) truth_fail(path);
}

/* Work that takes CPU and nothing else; always part of the function that calls it. Something stays on the stack, else
 * gcc sets up no frame in a function that calls nothing, whatever its flags say. */
static inline __attribute__((always_inline)) uint64_t churn(uint64_t start, unsigned rounds) {
    volatile uint64_t kept = start;
    uint64_t value = kept;
    for (unsigned i = 0; i < rounds; i++) value = (value ^ (value >> 29)) * 0xbf58476d1ce4e5b9u + i;
    return value;
}

/* About half a millisecond. */
#define ROUNDS 300000u

/* A random number below 100: what is picked by it cannot keep step with a sampler. */
static inline UNUSED unsigned percent(uint64_t *state) {
    *state = churn(*state + 0x9e3779b97f4a7c15u, 2);
    return (unsigned)((*state >> 33) % 100);
}

#endif
