/*
 * `pgkeel top`: pools and databases, again and again. Called by tools/tools; calls libpq and the
 * terminal. Where standard output is no terminal it prints once.
 *
 * Rates are differences of SHOW STATS between two looks; the first look, and the only one without a
 * terminal, has the averages that the daemon takes itself.
 */
#include "base/buf.h"
#include "base/mem.h"
#include "conf/settings.h"
#include "tools/tool.h"

#include <libpq-fe.h>
#include <poll.h>
#include <stdlib.h>
#include <sys/ioctl.h>
#include <termios.h>
#include <time.h>
#include <unistd.h>

enum
{
    REFRESH_MS = 1000,
    CELL_MAX = 64,
    CTRL_C = 3
};

/* What was seen at one time; NULL where the daemon did not answer. */
struct look
{
    PGresult *pools, *stats, *version; /* own */
    double at_s;
    char trouble[480]; /* "": none */
};

/* ---- looking ---- */

static double
now_s(void)
{
    struct timespec now;

    clock_gettime(CLOCK_MONOTONIC, &now);
    return (double)now.tv_sec + (double)now.tv_nsec / 1e9;
}

static void
forget(struct look *look)
{
    PQclear(look->pools);
    PQclear(look->stats);
    PQclear(look->version);
    memset(look, 0, sizeof(*look));
}

static PGresult *
ask(PGconn *conn, const char *sql, struct look *look)
{
    PGresult *result = PQexec(conn, sql);

    if (PQresultStatus(result) != PGRES_TUPLES_OK) {
        struct fail fail;
        tool_fail(&fail, conn);
        memcpy(look->trouble, fail.text, sizeof(look->trouble));
        PQclear(result);
        return NULL;
    }
    return result;
}

/* A restarted daemon is connected to again. */
static struct look
look_at(const struct tool *tool, PGconn **conn)
{
    struct look look = {.at_s = now_s()};
    struct fail fail;

    if (*conn != NULL && PQstatus(*conn) != CONNECTION_OK) {
        PQfinish(*conn);
        *conn = NULL;
    }
    if (*conn == NULL) {
        *conn = tool_console(tool, &fail);
    }
    if (*conn == NULL) {
        snprintf(look.trouble, sizeof(look.trouble), "%s", fail.text);
        return look;
    }
    look.pools = ask(*conn, "SHOW POOLS", &look);
    look.stats = ask(*conn, "SHOW STATS", &look);
    look.version = ask(*conn, "SHOW VERSION", &look);
    return look;
}

/* ---- values ---- */

static const char *
value(const PGresult *result, int row, const char *column)
{
    int number = result != NULL ? PQfnumber(result, column) : -1;

    return number >= 0 ? PQgetvalue(result, row, number) : "";
}

static double
number(const PGresult *result, int row, const char *column)
{
    return strtod(value(result, row, column), NULL);
}

static double
sum(const PGresult *result, const char *column)
{
    double total = 0;

    for (int row = 0; result != NULL && row < PQntuples(result); row++) {
        total += number(result, row, column);
    }
    return total;
}

static int
row_of(const PGresult *stats, const char *database)
{
    for (int row = 0; stats != NULL && row < PQntuples(stats); row++) {
        if (strcmp(value(stats, row, "database"), database) == 0) {
            return row;
        }
    }
    return -1;
}

/* Per second since the look before, or the daemon's own average. */
static double
rate(const struct look *now, const struct look *before, int row, const char *name)
{
    char total[CELL_MAX], average[CELL_MAX];
    int old = row_of(before->stats, value(now->stats, row, "database"));

    snprintf(total, sizeof(total), "total_%s", name);
    snprintf(average, sizeof(average), "avg_%s", name);
    double difference =
        old >= 0 ? number(now->stats, row, total) - number(before->stats, old, total) : -1;
    return difference >= 0 ? difference / (now->at_s - before->at_s)
                           : number(now->stats, row, average);
}

/* Microseconds of one, on average. */
static double
mean_us(const struct look *now, const struct look *before, int row, const char *of)
{
    char time_name[CELL_MAX], count_name[CELL_MAX];

    snprintf(time_name, sizeof(time_name), "%s_time", of);
    snprintf(count_name, sizeof(count_name), "%s_count", of);
    double count = rate(now, before, row, count_name);
    int old = row_of(before->stats, value(now->stats, row, "database"));
    if (old < 0) {
        return number(now->stats, row, of[0] == 'x' ? "avg_xact_time" : "avg_query_time");
    }
    return count > 0 ? rate(now, before, row, time_name) / count : 0;
}

