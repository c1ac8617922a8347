/* The tools' command lines. Called by main.c; calls one tool. */
#include "tools/tools.h"

#include "base/text.h"
#include "conf/settings.h"
#include "pool/dial.h"
#include "tools/tool.h"

#include <getopt.h>
#include <stdlib.h>
#include <unistd.h>

enum
{
    EXIT_WRONG_USE = 2
};

static const struct kit
{
    const char *name;
    int (*run)(const struct tool *tool);
    int least_words, most_words; /* behind the options and the configuration file */
    const char *usage;
} kits[] = {
    {"ctl", ctl_run, 1, 1000, "ctl [--csv|--json] [pgkeel.ini] \"SHOW POOLS\" ..."},
    {"top", top_run, 0, 0, "top [pgkeel.ini]"},
    {"wait", wait_run, 0, 0, "wait [--timeout=60s] [-D DATABASE] [-U USER] [pgkeel.ini]"},
    {"healthcheck", healthcheck_run, 0, 0, "healthcheck [--timeout=5s] [pgkeel.ini]"},
    {"restart", restart_run, 0, 0, "restart [--timeout=30s] [pgkeel.ini]"},
};

static const struct option options[] = {
    {"file", required_argument, NULL, 'f'},
    {"database", required_argument, NULL, 'D'},
    {"user", required_argument, NULL, 'U'},
    {"timeout", required_argument, NULL, 't'},
    {"csv", no_argument, NULL, 'c'},
    {"json", no_argument, NULL, 'j'},
    {"help", no_argument, NULL, 'h'},
    {NULL, 0, NULL, 0},
};

static const struct kit *
find(const char *word)
{
    for (size_t i = 0; i < sizeof(kits) / sizeof(kits[0]); i++) {
        if (strcmp(kits[i].name, word) == 0) {
            return &kits[i];
        }
    }
    return NULL;
}

bool
tools_has(const char *word)
{
    return find(word) != NULL;
}

/* Only what keeps the settings from being read; the daemon says the rest. */
static void
print_error(void *arg, enum settings_severity severity, const char *place, const char *key,
    const char *text)
{
    (void)arg;
    if (severity == SETTINGS_ERROR) {
        fprintf(stderr, "%s: %s%s%s\n", place, key, key[0] != '\0' ? ": " : "", text);
    }
}

/* The daemon's settings. Where it listens is known without any database, too. */
static struct settings *
load(const char *path)
{
    struct settings_source source = {.path = path,
        .text = path == NULL ? "[databases]\n* =\n" : NULL,
        .environment = environ,
        .parse_conninfo = dial_parse_conninfo};

    return settings_load(&source, print_error, NULL);
}

/* A word that can only be a configuration file. */
static bool
is_file(const char *word)
{
    size_t len = strlen(word);

    return len > 4 && (strcmp(word + len - 4, ".ini") == 0 || strcmp(word + len - 4, ".cnf") == 0);
}

/* Returns -1 to go on, or the exit status. */
static int
read_options(int argc, char **argv, struct tool *tool, const char **path_out)
{
    int option;

    while ((option = getopt_long(argc, argv, "f:D:U:t:cjh", options, NULL)) != -1) {
        switch (option) {
        case 'f':
            *path_out = optarg;
            break;
        case 'D':
            tool->database = optarg;
            break;
        case 'U':
            tool->user = optarg;
            break;
        case 't':
            if (!text_parse_duration(optarg, &tool->timeout_us) || tool->timeout_us <= 0) {
                fprintf(stderr, "pgkeel: --timeout is a time like 60s, not \"%s\"\n", optarg);
                return EXIT_WRONG_USE;
            }
            break;
        case 'c':
            tool->form = TABLE_CSV;
            break;
        case 'j':
            tool->form = TABLE_JSON;
            break;
        case 'h':
            return EXIT_SUCCESS;
        default:
            return EXIT_WRONG_USE;
        }
    }
    return -1;
}

int
tools_run(int argc, char **argv)
{
    const struct kit *kit = find(argv[1]);
    struct tool tool = {0};
    const char *path = NULL;

    int status = read_options(argc - 1, argv + 1, &tool, &path);
    char **words = argv + 1 + optind;
    int count = argc - 1 - optind;
    if (path == NULL && count > 0 && (kit->most_words == 0 || is_file(words[0]))) {
        path = words[0];
        words++, count--;
    }
    if (status < 0 && (count < kit->least_words || count > kit->most_words)) {
        status = EXIT_WRONG_USE;
    }
    if (status >= 0) {
        fprintf(status == EXIT_SUCCESS ? stdout : stderr, "Usage: pgkeel %s\n", kit->usage);
        return status;
    }
    tool.words = words;
    tool.settings = load(path != NULL ? path : settings_usual_path());
    if (tool.settings == NULL) {
        return EXIT_FAILURE;
    }
    status = kit->run(&tool);
    settings_release(&tool.settings);
    return status;
}
