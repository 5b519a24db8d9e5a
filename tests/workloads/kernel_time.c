/* Takes CPU time in the kernel: main -> drain -> drain_once reads /dev/zero, one span per read. */
#include "truth.h"

static char buffer[1 << 20];

FRAME ssize_t call_read(int file) { return read(file, buffer, sizeof buffer); }

FRAME void drain_once(int file) {
    span_begin("drain_once");
    if (call_read(file) != sizeof buffer) truth_fail("read");
    span_end(sizeof buffer);
}

FRAME void drain(int file) {
    while (!truth_stopped()) drain_once(file);
    truth_sink ^= 1;
}

int main(void) {
    truth_begin("kernel_time");
    int file = open("/dev/zero", O_RDONLY);
    if (file < 0) truth_fail("/dev/zero");
    truth_ready();
    drain(file);
    truth_thread_end();
    truth_write();
    return 0;
}
