/* Threads that wait for a known time, each in its own function below THREAD_body -> enter_wait:
 *   naps       nap            nanosleep of 20 ms
 *   short_naps short_nap      nanosleep of 0.4 ms
 *   locks      take_lock      a mutex that thread `lock_holder` holds for 30 ms
 *   pipes      read_pipe      a pipe that thread `pipe_feeder` writes to every 25 ms
 *   polls      poll_nothing   poll with a timeout of 15 ms
 *   never_runs stay           waits for the end of the program: does not run while it is measured
 * One span is one wait. Between waits a thread works a little, so that its waits are apart. */
#include "truth.h"
#include <poll.h>

static pthread_mutex_t mutex = PTHREAD_MUTEX_INITIALIZER;
static pthread_mutex_t end_mutex = PTHREAD_MUTEX_INITIALIZER;
static int feed[2], quiet[2];

FRAME void call_lock(pthread_mutex_t *which) { pthread_mutex_lock(which); }

FRAME ssize_t call_read(char *byte) { return read(feed[0], byte, 1); }

FRAME int call_poll(void) {
    struct pollfd nothing = {.fd = quiet[0], .events = POLLIN};
    return poll(&nothing, 1, 15);
}

FRAME void nap(void) {
    sleep_ns(20000000);
    truth_sink++;
}

FRAME void short_nap(void) {
    sleep_ns(400000);
    truth_sink++;
}

FRAME void take_lock(void) {
    call_lock(&mutex);
    truth_sink++;
}

FRAME void read_pipe(void) {
    char byte;
    if (call_read(&byte) != 1) truth_stop = 1;
    truth_sink++;
}

FRAME void poll_nothing(void) {
    call_poll();
    truth_sink++;
}

FRAME void stay(void) {
    call_lock(&end_mutex);
    pthread_mutex_unlock(&end_mutex);
    truth_sink++;
}

FRAME void enter_wait(void (*wait)(void)) {
    wait();
    truth_sink ^= 1;
}

static void wait_once(const char *name, void (*wait)(void)) {
    span_begin(name);
    enter_wait(wait);
    span_end(0);
}

FRAME void *naps_body(void *unused) {
    truth_thread("naps");
    while (!truth_stopped()) {
        wait_once("nap", nap);
        truth_sink ^= churn(truth_sink, ROUNDS);
    }
    truth_thread_end();
    return unused;
}

FRAME void *short_naps_body(void *unused) {
    truth_thread("short_naps");
    while (!truth_stopped()) wait_once("short_nap", short_nap);
    truth_thread_end();
    return unused;
}

FRAME void *locks_body(void *unused) {
    truth_thread("locks");
    while (!truth_stopped()) {
        wait_once("take_lock", take_lock);
        pthread_mutex_unlock(&mutex);
        wait_once("let_go", nap);
    }
    truth_thread_end();
    return unused;
}

FRAME void *lock_holder_body(void *unused) {
    truth_thread("lock_holder");
    while (!truth_stopped()) {
        pthread_mutex_lock(&mutex);
        sleep_ns(30000000);
        pthread_mutex_unlock(&mutex);
        sleep_ns(5000000);
    }
    truth_thread_end();
    return unused;
}

FRAME void *pipes_body(void *unused) {
    truth_thread("pipes");
    while (!truth_stopped()) {
        wait_once("read_pipe", read_pipe);
        truth_sink ^= churn(truth_sink, ROUNDS);
    }
    truth_thread_end();
    return unused;
}

FRAME void *pipe_feeder_body(void *unused) {
    truth_thread("pipe_feeder");
    while (!truth_stopped()) {
        sleep_ns(25000000);
        if (write(feed[1], "x", 1) != 1) truth_fail("write to the pipe");
    }
    /* The reader may have gone back to its wait. */
    close(feed[1]);
    truth_thread_end();
    return unused;
}

FRAME void *polls_body(void *unused) {
    truth_thread("polls");
    while (!truth_stopped()) {
        wait_once("poll_nothing", poll_nothing);
        truth_sink ^= churn(truth_sink, ROUNDS);
    }
    truth_thread_end();
    return unused;
}

FRAME void *never_runs_body(void *unused) {
    truth_thread("never_runs");
    wait_once("stay", stay);
    truth_thread_end();
    return unused;
}

/* Until the thread with this name sleeps; the one that is asked for sleeps once. */
static void await_sleep(const char *comm) {
    for (int i = 0; i < truth_count; i++) {
        if (strcmp(truth_threads[i].comm, comm)) continue;
        char path[64], text[256], *state;
        snprintf(path, sizeof path, "/proc/self/task/%d/stat", (int)truth_threads[i].tid);
        do {
            sleep_ns(1000000);
            int file = open(path, O_RDONLY);
            ssize_t length = read(file, text, sizeof text - 1);
            close(file);
            if (length <= 0) truth_fail(path);
            text[length] = 0;
            state = strrchr(text, ')');
        } while (!state || state[2] != 'S');
    }
}

int main(void) {
    truth_begin("waits");
    if (pipe(feed) || pipe(quiet)) truth_fail("pipe");
    pthread_mutex_lock(&end_mutex);
    void *(*bodies[])(void *) = {naps_body,  short_naps_body,  locks_body, lock_holder_body,
                                 pipes_body, pipe_feeder_body, polls_body, never_runs_body};
    enum { THREADS = sizeof bodies / sizeof *bodies };
    pthread_t threads[THREADS];
    for (int i = 0; i < THREADS; i++)
        if (pthread_create(&threads[i], NULL, bodies[i], NULL)) truth_fail("pthread_create");
    while (truth_begun < THREADS + 1) sleep_ns(1000000);
    await_sleep("never_runs");
    truth_ready();
    wait_for_stop();
    pthread_mutex_unlock(&end_mutex);
    for (int i = 0; i < THREADS; i++) pthread_join(threads[i], NULL);
    truth_write();
    return 0;
}
