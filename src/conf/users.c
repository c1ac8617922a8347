/* The users and their secrets, in a hash. Called from settings.c while loading, by everybody to
 * look up. */
#include "conf/users.h"

#include "base/mem.h"
#include "base/text.h"
#include "wire/scram.h"

#include <ctype.h>
#include <string.h>
#include <uthash.h>

enum { NAME_SIZE = 128, SECRET_SIZE = 2048 }; /* PgBouncer's limits */

struct entry
{
    struct user user;
    char *name;   /* owns */
    char *secret; /* owns; wiped */
    UT_hash_handle hh;
};

struct users
{
    struct entry *entries;
    size_t verifiers; /* how many of their secrets are */
};

struct users *
users_new(void)
{
    return mem_new(sizeof(struct users));
}

void
users_free(struct users **users)
{
    struct entry *entry;
    struct entry *next;

    if (*users == NULL) {
        return;
    }
    HASH_ITER(hh, (*users)->entries, entry, next)
    {
        HASH_DEL((*users)->entries, entry);
        text_wipe(&entry->secret);
        free(entry->name);
        free(entry);
    }
    free(*users);
    *users = NULL;
}

enum secret_kind
users_kind(const char *secret)
{
    if (scram_is_verifier(secret)) {
        return SECRET_SCRAM;
    }
    if (strncmp(secret, "md5", 3) == 0 && strlen(secret) == 35 &&
        strspn(secret + 3, "0123456789abcdef") == 32) {
        return SECRET_MD5;
    }
    return SECRET_PLAIN;
}

static struct entry *
find(const struct users *users, const char *name)
{
    struct entry *entry;

    HASH_FIND_STR(users->entries, name, entry);
    return entry;
}

void
users_add(struct users *users, const char *name, const char *secret)
{
    struct entry *entry = find(users, name);

    if (entry == NULL) {
        entry = mem_new(sizeof(*entry));
        entry->name = mem_string(name);
        HASH_ADD_KEYPTR(hh, users->entries, entry->name, strlen(entry->name), entry);
    }
    users->verifiers -= entry->secret != NULL && entry->user.kind == SECRET_SCRAM;
    text_wipe(&entry->secret);
    entry->secret = mem_string(secret);
    entry->user.name = entry->name;
    entry->user.secret = entry->secret;
    entry->user.kind = users_kind(secret);
    users->verifiers += entry->user.kind == SECRET_SCRAM;
}

const struct user *
users_find(const struct users *users, const char *name)
{
    struct entry *entry = find(users, name);

    return entry == NULL ? NULL : &entry->user;
}

bool
users_have_verifiers(const struct users *users)
{
    return users->verifiers > 0;
}

size_t
users_count(const struct users *users)
{
    return HASH_COUNT(users->entries);
}

/* Reads "text" with doubled quotes from *at; NULL, or why not. */
static const char *
read_quoted(const char **at, const char *end, char *to, size_t size)
{
    const char *in = *at;
    size_t len = 0;

    while (in < end && (*in == ' ' || *in == '\t')) {
        in++;
    }
    if (in == end || *in != '"') {
        return "expected \"name\" \"secret\"";
    }
    for (in++; in < end; in++) {
        if (*in == '\0') {
            return "contains a zero byte";
        }
        if (*in == '"' && (in + 1 == end || in[1] != '"')) {
            to[len] = '\0';
            *at = in + 1;
            return NULL;
        }
        in += *in == '"' ? 1 : 0;
        if (len + 1 >= size) {
            return "too long";
        }
        to[len++] = *in;
    }
    return "a quote is not closed";
}

/* A damaged verifier would refuse every password, without a word why. */
static const char *
check_secret(const char *secret)
{
    struct scram_verifier verifier;

    if (!scram_is_verifier(secret)) {
        return NULL;
    }
    bool is_good = scram_verifier_parse(secret, &verifier);
    scram_verifier_wipe(&verifier);
    return is_good ? NULL : "expected SCRAM-SHA-256$iterations:salt$StoredKey:ServerKey";
}

static const char *
parse_line(struct users *users, const char *line, const char *end)
{
    char name[NAME_SIZE];
    char secret[SECRET_SIZE];

    while (line < end && isspace((unsigned char)*line)) {
        line++;
    }
    if (line == end || *line == ';' || *line == '#') {
        return NULL;
    }
    const char *why = read_quoted(&line, end, name, sizeof(name));
    if (why == NULL && name[0] == '\0') {
        why = "the name is empty";
    }
    if (why == NULL) {
        why = read_quoted(&line, end, secret, sizeof(secret));
    }
    if (why == NULL) {
        why = check_secret(secret);
    }
    if (why == NULL) {
        users_add(users, name, secret);
    }
    explicit_bzero(secret, sizeof(secret));
    return why;
}

bool
users_parse(struct users *users, const char *text, size_t len, users_report_fn *report, void *arg)
{
    const char *end = text + len;
    bool is_good = true;

    for (int line = 1; text < end; line++) {
        const char *newline = memchr(text, '\n', (size_t)(end - text));
        const char *line_end = newline == NULL ? end : newline;
        const char *why = parse_line(users, text, line_end);

        if (why != NULL) {
            is_good = false;
            report(arg, line, why);
        }
        text = newline == NULL ? end : newline + 1;
    }
    return is_good;
}
