/* The console's language. Called by ops/console; calls nothing. */
#include "ops/commands.h"

#include "base/text.h"
#include "ops/show.h"

#include <ctype.h>
#include <strings.h>

static const struct command
{
    const char *name;
    enum action action;
    bool is_for_admins;
    const char *missing; /* why it cannot be done, or NULL */
} commands[] = {
    {"SHOW", ACTION_SHOW, false, NULL},
    {"SELECT", ACTION_SHOW, false, NULL},
    {"RELOAD", ACTION_RELOAD, true, NULL},
    {"RECONNECT", ACTION_RECONNECT, true, NULL},
    {"SHUTDOWN", ACTION_SHUTDOWN, true, NULL},
    {"SET", ACTION_NOTHING, false, NULL},
    {"RESET", ACTION_NOTHING, false, NULL},
    {"BEGIN", ACTION_NOTHING, false, NULL},
    {"START", ACTION_NOTHING, false, NULL},
    {"COMMIT", ACTION_NOTHING, false, NULL},
    {"ROLLBACK", ACTION_NOTHING, false, NULL},
    {"DISCARD", ACTION_NOTHING, false, NULL},
    {"DEALLOCATE", ACTION_NOTHING, false, NULL},
    {"PAUSE", ACTION_NOTHING, true, "PAUSE"},
    {"RESUME", ACTION_NOTHING, true, "RESUME"},
    {"SUSPEND", ACTION_NOTHING, true, "SUSPEND"},
    {"DISABLE", ACTION_NOTHING, true, "DISABLE"},
    {"ENABLE", ACTION_NOTHING, true, "ENABLE"},
    {"KILL", ACTION_NOTHING, true, "KILL"},
    {"KILL_CLIENT", ACTION_NOTHING, true, "KILL_CLIENT"},
    {"WAIT_CLOSE", ACTION_NOTHING, true, "WAIT_CLOSE"},
};

enum
{
    COMMANDS = sizeof(commands) / sizeof(commands[0])
};

/* SET of anything else is a driver's wish about its session, and harmless. */
static const char *const own_keys[] = {
#define SETTING(key, ...) #key,
#include "conf/settings.def"
#undef SETTING
};

/* What drivers ask a PostgreSQL for. */
static const struct
{
    const char *name, *value;
} fakes[] = {
    {"client_encoding", "UTF8"},
    {"datestyle", "ISO, MDY"},
    {"default_transaction_isolation", "read committed"},
    {"default_transaction_read_only", "off"},
    {"search_path", "public"},
    {"server_version", "15.0"},
    {"standard_conforming_strings", "on"},
    {"timezone", "UTC"},
    {"transaction_isolation", "read committed"},
    {"transaction isolation level", "read committed"},
    {"transaction_read_only", "off"},
};

/* The next word of a statement, upper case or not; a semicolon ends it. */
static void
next_word(const char **at, char *word, size_t size)
{
    *at += strspn(*at, " \t\r\n");
    size_t len = strcspn(*at, " \t\r\n;()");
    snprintf(word, size, "%.*s", (int)(len < size ? len : size - 1), *at);
    *at += len;
}

/* Everything up to the end without blanks and semicolons around it. */
static void
rest_of(const char *at, char *rest, size_t size)
{
    at += strspn(at, " \t\r\n");
    size_t len = strlen(at);
    while (len > 0 && strchr(" \t\r\n;", at[len - 1]) != NULL) {
        len--;
    }
    snprintf(rest, size, "%.*s", (int)(len < size ? len : size - 1), at);
}

static bool
unknown(const char *what, const char *word, const char *guess, struct fail *fail)
{
    fail_set(fail, "42601", "unknown %s \"%s\"", what, word);
    if (guess != NULL) {
        fail_detail(fail, "Did you mean \"%s\"?", guess);
    } else {
        fail_detail(fail, "SHOW HELP lists what there is.");
    }
    return false;
}

/* The nearest name so far to a word. */
struct guess
{
    const char *name;
    unsigned distance;
};

