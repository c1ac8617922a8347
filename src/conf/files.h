/*
 * The texts of all files that settings come from, as they were last read. SET changes one key and
 * nothing else, so it reads them from here: whatever somebody has begun to edit is left to the next
 * reload. Main thread.
 */
#pragma once

#include <stdbool.h>
#include <stddef.h>

/* A load begins. is_again: with the texts of the last good one; files it did not have are read. */
void files_begin(bool is_again);

/* It is over. Good: its texts are the ones to remember. Else those of before are. */
void files_end(bool is_good);

/* A whole file, zero-terminated; NULL with errno. The caller wipes and frees. */
char *files_read(const char *path, size_t *len_out);
