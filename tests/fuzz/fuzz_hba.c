/* pg_hba.conf and pg_ident.conf of any bytes, and who fits their rules. */
#include "conf/hba.h"

#include "base/mem.h"
#include "base/state.h"

#include <stdint.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void
report(void *arg, const char *path, int line, const char *text)
{
    ensure(path[0] != '\0' && line >= 0 && text[0] != '\0');
    *(size_t *)arg += 1;
}

/* A file of these bytes. Bounds of repetition are left out: regcomp() takes for ever with some. */
static int
make_file(char *path, size_t path_size, const uint8_t *data, size_t size)
{
    int fd = memfd_create("hba", MFD_CLOEXEC);
    uint8_t *copy = mem_new(size + 1);

    memcpy(copy, data, size);
    for (size_t i = 0; i < size; i++) {
        copy[i] = copy[i] == '{' ? '(' : copy[i];
    }
    ensure(fd >= 0 && write(fd, copy, size) == (ssize_t)size);
    snprintf(path, path_size, "/proc/self/fd/%d", fd);
    free(copy);
    return fd;
}

static void
look_up(const struct hba *hba)
{
    static const struct hba_client clients[] = {
        {.database = "app", .user = "app", .address = "127.0.0.1"},
        {.database = "app", .user = "ann", .address = "::1", .has_tls = true},
        {.database = "x", .user = "root"},
        {.database = "", .user = "rep", .address = "10.0.0.7", .is_replication = true},
    };

    for (size_t i = 0; i < sizeof(clients) / sizeof(clients[0]); i++) {
        const struct hba_rule *rule = hba_find(hba, &clients[i]);
        ensure(rule == NULL || (rule->method < HBA_METHODS && rule->line > 0));
        if (rule != NULL) {
            bool is_same = hba_maps(hba, rule, clients[i].user, clients[i].user);
            ensure(is_same || rule->map != NULL);
        }
    }
}

int
LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    const uint8_t *ident = memmem(data, size, "\n--\n", 4);
    size_t rules = ident != NULL ? (size_t)(ident - data) : size;
    char path[40], ident_path[40] = "";
    size_t mistakes = 0;
    int ident_file = -1;
    int file = make_file(path, sizeof(path), data, rules);

    if (ident != NULL) {
        ident_file = make_file(ident_path, sizeof(ident_path), ident + 4, size - rules - 4);
    }
    struct hba *hba = hba_read(path, ident_path, report, &mistakes);
    ensure((hba == NULL) == (mistakes > 0));
    if (hba != NULL) {
        look_up(hba);
    }
    hba_free(&hba);
    close(file);
    if (ident_file >= 0) {
        close(ident_file);
    }
    return 0;
}
