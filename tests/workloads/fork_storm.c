/* Starts `short_lived` over and over, the second argument times a second; the first is its path. Each child says on its last
 * breath how much CPU time its work took. One span is one child: bytes are that time in nanoseconds, so that its sum over a
 * window is the truth of the window. */
#include "truth.h"
#include <sys/wait.h>

static int results[2];

static pid_t start_child(char *path) {
    char fd[16];
    snprintf(fd, sizeof fd, "%d", results[1]);
    char *arguments[] = {path, fd, NULL};
    char *environment[] = {NULL};
    pid_t pid = vfork();
    if (pid == 0) {
        execve(path, arguments, environment);
        _exit(127);
    }
    return pid;
}

/* Children end out of step; every result is one span. */
static void reap(void) {
    while (waitpid(-1, NULL, WNOHANG) > 0) continue;
    uint64_t cpu_ns;
    while (read(results[0], &cpu_ns, sizeof cpu_ns) == sizeof cpu_ns) {
        span_begin("short_cost");
        span_end(cpu_ns);
    }
}

int main(int count, char **arguments) {
    if (count < 3) return 2;
    uint64_t period_ns = 1000000000u / (uint64_t)atoi(arguments[2]);
    if (pipe2(results, O_NONBLOCK)) truth_fail("pipe2");
    truth_begin("fork_storm");
    truth_ready();
    uint64_t next = clock_ns(CLOCK_MONOTONIC);
    while (!truth_stopped()) {
        if (start_child(arguments[1]) < 0) truth_fail("vfork");
        reap();
        next += period_ns;
        uint64_t now = clock_ns(CLOCK_MONOTONIC);
        if (next > now)
            sleep_ns(next - now);
        else
            next = now;
    }
    while (wait(NULL) > 0) continue;
    reap();
    truth_thread_end();
    truth_write();
    return 0;
}