/* ---- drawing ---- */

struct screen
{
    struct buf text;
    int width, lines, max_lines; /* 0: as they come */
};

static void
end_line(struct screen *screen, struct buf *line)
{
    buf_add_u8(line, 0);
    char *text = (char *)buf_head(line);
    size_t len = strlen(text);

    while (len > 0 && text[len - 1] == ' ') {
        text[--len] = '\0';
    }
    if (screen->max_lines == 0 || screen->lines < screen->max_lines - 1) {
        int fitting = screen->width > 0 ? table_fit(text, screen->width) : (int)len;
        buf_print(&screen->text, "%.*s%s\n", fitting, text, screen->max_lines > 0 ? "\033[K" : "");
        screen->lines++;
    }
    buf_clear(line);
}

static void
add_name(struct buf *line, const char *text, int width)
{
    int len = table_fit(text, width);

    for (int i = 0; i < len; i++) {
        buf_add_u8(line, (unsigned char)text[i] < ' ' ? '.' : (uint8_t)text[i]);
    }
    buf_print(line, "%*s ", width - table_width(text) > 0 ? width - table_width(text) : 0, "");
}

static void
add_time(struct buf *line, double us)
{
    if (us < 1e3) {
        buf_print(line, "%8.0fus", us);
    } else if (us < 1e6) {
        buf_print(line, "%8.1fms", us / 1e3);
    } else {
        buf_print(line, "%9.1fs", us / 1e6);
    }
}

static const PGresult *sorted; /* what `compare` compares rows of */

/* Those that have clients waiting first, then the busiest. */
static int
compare(const void *left, const void *right)
{
    static const char *const by[] = {"cl_waiting", "sv_active", "cl_active"};
    int a = *(const int *)left, b = *(const int *)right;

    for (size_t i = 0; i < sizeof(by) / sizeof(by[0]); i++) {
        double difference = number(sorted, b, by[i]) - number(sorted, a, by[i]);
        if (difference > 0 || difference < 0) {
            return difference > 0 ? 1 : -1;
        }
    }
    int names = strcmp(value(sorted, a, "database"), value(sorted, b, "database"));
    return names != 0 ? names : strcmp(value(sorted, a, "user"), value(sorted, b, "user"));
}

static void
draw_pools(struct screen *screen, const struct look *now)
{
    int rows = now->pools != NULL ? PQntuples(now->pools) : 0;
    int *order = mem_new(((size_t)rows + 1) * sizeof(int));
    struct buf line = {0};

    for (int i = 0; i < rows; i++) {
        order[i] = i;
    }
    sorted = now->pools;
    qsort(order, (size_t)rows, sizeof(int), compare);
    buf_print(&line, "%-20s %-16s %8s %8s %6s %6s %6s %10s  %s", "database", "user", "clients",
        "waiting", "busy", "idle", "login", "longest", "mode");
    end_line(screen, &line);
    for (int i = 0; i < rows; i++) {
        int row = order[i];
        add_name(&line, value(now->pools, row, "database"), 20);
        add_name(&line, value(now->pools, row, "user"), 16);
        buf_print(&line, "%8.0f %8.0f %6.0f %6.0f %6.0f ", number(now->pools, row, "cl_active"),
            number(now->pools, row, "cl_waiting"), number(now->pools, row, "sv_active"),
            number(now->pools, row, "sv_idle") + number(now->pools, row, "sv_used"),
            number(now->pools, row, "sv_login"));
        add_time(&line, number(now->pools, row, "maxwait") * 1e6 +
                            number(now->pools, row, "maxwait_us"));
        buf_print(&line, "  %s", value(now->pools, row, "pool_mode"));
        end_line(screen, &line);
    }
    buf_deinit(&line);
    free(order);
}

static void
draw_databases(struct screen *screen, const struct look *now, const struct look *before)
{
    struct buf line = {0};
    bool has_p99 = now->stats != NULL && PQfnumber(now->stats, "p99_query_time") >= 0;

    end_line(screen, &line);
    buf_print(&line, "%-20s %10s %10s %10s %10s %10s %10s%s", "database", "trans/s", "queries/s",
        "in kB/s", "out kB/s", "trans", "query", has_p99 ? "        p99" : "");
    end_line(screen, &line);
    for (int row = 0; now->stats != NULL && row < PQntuples(now->stats); row++) {
        bool is_averaged = row_of(before->stats, value(now->stats, row, "database")) < 0;
        add_name(&line, value(now->stats, row, "database"), 20);
        buf_print(&line, "%10.1f %10.1f %10.1f %10.1f ", rate(now, before, row, "xact_count"),
            rate(now, before, row, "query_count"),
            rate(now, before, row, is_averaged ? "recv" : "received") / 1e3,
            rate(now, before, row, "sent") / 1e3);
        add_time(&line, mean_us(now, before, row, "xact"));
        buf_print(&line, " ");
        add_time(&line, mean_us(now, before, row, "query"));
        if (has_p99) {
            buf_print(&line, " ");
            add_time(&line, number(now->stats, row, "p99_query_time"));
        }
        end_line(screen, &line);
    }
    buf_deinit(&line);
}

