/* Starts children one after the other, each of which starts a grandchild that works in main -> grandchild_work for a
 * while and exits. Arguments: how many children, and the exit code of the whole. Prints "count CPU_NS": how
 * many grandchildren ended well and the CPU time of all of them. */
#include "truth.h"
#include <sys/resource.h>
#include <sys/wait.h>

FRAME uint64_t grandchild_work(void) {
    uint64_t result = 0;
    for (int i = 0; i < 100; i++) result ^= churn((uint64_t)i, ROUNDS);
    return result;
}

FRAME void grandchild(void) {
    truth_sink ^= grandchild_work();
    truth_sink ^= 1;
}

/* Exits with 0 if the grandchild did. */
static int child(void) {
    pid_t pid = fork();
    if (pid == 0) {
        prctl(PR_SET_NAME, "grandchild");
        grandchild();
        _exit(0);
    }
    int status = 0;
    return pid < 0 || waitpid(pid, &status, 0) != pid || status != 0;
}

int main(int count, char **arguments) {
    int children = count > 1 ? atoi(arguments[1]) : 10;
    int code = count > 2 ? atoi(arguments[2]) : 0;
    int well = 0;
    for (int i = 0; i < children; i++) {
        pid_t pid = fork();
        if (pid == 0) _exit(child());
        int status = 0;
        if (pid > 0 && waitpid(pid, &status, 0) == pid && status == 0) well++;
    }
    struct rusage used;
    getrusage(RUSAGE_CHILDREN, &used);
    uint64_t us = (uint64_t)(used.ru_utime.tv_sec + used.ru_stime.tv_sec) * 1000000u +
                  (uint64_t)(used.ru_utime.tv_usec + used.ru_stime.tv_usec);
    printf("%d %" PRIu64 "\n", well, us * 1000);
    return code;
}
