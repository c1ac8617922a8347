/* Session settings as sorted bytes. Called by pool/backend and client/params; calls base. */
#include "pool/vars.h"

#include "base/mem.h"
#include "base/text.h"

#include <strings.h>

void
vars_deinit(struct vars *vars)
{
    free(vars->bytes);
    memset(vars, 0, sizeof(*vars));
}

void
vars_copy(struct vars *to, const struct vars *from)
{
    if (vars_are_equal(to, from)) {
        return;
    }
    to->version++;
    to->bytes = mem_resize(to->bytes, from->len + 1);
    if (from->len > 0) {
        memcpy(to->bytes, from->bytes, from->len);
    }
    to->len = from->len;
}

/* Length of the pair at offset. */
static uint32_t
pair_len(const struct vars *vars, uint32_t offset)
{
    const char *name = vars->bytes + offset;
    size_t name_len = strlen(name) + 1;
    return (uint32_t)(name_len + strlen(name + name_len) + 1);
}

/* Where the name is, or where it belongs. */
static bool
locate(const struct vars *vars, const char *name, uint32_t *offset_out)
{
    uint32_t offset = 0;

    while (offset < vars->len) {
        int order = strcasecmp(vars->bytes + offset, name);
        if (order >= 0) {
            *offset_out = offset;
            return order == 0;
        }
        offset += pair_len(vars, offset);
    }
    *offset_out = offset;
    return false;
}

/* Replaces old_len bytes at offset by new_len bytes of room. */
static void
splice(struct vars *vars, uint32_t offset, uint32_t old_len, uint32_t new_len)
{
    if (new_len > old_len) {
        vars->bytes = mem_resize(vars->bytes, vars->len + new_len - old_len);
    }
    memmove(vars->bytes + offset + new_len, vars->bytes + offset + old_len,
        vars->len - offset - old_len);
    vars->len += new_len - old_len;
}

void
vars_put(struct vars *vars, const char *name, const char *value)
{
    uint32_t offset;
    bool is_there = locate(vars, name, &offset);
    uint32_t name_len = (uint32_t)strlen(name) + 1;
    uint32_t value_len = (uint32_t)strlen(value) + 1;

    if (is_there) {
        const char *old = vars->bytes + offset + name_len;
        if (strcmp(old, value) == 0) {
            return;
        }
        splice(vars, offset + name_len, (uint32_t)strlen(old) + 1, value_len);
    } else {
        splice(vars, offset, 0, name_len + value_len);
        memcpy(vars->bytes + offset, name, name_len);
    }
    memcpy(vars->bytes + offset + name_len, value, value_len);
    vars->version++;
}

void
vars_remove(struct vars *vars, const char *name)
{
    uint32_t offset;

    if (locate(vars, name, &offset)) {
        splice(vars, offset, pair_len(vars, offset), 0);
        vars->version++;
    }
}

const char *
vars_find(const struct vars *vars, const char *name)
{
    uint32_t offset;

    if (!locate(vars, name, &offset)) {
        return NULL;
    }
    return vars->bytes + offset + strlen(name) + 1;
}

bool
vars_next(const struct vars *vars, uint32_t *cursor, const char **name_out, const char **value_out)
{
    if (*cursor >= vars->len) {
        return false;
    }
    *name_out = vars->bytes + *cursor;
    *value_out = *name_out + strlen(*name_out) + 1;
    *cursor += pair_len(vars, *cursor);
    return true;
}

/* set_config() takes lists (search_path) as people write them, where SET 'a, b' would be one name.
 */
static void
add_set(struct buf *sql, const char *name, const char *value)
{
    buf_print(sql, "SELECT pg_catalog.set_config(");
    text_quote_literal(sql, name);
    buf_print(sql, ",");
    text_quote_literal(sql, value);
    buf_print(sql, ",false);");
}

void
vars_sql(const struct vars *from, const struct vars *to, struct buf *sql)
{
    const char *name, *value;
    uint32_t cursor = 0;

    while (vars_next(from, &cursor, &name, &value)) {
        if (vars_find(to, name) == NULL) {
            buf_print(sql, "RESET ");
            text_quote_identifier(sql, name);
            buf_print(sql, ";");
        }
    }
    cursor = 0;
    while (vars_next(to, &cursor, &name, &value)) {
        const char *old = vars_find(from, name);
        if (old == NULL || strcmp(old, value) != 0) {
            add_set(sql, name, value);
        }
    }
}
