/* Settings of sessions. Called by login and relay; calls pool/vars and the backend. */
#include "client/params.h"

#include "base/mem.h"
#include "base/text.h"
#include "wire/startup.h"

#include <strings.h>

struct collecting
{
    struct vars *wanted;
    const struct settings *settings;
};

static bool
is_utf8(const char *value)
{
    const unsigned char *at = (const unsigned char *)value;
    size_t len = 1;

    while (*at != '\0' && len > 0) {
        len = text_utf8_len(at);
        at += len;
    }
    return len > 0;
}

/* A program's name comes in whatever encoding it has. PostgreSQL takes any bytes in the first
 * packet and shows '?' for what is not ASCII; in a SET they must be valid. */
static void
put_name(struct vars *wanted, const char *name, const char *value)
{
    char *clean = mem_string(value);
    bool is_valid = is_utf8(value);

    for (char *at = clean; *at != '\0' && !is_valid; at++) {
        *at = *at < 32 || *at > 126 ? '?' : *at;
    }
    vars_put(wanted, name, clean);
    free(clean);
}

static void
collect(void *arg, const char *name, const char *value)
{
    struct collecting *collecting = arg;

    if (name[0] == '\0' || settings_lists(collecting->settings->ignore_startup_parameters, name)) {
        return;
    }
    if (strcasecmp(name, "application_name") == 0) {
        put_name(collecting->wanted, name, value);
    } else {
        vars_put(collecting->wanted, name, value);
    }
}

bool
params_collect(const struct startup *startup, const struct settings *settings, struct vars *wanted,
    struct fail *fail)
{
    struct collecting collecting = {wanted, settings};
    const char *name, *value;
    size_t cursor = 0;
    bool ignores_options = settings_lists(settings->ignore_startup_parameters, "options");

    if (startup->options != NULL && !ignores_options &&
        !startup_split_options(startup->options, collect, &collecting)) {
        return fail_set(fail, "22023", "invalid command-line arguments for server process: %s",
            startup->options);
    }
    while (startup_next_param(startup, &cursor, &name, &value)) {
        collect(&collecting, name, value);
    }
    return true;
}

void
params_add_host(struct vars *wanted, const char *peer)
{
    const char *name = vars_find(wanted, "application_name");
    struct buf buf = {0};

    buf_print(&buf, "%s - %s", name != NULL ? name : "app", peer);
    buf_add_u8(&buf, 0);
    vars_put(wanted, "application_name", (const char *)buf_head(&buf));
    buf_deinit(&buf);
}

/* PostgreSQL keeps printable ASCII as it is. */
static bool
is_plain_text(const char *value)
{
    for (; *value != '\0'; value++) {
        if (*value < 32 || *value > 126) {
            return false;
        }
    }
    return true;
}

bool
params_start(struct client *client, const struct vars *reported, const struct vars *wanted)
{
    const char *name, *value;
    uint32_t cursor = 0;
    bool must_ask = false;

    while (vars_next(reported, &cursor, &name, &value)) {
        if (backend_manages(name)) {
            vars_put(&client->vars, name, value);
        }
    }
    cursor = 0;
    while (vars_next(wanted, &cursor, &name, &value)) {
        const char *present = vars_find(&client->vars, name);
        bool is_same = present != NULL && strcmp(present, value) == 0;
        bool is_name = strcasecmp(name, "application_name") == 0 && is_plain_text(value);
        must_ask = must_ask || (!is_same && !is_name);
        vars_put(&client->vars, name, value);
    }
    return must_ask;
}

bool
params_apply(struct client *client)
{
    struct backend *backend = client->lease.backend;
    struct buf sql = {0};

    if (vars_are_equal(&client->vars, &backend->vars)) {
        return true;
    }
    vars_sql(&backend->vars, &client->vars, &sql);
    buf_add_u8(&sql, 0);
    backend->replies.is_broken = false;
    backend->duty.is_preparing = true;
    backend_send_query(backend, (const char *)buf_head(&sql));
    buf_deinit(&sql);
    return false;
}

bool
params_applied(struct client *client, struct fail *fail)
{
    struct backend *backend = client->lease.backend;
    const char *name, *value;
    uint32_t cursor = 0;

    if (backend->replies.is_broken) {
        if (backend->refusal == NULL) {
            return fail_set(fail, "08P01", "the server refused the settings of this session");
        }
        *fail = *backend->refusal;
        return false;
    }
    backend->duty.is_preparing = false;
    /* What PostgreSQL reports is known from its reports, under its canonical value; the rest is as
     * the client said. */
    struct vars applied = {0};
    while (vars_next(&client->vars, &cursor, &name, &value)) {
        const char *reported =
            backend_reports(backend, name) ? vars_find(&backend->vars, name) : NULL;
        vars_put(&applied, name, reported != NULL ? reported : value);
    }
    vars_copy(&client->vars, &applied);
    vars_copy(&backend->vars, &applied);
    vars_deinit(&applied);
    return true;
}
