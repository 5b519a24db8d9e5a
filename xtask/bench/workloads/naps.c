/* Eight processes that sleep 10 ms at a time, 25 frames down: fewer waits than the agent's budget, all longer than
 * its threshold, so that every one of them is sampled. One unit is one wait of the first process. */
#include "counter.h"

/* libc has no frame pointers: a walk that begins in it skips its caller. */
static FRAME uint64_t call_nanosleep(uint64_t x) {
    struct timespec time = {0, 10000000};
    return x + (uint64_t)nanosleep(&time, NULL);
}

static FRAME uint64_t nap(uint64_t x) { return call_nanosleep(x) ^ 1; }

int main(int count, char **arguments) {
    begin(count, arguments);
    pid_t parent = getpid();
    for (int i = 0; i < 7; i++) {
        pid_t other = fork();
        if (other < 0) fail("fork");
        if (other > 0) continue;
        prctl(PR_SET_PDEATHSIG, SIGKILL);
        if (getppid() != parent) _exit(0);
        break;
    }
    for (;;) {
        sink ^= descend(LEVELS, sink, nap);
        if (getpid() == parent) ++*units;
    }
}
