/*
 * `pgkeel ctl` runs console commands, `pgkeel restart` starts a successor of the running process.
 * Called by tools/tools; calls libpq and daemon/control.
 */
#include "conf/settings.h"
#include "daemon/control.h"
#include "tools/tool.h"

#include <libpq-fe.h>
#include <stdlib.h>
#include <unistd.h>

static bool
run_command(PGconn *conn, const char *sql, enum table_form form)
{
    PGresult *result = PQexec(conn, sql);
    ExecStatusType status = PQresultStatus(result);
    bool is_done = true;

    if (status == PGRES_TUPLES_OK) {
        table_print(result, form);
    } else if (status == PGRES_COMMAND_OK && form == TABLE_PLAIN) {
        puts(PQcmdStatus(result));
    } else if (status != PGRES_COMMAND_OK && status != PGRES_EMPTY_QUERY) {
        fputs(PQerrorMessage(conn), stderr);
        is_done = false;
    }
    PQclear(result);
    return is_done;
}

int
ctl_run(const struct tool *tool)
{
    struct fail fail;
    bool are_done = true;

    if (tool->timeout_us > 0) {
        tool_limit(tool->timeout_us);
    }
    PGconn *conn = tool_console(tool, &fail);
    if (conn == NULL) {
        fprintf(stderr, "pgkeel: %s\n", fail.text);
        return EXIT_FAILURE;
    }
    for (char **word = tool->words; are_done && *word != NULL; word++) {
        are_done = run_command(conn, *word, tool->form);
    }
    PQfinish(conn);
    return are_done && fflush(stdout) == 0 ? EXIT_SUCCESS : EXIT_FAILURE;
}

int
restart_run(const struct tool *tool)
{
    struct control_message message = {.text = "failed it does not answer"};
    int64_t patience_us = tool->timeout_us > 0 ? tool->timeout_us : 30000000;
    char path[512];
    struct fail fail;
    int pid;

    if (!control_path(tool->settings, path, sizeof(path))) {
        fputs("pgkeel: online restart needs pidfile or unix_socket_dir\n", stderr);
        return EXIT_FAILURE;
    }
    int fd = control_connect(path, &fail);
    if (fd < 0) {
        fprintf(stderr, "pgkeel: %s\n", fail.text);
        return EXIT_FAILURE;
    }
    if (!control_send(fd, "restart", NULL, 0) ||
        control_await(fd, (int)(patience_us / 1000), &message) == CONTROL_OVER) {
        snprintf(message.text, sizeof(message.text), "failed it left without an answer");
    }
    close(fd);
    if (sscanf(message.text, "restarted %d", &pid) == 1) {
        printf("process %d serves; the one before it lets its clients go\n", pid);
        return EXIT_SUCCESS;
    }
    fprintf(stderr, "pgkeel: the running process says: %s\n", message.text);
    return EXIT_FAILURE;
}
