/* Writes past the page cache: main -> write_blocks -> write_block (O_DIRECT, 64 KiB) and, after every eighth,
 * sync_file (fdatasync). The first argument names the file. Spans of write_block carry their bytes. */
#include "truth.h"

#define BLOCK (64u << 10)
#define BLOCKS 128u

static void *block;

FRAME ssize_t call_write(int file, unsigned at) { return pwrite(file, block, BLOCK, (off_t)at * BLOCK); }

FRAME int call_sync(int file) { return fdatasync(file); }

FRAME void write_block(int file, unsigned at) {
    span_begin("write_block");
    if (call_write(file, at) != BLOCK) truth_fail("write");
    span_end(BLOCK);
}

FRAME void sync_file(int file) {
    span_begin("sync_file");
    if (call_sync(file)) truth_fail("fdatasync");
    span_end(0);
}

FRAME void write_blocks(int file) {
    for (unsigned turn = 0; !truth_stopped(); turn++) {
        write_block(file, turn % BLOCKS);
        if (turn % 8 == 7) {
            sync_file(file);
            sleep_ns(2000000);
        }
    }
    truth_sink++;
}

int main(int count, char **arguments) {
    if (count != 2) {
        fprintf(stderr, "usage: disk_writer FILE\n");
        return 2;
    }
    truth_begin("disk_writer");
    int file = open(arguments[1], O_RDWR | O_CREAT | O_DIRECT, 0600);
    if (file < 0) truth_fail(arguments[1]);
    if (posix_memalign(&block, 4096, BLOCK)) truth_fail("room for a block");
    memset(block, 7, BLOCK);
    /* Once through, so that later writes find their place allocated and change nothing but data. */
    for (unsigned at = 0; at < BLOCKS; at++)
        if (call_write(file, at) != BLOCK) truth_fail("write");
    if (fsync(file)) truth_fail("fsync");
    truth_ready();
    write_blocks(file);
    close(file);
    truth_thread_end();
    truth_write();
    return 0;
}
