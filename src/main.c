/*
 * The command line: what to do, with which settings, and the exit status.
 *
 * Exit status: 0 all is well; 1 settings are wrong or something could not be opened; 2 the command
 * line is wrong.
 */
#include "base/log.h"
#include "conf/settings.h"
#include "daemon/certificates.h"
#include "daemon/daemon.h"
#include "daemon/process.h"
#include "net/tls.h"
#include "ops/console.h"
#include "ops/http.h"
#include "pool/dial.h"
#include "tools/tools.h"

#include <getopt.h>
#include <stdlib.h>
#include <unistd.h>

enum
{
    EXIT_WRONG_USE = 2,
    OPTION_CHECK = 256,
    OPTION_PRINT
};

enum action
{
    ACTION_SERVE,
    ACTION_CHECK,
    ACTION_PRINT,
};

struct command
{
    enum action action;
    enum settings_print print;
    struct daemon_options daemon;
    const char *overrides[4];
};

static const char usage[] =
    "pgkeel keeps PostgreSQL connections alive and shares them among clients.\n"
    "\n"
    "Usage: pgkeel [flags] [pgkeel.ini]\n"
    "       DATABASE_URL=postgresql://user:password@host/database pgkeel\n"
    "       pgkeel ctl|top|wait|healthcheck|restart [flags] [pgkeel.ini]\n"
    "\n"
    "  -d, --daemon            run in the background\n"
    "  -q, --quiet             nothing on standard error once it runs\n"
    "  -v, --verbose           log more; twice: each message\n"
    "  -u, --user=USER         become this user\n"
    "  -R, --reboot            take over from the process that serves; it lets its clients go\n"
    "      --check             read all settings, report every mistake, and exit\n"
    "      --print-settings[=table|ini|markdown|man]\n"
    "                          every key with value, origin and help, and exit\n"
    "  -V, --version           print the version and exit\n"
    "  -h, --help              print this and exit\n"
    "\n"
    "Beside one that runs, found by the same settings (--help behind the word says more):\n"
    "  ctl \"SHOW POOLS\"        run console commands\n"
    "  top                     pools and rates, live\n"
    "  wait                    until a query works through it\n"
    "  healthcheck             exit status 0 when it is alive\n"
    "  restart                 start the program anew, without refusing a connection\n"
    "\n"
    "Every key can be set by an environment variable: PGKEEL_LISTEN_PORT=6432. Without a file on\n"
    "the command line PGKEEL_CONFIG names it, to all of them.\n";

static const struct option options[] = {
    {"daemon", no_argument, NULL, 'd'},
    {"quiet", no_argument, NULL, 'q'},
    {"verbose", no_argument, NULL, 'v'},
    {"user", required_argument, NULL, 'u'},
    {"check", no_argument, NULL, OPTION_CHECK},
    {"print-settings", optional_argument, NULL, OPTION_PRINT},
    {"reboot", optional_argument, NULL, 'R'},
    {"version", no_argument, NULL, 'V'},
    {"help", no_argument, NULL, 'h'},
    {NULL, 0, NULL, 0},
};

static bool
read_print(const char *how, enum settings_print *print_out)
{
    static const char *const names[] = {[PRINT_TABLE] = "table",
        [PRINT_INI] = "ini",
        [PRINT_MARKDOWN] = "markdown",
        [PRINT_MAN] = "man"};

    for (int i = 0; i < (int)(sizeof(names) / sizeof(names[0])); i++) {
        if (how == NULL || strcmp(how, names[i]) == 0) {
            *print_out = (enum settings_print)i;
            return true;
        }
    }
    fprintf(stderr, "pgkeel: --print-settings knows table, ini, markdown and man, not \"%s\"\n",
        how);
    return false;
}

/* Says on standard error what the settings' reader found; information only matters to a running
 * daemon's log. */
static void
print_finding(void *arg, enum settings_severity severity, const char *place, const char *key,
    const char *text)
{
    static const char *const words[] = {
        [SETTINGS_INFO] = "note: ", [SETTINGS_WARNING] = "warning: ", [SETTINGS_ERROR] = ""};

    (void)arg;
    fprintf(
        stderr, "%s: %s%s%s%s\n", place, words[severity], key, key[0] != '\0' ? ": " : "", text);
}

static void
ignore_finding(void *arg, enum settings_severity severity, const char *place, const char *key,
    const char *text)
{
    (void)arg, (void)severity, (void)place, (void)key, (void)text;
}

