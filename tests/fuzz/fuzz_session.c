/* What texts leave behind: any bytes, by both rules for backslashes. The quick pass may never miss
 * what the reading finds. */
#include "wire/session.h"

#include "base/mem.h"
#include "base/state.h"

#include <stdint.h>
#include <string.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void
tell(void *arg, const char *name, enum session_name kind)
{
    size_t *names = arg;
    size_t size = kind == NAME_SETTING ? 2 * SESSION_NAME_SIZE : SESSION_NAME_SIZE;

    ensure(name[0] != '\0' && strlen(name) < size);
    ++*names;
}

int
LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    /* Texts end at their first zero byte; without one behind it, so that reading past the end is an
     * error. */
    size_t names = 0;
    size = strnlen((const char *)data, size);
    char *exact = mem_new(size > 0 ? size : 1);

    memcpy(exact, data, size);
    bool is_suspect = session_is_suspect(exact, size);
    for (int escapes = 0; escapes < 2; escapes++) {
        unsigned marks = session_read(exact, size, escapes == 1, tell, &names);
        /* What is not terminated is refused by PostgreSQL, whatever is in it. */
        ensure(is_suspect || marks == 0 || (marks & SESSION_UNNAMED) != 0);
    }
    free(exact);
    return 0;
}
