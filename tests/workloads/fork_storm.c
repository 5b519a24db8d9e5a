/* Starts `short_lived` over and over, the second argument times a second; the first is its path. One span is one child
 * that has ended: its bytes are the CPU time it has had in nanoseconds, so that their sum over a window is the truth of
 * the window. */
#include "truth.h"
#include <sys/resource.h>
#include <sys/wait.h>

static pid_t start_child(char *path) {
    char *arguments[] = {path, NULL}, *environment[] = {NULL};
    pid_t pid = vfork();
    if (pid == 0) {
        execve(path, arguments, environment);
        _exit(127);
    }
    return pid;
}

static uint64_t time_ns(struct timeval time) {
    return (uint64_t)time.tv_sec * 1000000000u + (uint64_t)time.tv_usec * 1000u;
}

static int reap(int options) {
    struct rusage used;
    if (wait4(-1, NULL, options, &used) <= 0) return 0;
    span_begin("child");
    span_end(time_ns(used.ru_utime) + time_ns(used.ru_stime));
    return 1;
}

int main(int count, char **arguments) {
    if (count < 3) return 2;
    uint64_t period_ns = 1000000000u / (uint64_t)atoi(arguments[2]);
    truth_begin("fork_storm");
    truth_ready();
    uint64_t next = clock_ns(CLOCK_MONOTONIC);
    while (!truth_stopped()) {
        if (start_child(arguments[1]) < 0) truth_fail("vfork");
        while (reap(WNOHANG)) continue;
        next += period_ns;
        uint64_t now = clock_ns(CLOCK_MONOTONIC);
        if (next > now)
            sleep_ns(next - now);
        else
            next = now;
    }
    while (reap(0)) continue;
    truth_thread_end();
    truth_write();
    return 0;
}
