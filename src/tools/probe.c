/*
 * `pgkeel wait` waits until a query works through the pooler, `pgkeel healthcheck` tells whether
 * the process is alive. Called by tools/tools; calls libpq.
 */
#include "conf/settings.h"
#include "tools/tool.h"

#include <libpq-fe.h>
#include <stdlib.h>
#include <unistd.h>

enum
{
    WAIT_US = 60000000,
    HEALTHCHECK_US = 5000000,
    PAUSE_US = 200000
};

static bool
answers(PGconn *conn, const char *sql, struct fail *fail)
{
    if (conn == NULL) {
        return false;
    }
    PGresult *result = PQexec(conn, sql);
    bool is_right = PQresultStatus(result) == PGRES_TUPLES_OK;
    if (!is_right) {
        tool_fail(fail, conn);
    }
    PQclear(result);
    PQfinish(conn);
    return is_right;
}

/* Whatever libpq says may be over in a moment; that the command line names no user is not. */
int
wait_run(const struct tool *tool)
{
    struct fail fail;

    tool_limit(tool->timeout_us > 0 ? tool->timeout_us : WAIT_US);
    while (!answers(tool_database(tool, &fail), "SELECT 1", &fail)) {
        bool is_hopeless = strcmp(fail.sqlstate, "08001") != 0;
        if (is_hopeless) {
            fprintf(stderr, "pgkeel: %s\n", fail.text);
            return EXIT_FAILURE;
        }
        tool_note(fail.text);
        usleep(PAUSE_US);
    }
    return EXIT_SUCCESS;
}

/* The console's table of pools comes from all threads: whoever answers with it is alive as a whole.
 * Without a way into the console, whether the process answers at all. */
int
healthcheck_run(const struct tool *tool)
{
    struct fail fail;

    tool_limit(tool->timeout_us > 0 ? tool->timeout_us : HEALTHCHECK_US);
    if (answers(tool_console(tool, &fail), "SHOW POOLS", &fail) || tool_greets(tool)) {
        puts("healthy");
        return EXIT_SUCCESS;
    }
    fprintf(stderr, "pgkeel: %s\n", fail.text);
    return EXIT_FAILURE;
}