/* Returns -1 to go on, or the exit status. */
static int
read_command(int argc, char **argv, struct command *command)
{
    static char verbose[32];
    int option, loudness = 0;

    while ((option = getopt_long(argc, argv, "dqvu:RVh", options, NULL)) != -1) {
        switch (option) {
        case 'd':
            command->daemon.goes_to_background = true;
            break;
        case 'q':
            command->daemon.is_quiet = true;
            break;
        case 'v':
            snprintf(verbose, sizeof(verbose), "verbose=%d", ++loudness);
            command->overrides[0] = verbose;
            break;
        case 'u':
            command->daemon.user = optarg;
            break;
        case OPTION_CHECK:
            command->action = ACTION_CHECK;
            break;
        case OPTION_PRINT:
            command->action = ACTION_PRINT;
            if (!read_print(optarg, &command->print)) {
                return EXIT_WRONG_USE;
            }
            break;
        case 'R':
            command->daemon.takes_over = true;
            if (optarg != NULL) {
                command->daemon.takeover_fd = atoi(optarg);
            }
            break;
        case 'V':
            puts("pgkeel " PGKEEL_VERSION);
            return EXIT_SUCCESS;
        case 'h':
            fputs(usage, stdout);
            return EXIT_SUCCESS;
        default:
            fputs("Try \"pgkeel --help\".\n", stderr);
            return EXIT_WRONG_USE;
        }
    }
    if (argc - optind > 1) {
        fprintf(
            stderr, "pgkeel: one configuration file at most, not also \"%s\"\n", argv[optind + 1]);
        return EXIT_WRONG_USE;
    }
    command->daemon.source.path = argc > optind ? argv[optind] : settings_usual_path();
    return -1;
}

static int
serve(struct settings *settings, const struct command *command)
{
    struct fail fail;
    struct http *http;

    if (!http_new(settings, &http, &fail)) {
        log_error("%s", fail.text);
        return EXIT_FAILURE;
    }
    struct daemon_options wishes = command->daemon;
    wishes.lodger = http_lodger(http);
    struct daemon *daemon = daemon_new(settings, &wishes, &fail);
    if (daemon == NULL) {
        log_error("%s", fail.text);
        http_free(&http);
        return EXIT_FAILURE;
    }
    console_init(daemon);
    sigset_t before;
    bool has_served = daemon_run(daemon, &fail);
    process_hold_signals(&before); /* the end has begun: another signal changes nothing */
    if (!has_served) {
        log_error("%s", fail.text);
    }
    http_free(&http);
    daemon_free(&daemon);
    return has_served ? EXIT_SUCCESS : EXIT_FAILURE;
}

static int
check_files(const struct settings *settings)
{
    struct tls *tls;
    struct fail fail;

    if (!certificates_load(settings, &tls, &fail)) {
        fprintf(stderr, "%s\n", fail.text);
        return EXIT_FAILURE;
    }
    tls_release(&tls);
    puts("settings are valid");
    return EXIT_SUCCESS;
}

int
main(int argc, char **argv)
{
    struct command command = {.daemon = {.console = &console_handler, .takeover_fd = -1}};

    if (argc > 1 && tools_has(argv[1])) {
        return tools_run(argc, argv);
    }
    process_remember(argv);

    process_hide();
    int status = read_command(argc, argv, &command);
    if (status >= 0) {
        return status;
    }
    command.daemon.source.environment = environ;
    command.daemon.source.overrides = command.overrides;
    command.daemon.source.parse_conninfo = dial_parse_conninfo;
    /* The reference and the sample are printed without any settings, too. */
    bool wants_defaults = command.action == ACTION_PRINT && command.daemon.source.path == NULL &&
                          getenv("DATABASE_URL") == NULL;
    settings_report_fn *report = wants_defaults ? ignore_finding : print_finding;
    struct settings *settings = settings_load(&command.daemon.source, report, NULL);
    if (settings == NULL && !wants_defaults) {
        return EXIT_FAILURE;
    }
    switch (command.action) {
    case ACTION_SERVE:
        status = serve(settings, &command);
        break;
    case ACTION_CHECK:
        status = check_files(settings);
        break;
    case ACTION_PRINT:
        settings_print(settings, command.print, stdout);
        status = EXIT_SUCCESS;
        break;
    }
    settings_release(&settings);
    return status;
}