/* Up to a third of the letters may be wrong. */
static struct guess
guess_for(const char *word)
{
    return (struct guess){NULL, (unsigned)(strlen(word) + 2) / 3 + 1};
}

static void
consider(struct guess *guess, const char *name, const char *word)
{
    char upper[64];
    size_t i;

    for (i = 0; word[i] != '\0' && i < sizeof(upper) - 1; i++) {
        upper[i] = (char)toupper((unsigned char)word[i]);
    }
    upper[i] = '\0';
    unsigned distance = text_distance(name, upper, 3);
    if (distance <= 3 && distance < guess->distance) {
        *guess = (struct guess){name, distance};
    }
}

static bool
parse_show(const char *rest, struct console_statement *statement, struct fail *fail)
{
    char word[64];

    rest_of(rest, word, sizeof(word));
    statement->tag = "SHOW";
    if (strcasecmp(word, "HELP") == 0 || word[0] == '\0') {
        statement->action = ACTION_HELP;
        return true;
    }
    statement->show = show_find(word);
    if (statement->show != NULL) {
        return true;
    }
    for (size_t i = 0; i < sizeof(fakes) / sizeof(fakes[0]); i++) {
        if (strcasecmp(word, fakes[i].name) == 0) {
            statement->action = ACTION_FAKE;
            statement->fake_name = fakes[i].name;
            statement->fake_value = fakes[i].value;
            return true;
        }
    }
    struct guess guess = guess_for(word);
    for (size_t i = 0; show_name(i) != NULL; i++) {
        consider(&guess, show_name(i), word);
    }
    return unknown("SHOW", word, guess.name, fail);
}

/* PgBouncer's SET changes a setting at run time: nobody is told that it was done when it was
 * not. */
static bool
parse_set(const char *rest, bool is_admin, struct fail *fail)
{
    char key[64];

    rest += strspn(rest, " \t\r\n");
    size_t len = strcspn(rest, " \t\r\n=;");
    snprintf(key, sizeof(key), "%.*s", (int)(len < sizeof(key) ? len : sizeof(key) - 1), rest);
    for (size_t i = 0; i < sizeof(own_keys) / sizeof(own_keys[0]); i++) {
        if (strcasecmp(key, own_keys[i]) != 0) {
            continue;
        }
        if (!is_admin) {
            return fail_set(fail, "42501", "only users in admin_users may change settings");
        }
        fail_set(fail, "0A000", "SET of \"%s\" is not supported yet", own_keys[i]);
        return fail_detail(fail, "Change it in the configuration and RELOAD.");
    }
    return true;
}

static const struct command *
find_command(const char *word)
{
    for (int i = 0; i < COMMANDS; i++) {
        if (strcasecmp(commands[i].name, word) == 0) {
            return &commands[i];
        }
    }
    return NULL;
}

bool
console_statement_parse(
    const char *sql, bool is_admin, struct console_statement *statement, struct fail *fail)
{
    char word[64];

    memset(statement, 0, sizeof(*statement));
    next_word(&sql, word, sizeof(word));
    rest_of(sql, statement->argument, sizeof(statement->argument));
    if (word[0] == '\0') {
        statement->action = ACTION_EMPTY;
        return true;
    }
    const struct command *command = find_command(word);
    if (command == NULL) {
        struct guess guess = guess_for(word);
        for (int i = 0; i < COMMANDS; i++) {
            consider(&guess, commands[i].name, word);
        }
        return unknown("command", word, guess.name, fail);
    }
    if (command->is_for_admins && !is_admin) {
        return fail_set(fail, "42501", "only users in admin_users may use %s", command->name);
    }
    if (command->missing != NULL) {
        return fail_set(fail, "0A000", "%s is not supported yet", command->missing);
    }
    statement->action = command->action;
    statement->tag = command->name;
    if (strcmp(command->name, "SET") == 0) {
        return parse_set(sql, is_admin, fail);
    }
    return command->action != ACTION_SHOW || parse_show(sql, statement, fail);
}
