/* Two processes hand a byte to and fro through two pipes. On one CPU every hand-over is a context switch between
 * them. One unit is one round, there and back. */
#include "counter.h"

static FRAME void pass(int from, int to) {
    char byte;
    if (read(from, &byte, 1) != 1 || write(to, &byte, 1) != 1) _exit(0);
}

int main(int count, char **arguments) {
    int there[2], back[2];
    begin(count, arguments);
    if (pipe(there) || pipe(back)) fail("pipe");
    pid_t parent = getpid();
    pid_t other = fork();
    if (other < 0) fail("fork");
    if (other == 0) {
        prctl(PR_SET_PDEATHSIG, SIGKILL);
        if (getppid() != parent) _exit(0);
        for (;;) pass(there[0], back[1]);
    }
    if (write(there[1], "x", 1) != 1) fail("write");
    for (;;) {
        pass(back[0], there[1]);
        ++*units;
    }
}
