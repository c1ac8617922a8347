/* Which sockets to listen on. Called by daemon/daemon; calls net/listen. */
#include "daemon/listeners.h"

#include "base/log.h"
#include "conf/settings.h"
#include "net/listen.h"

#include <grp.h>

struct opening
{
    struct listener **list;
    struct listen_options options;
    int port;
};

typedef bool open_fn(struct opening *opening, const char *word, struct fail *fail);

static bool
each_word(const char *words, open_fn *fn, struct opening *opening, struct fail *fail)
{
    char word[256];

    while (*words != '\0') {
        words += strspn(words, ", \t");
        size_t len = strcspn(words, ", \t");
        if (len >= sizeof(word)) {
            return fail_set(fail, "58000", "an address in listen_addr is too long");
        }
        memcpy(word, words, len);
        word[len] = '\0';
        words += len;
        if (len > 0 && !fn(opening, word, fail)) {
            return false;
        }
    }
    return true;
}

static bool
open_tcp(struct opening *opening, const char *host, struct fail *fail)
{
    return listen_tcp(opening->list, host, opening->port, &opening->options, fail);
}

static bool
open_unix(struct opening *opening, const char *directory, struct fail *fail)
{
    /* As libpq has it: all of an abstract name begins with the @. */
    char path[300];

    snprintf(path, sizeof(path), "%s/.s.PGSQL.%d", directory, opening->port);
    return listen_unix(opening->list, path, &opening->options, fail);
}

/* What a service manager opened is what the administrator wrote down there. */
static bool
use_managed(struct listener **inherited, struct listener **list)
{
    struct listener **at = inherited;

    while (*at != NULL) {
        struct listener *listener = *at;
        if (!listen_is_managed(listener)) {
            at = listen_after(listener);
            continue;
        }
        listen_move(at, list);
    }
    return *list != NULL;
}

static bool
open_configured(const struct settings *settings, struct opening *opening, struct fail *fail)
{
    if (settings->unix_socket_group[0] != '\0') {
        const struct group *group = getgrnam(settings->unix_socket_group);
        if (group == NULL) {
            return fail_set(fail, "58000",
                "unix_socket_group \"%s\" does not exist on this machine",
                settings->unix_socket_group);
        }
        opening->options.unix_group = group->gr_gid;
    }
    /* TCP comes last: whoever finds the port open finds all the rest, too. */
    if (!each_word(settings->unix_socket_dir, open_unix, opening, fail) ||
        !each_word(settings->listen_addr, open_tcp, opening, fail)) {
        return false;
    }
    if (*opening->list == NULL) {
        return fail_set(
            fail, "58000", "nothing to listen on: listen_addr and unix_socket_dir are empty");
    }
    return true;
}

bool
listeners_open(const struct settings *settings, struct listener **inherited,
    struct listener **list, struct fail *fail)
{
    struct opening opening = {.list = list,
        .port = (int)settings->listen_port,
        .options = {.backlog = (int)settings->listen_backlog,
            .unix_mode = (mode_t)settings->unix_socket_mode,
            .unix_group = (gid_t)-1,
            .reuse_port = settings->so_reuseport,
            .defer_accept_s = (int)settings->tcp_defer_accept,
            .inherited = inherited}};

    if (use_managed(inherited, list)) {
        log_info("the service manager's sockets are used instead of listen_addr and "
                 "unix_socket_dir");
        return true;
    }
    return open_configured(settings, &opening, fail);
}

void
listeners_look_after(const struct settings *settings, const struct accepted *accepted)
{
    listen_look_after(accepted, &(struct listen_patience){.keepalive = settings->tcp_keepalive,
                                    .idle_s = (int)settings->tcp_keepidle,
                                    .interval_s = (int)settings->tcp_keepintvl,
                                    .count = (int)settings->tcp_keepcnt,
                                    .user_timeout_ms = (int)settings->tcp_user_timeout});
}