static void
draw(struct screen *screen, const struct look *now, const struct look *before)
{
    struct buf line = {0};
    char clock[16];
    time_t wall = time(NULL);

    strftime(clock, sizeof(clock), "%H:%M:%S", localtime(&wall));
    buf_print(&line, "%s  %s  %.0f clients, %.0f waiting  %.0f server connections, %.0f busy",
        now->version != NULL && PQntuples(now->version) > 0 ? PQgetvalue(now->version, 0, 0)
                                                             : "pgkeel",
        clock, sum(now->pools, "cl_active") + sum(now->pools, "cl_waiting"),
        sum(now->pools, "cl_waiting"),
        sum(now->pools, "sv_active") + sum(now->pools, "sv_idle") + sum(now->pools, "sv_used"),
        sum(now->pools, "sv_active"));
    end_line(screen, &line);
    buf_print(&line, "%s", now->trouble);
    end_line(screen, &line);
    draw_pools(screen, now);
    draw_databases(screen, now, before);
    buf_deinit(&line);
}

/* ---- once, or live ---- */

static int
print_once(const struct look *look)
{
    struct screen screen = {0};
    const struct look none = {0};

    if (look->trouble[0] != '\0') {
        fprintf(stderr, "pgkeel: %s\n", look->trouble);
        return EXIT_FAILURE;
    }
    draw(&screen, look, &none);
    fwrite(buf_head(&screen.text), 1, buf_len(&screen.text), stdout);
    buf_deinit(&screen.text);
    return EXIT_SUCCESS;
}

static void
show(const struct look *now, const struct look *before)
{
    struct winsize size = {.ws_row = 24, .ws_col = 80};
    struct screen screen = {0};

    ioctl(STDOUT_FILENO, TIOCGWINSZ, &size);
    screen.width = size.ws_col > 0 ? size.ws_col : 80;
    screen.max_lines = size.ws_row > 1 ? size.ws_row : 24;
    draw(&screen, now, before);
    /* Home, what we have, and nothing below: without clearing first nothing flickers. */
    fputs("\033[H", stdout);
    fwrite(buf_head(&screen.text), 1, buf_len(&screen.text), stdout);
    fputs("\033[J\033[7m q quits \033[0m", stdout);
    fflush(stdout);
    buf_deinit(&screen.text);
}

/* False: the user wants no more. */
static bool
wait_for_key(void)
{
    struct pollfd keys = {.fd = STDIN_FILENO, .events = POLLIN};
    double until_s = now_s() + REFRESH_MS / 1000.0;
    char key;

    while (now_s() < until_s) {
        if (poll(&keys, 1, (int)((until_s - now_s()) * 1000) + 1) == 1) {
            bool is_over = read(STDIN_FILENO, &key, 1) != 1 || key == 'q' || key == CTRL_C;
            return !is_over;
        }
    }
    return true;
}

int
top_run(const struct tool *tool)
{
    PGconn *conn = NULL;
    struct look now = look_at(tool, &conn), before = {0};
    struct termios usual, raw;
    int status = EXIT_SUCCESS;

    bool is_terminal = isatty(STDOUT_FILENO) && tcgetattr(STDIN_FILENO, &usual) == 0;
    if (!is_terminal || now.trouble[0] != '\0') {
        status = print_once(&now);
    } else {
        raw = usual;
        raw.c_lflag &= ~(tcflag_t)(ICANON | ECHO | ISIG);
        tcsetattr(STDIN_FILENO, TCSANOW, &raw);
        fputs("\033[?1049h\033[?25l\033[2J", stdout);
        do {
            show(&now, &before);
            bool goes_on = wait_for_key();
            forget(&before);
            before = now;
            now = (struct look){0};
            if (!goes_on) {
                break;
            }
            now = look_at(tool, &conn);
        } while (true);
        fputs("\033[?25h\033[?1049l", stdout);
        fflush(stdout);
        tcsetattr(STDIN_FILENO, TCSANOW, &usual);
    }
    forget(&now);
    forget(&before);
    PQfinish(conn);
    return status;
}
