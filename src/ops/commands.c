/* The console's language. Called by ops/console; calls nothing. */
#include "ops/commands.h"

#include "base/text.h"
#include "ops/show.h"

#include <ctype.h>
#include <strings.h>

enum argument
{
    ARGUMENT_ANY, /* whatever it is */
    ARGUMENT_NONE,
    ARGUMENT_DATABASE,
    ARGUMENT_DATABASE_OR_ALL,
    ARGUMENT_ID,
};

static const struct command
{
    const char *name;
    enum action action;
    bool is_for_admins;
    enum argument argument;
    const char *usage; /* in HELP; NULL: not there, or in the words of SHOW */
} commands[] = {
    {"SHOW", ACTION_SHOW, false, ARGUMENT_ANY, NULL},
    {"SELECT", ACTION_SHOW, false, ARGUMENT_ANY, NULL},
    {"SET", ACTION_SET, false, ARGUMENT_ANY, "SET key = value"},
    {"RELOAD", ACTION_RELOAD, true, ARGUMENT_NONE, "RELOAD"},
    {"PAUSE", ACTION_PAUSE, true, ARGUMENT_DATABASE_OR_ALL, "PAUSE [<db>]"},
    {"RESUME", ACTION_RESUME, true, ARGUMENT_DATABASE_OR_ALL, "RESUME [<db>]"},
    {"DISABLE", ACTION_DISABLE, true, ARGUMENT_DATABASE, "DISABLE <db>"},
    {"ENABLE", ACTION_ENABLE, true, ARGUMENT_DATABASE, "ENABLE <db>"},
    {"RECONNECT", ACTION_RECONNECT, true, ARGUMENT_DATABASE_OR_ALL, "RECONNECT [<db>]"},
    {"KILL", ACTION_KILL, true, ARGUMENT_DATABASE_OR_ALL, "KILL [<db>]"},
    {"KILL_CLIENT", ACTION_KILL_CLIENT, true, ARGUMENT_ID, "KILL_CLIENT <id>"},
    {"SUSPEND", ACTION_SUSPEND, true, ARGUMENT_NONE, "SUSPEND"},
    {"WAIT_CLOSE", ACTION_WAIT_CLOSE, true, ARGUMENT_DATABASE_OR_ALL, "WAIT_CLOSE [<db>]"},
    {"SHUTDOWN", ACTION_SHUTDOWN, true, ARGUMENT_ANY,
        "SHUTDOWN [WAIT_FOR_SERVERS|WAIT_FOR_CLIENTS]"},
    {"RESET", ACTION_NOTHING, false, ARGUMENT_ANY, NULL},
    {"BEGIN", ACTION_NOTHING, false, ARGUMENT_ANY, NULL},
    {"START", ACTION_NOTHING, false, ARGUMENT_ANY, NULL},
    {"COMMIT", ACTION_NOTHING, false, ARGUMENT_ANY, NULL},
    {"ROLLBACK", ACTION_NOTHING, false, ARGUMENT_ANY, NULL},
    {"DISCARD", ACTION_NOTHING, false, ARGUMENT_ANY, NULL},
    {"DEALLOCATE", ACTION_NOTHING, false, ARGUMENT_ANY, NULL},
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

/* Everything up to the end without blanks and semicolons around it. False when it is too long. */
static bool
rest_of(const char *at, char *rest, size_t size)
{
    at += strspn(at, " \t\r\n");
    size_t len = strlen(at);
    while (len > 0 && strchr(" \t\r\n;", at[len - 1]) != NULL) {
        len--;
    }
    snprintf(rest, size, "%.*s", (int)(len < size ? len : size - 1), at);
    return len < size;
}

/* Takes away quotes around the whole text; doubled ones in it are one. False: they do not match. */
static bool
unquote(char *text)
{
    char quote = text[0];
    char *to = text, *at = text + 1;

    if (quote != '"' && quote != '\'') {
        return true;
    }
    for (; *at != '\0' && (*at != quote || at[1] == quote); at++) {
        at += *at == quote;
        *to++ = *at;
    }
    bool is_closed = at[0] == quote && at[1] == '\0';
    *to = '\0';
    return is_closed;
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
parse_show(
    const char *rest, bool is_admin, struct console_statement *statement, struct fail *fail)
{
    char word[64];

    bool fits = rest_of(rest, word, sizeof(word));
    statement->tag = "SHOW";
    if (strcasecmp(word, "HELP") == 0 || word[0] == '\0') {
        statement->action = ACTION_HELP;
        return true;
    }
    statement->show = fits ? show_find(word) : NULL;
    if (statement->show != NULL) {
        return is_admin || !show_is_for_admins(statement->show) ||
               fail_set(fail, "42501", "only users in admin_users may use SHOW %s", word);
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

static const char *
find_own_key(const char *word)
{
    for (size_t i = 0; i < sizeof(own_keys) / sizeof(own_keys[0]); i++) {
        if (strcasecmp(word, own_keys[i]) == 0) {
            return own_keys[i];
        }
    }
    return NULL;
}

/* PgBouncer's SET changes one of our settings for everybody; SET of anything else is a driver's
 * wish about its session, and harmless. */
static bool
parse_set(
    const char *rest, bool is_admin, struct console_statement *statement, struct fail *fail)
{
    rest += strspn(rest, " \t\r\n");
    size_t len = strcspn(rest, " \t\r\n=;");
    snprintf(statement->key, sizeof(statement->key), "%.*s", (int)len, rest);
    const char *key = find_own_key(statement->key);
    if (key == NULL) {
        statement->action = ACTION_NOTHING;
        return true;
    }
    if (!is_admin) {
        return fail_set(fail, "42501", "only users in admin_users may change settings");
    }
    rest += len;
    rest += strspn(rest, " \t\r\n");
    if (*rest == '=') {
        rest++;
    } else if (strncasecmp(rest, "TO", 2) == 0 && isspace((unsigned char)rest[2])) {
        rest += 2;
    } else {
        return fail_set(fail, "42601", "expected SET %s = value", key);
    }
    if (!rest_of(rest, statement->argument, sizeof(statement->argument))) {
        return fail_set(fail, "54000", "the value of \"%s\" is too long for SET", key);
    }
    snprintf(statement->key, sizeof(statement->key), "%s", key);
    statement->is_default = strcasecmp(statement->argument, "DEFAULT") == 0;
    return unquote(statement->argument) || fail_set(fail, "42601", "a quote is not closed");
}

/* What stands behind the name of a command that is not SHOW or SET. */
static bool
parse_argument(const struct command *command, struct console_statement *statement,
    struct fail *fail)
{
    char *argument = statement->argument;
    bool is_empty = argument[0] == '\0';

    statement->concerns_database = command->argument == ARGUMENT_DATABASE ||
                                   command->argument == ARGUMENT_DATABASE_OR_ALL;
    switch (command->argument) {
    case ARGUMENT_NONE:
        return is_empty || fail_set(fail, "42601", "%s takes no argument", command->name);
    case ARGUMENT_DATABASE:
        if (is_empty) {
            return fail_set(fail, "42601", "a database is required: %s", command->usage);
        }
        break;
    case ARGUMENT_ID:
        if (is_empty || strspn(argument, "0123456789") != strlen(argument)) {
            return fail_set(fail, "42601", "%s takes an id of SHOW CLIENTS", command->name);
        }
        break;
    case ARGUMENT_DATABASE_OR_ALL:
    case ARGUMENT_ANY:
        break;
    }
    return command->argument == ARGUMENT_ANY || unquote(argument) ||
           fail_set(fail, "42601", "a quote is not closed");
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
    bool fits = rest_of(sql, statement->argument, sizeof(statement->argument));
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
    statement->action = command->action;
    statement->tag = command->name;
    if (command->action == ACTION_SET) {
        return parse_set(sql, is_admin, statement, fail);
    }
    if (command->action == ACTION_SHOW) {
        return parse_show(sql, is_admin, statement, fail);
    }
    if (!fits && command->argument != ARGUMENT_ANY) {
        return fail_set(fail, "42601", "the argument of %s is too long", command->name);
    }
    return parse_argument(command, statement, fail);
}

const char *
console_command_usage(size_t i)
{
    for (int at = 0; at < COMMANDS; at++) {
        if (commands[at].usage != NULL && i-- == 0) {
            return commands[at].usage;
        }
    }
    return NULL;
}
