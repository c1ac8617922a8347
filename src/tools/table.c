/* Printing results. Called by tools/ctl and tools/top; calls libpq. */
#include "tools/table.h"

#include "base/buf.h"
#include "base/mem.h"
#include "base/text.h"

#include <libpq-fe.h>

enum
{
    OID_INT8 = 20,
    OID_INT4 = 23
};

/* ---- widths ---- */

/* Bytes of the character at text; what is no UTF-8 counts one by one. */
static int
char_len(const char *text)
{
    size_t len = text_utf8_len((const unsigned char *)text);

    return len > 0 ? (int)len : 1;
}

int
table_width(const char *text)
{
    int width = 0;

    for (; *text != '\0'; text += char_len(text)) {
        width++;
    }
    return width;
}

int
table_fit(const char *text, int width)
{
    int len = 0;

    while (text[len] != '\0' && width-- > 0) {
        len += char_len(text + len);
    }
    return len;
}

static bool
is_number(const PGresult *result, int column)
{
    return PQftype(result, column) == OID_INT4 || PQftype(result, column) == OID_INT8;
}

/* ---- plain ---- */

static int
column_width(const PGresult *result, int column)
{
    int width = table_width(PQfname(result, column));

    for (int row = 0; row < PQntuples(result); row++) {
        int own = table_width(PQgetvalue(result, row, column));
        width = own > width ? own : width;
    }
    return width;
}

/* What would spoil the lines becomes a dot. */
static void
add_visible(struct buf *line, const char *text)
{
    for (; *text != '\0'; text++) {
        buf_add_u8(line, (unsigned char)*text < ' ' || *text == 127 ? '.' : (uint8_t)*text);
    }
}

static void
add_cell(struct buf *line, const char *text, int width, bool is_right)
{
    int pad = width - table_width(text);

    buf_print(line, "%*s", is_right ? pad : 0, "");
    add_visible(line, text);
    buf_print(line, "%*s", is_right ? 0 : pad, "");
}

static void
put_line(struct buf *line)
{
    while (buf_len(line) > 0 && line->data[line->end - 1] == ' ') {
        line->end--;
    }
    fwrite(buf_head(line), 1, buf_len(line), stdout);
    putchar('\n');
    buf_clear(line);
}

static void
print_plain(const PGresult *result)
{
    int columns = PQnfields(result), rows = PQntuples(result);
    int *widths = mem_new(((size_t)columns + 1) * sizeof(int));
    struct buf line = {0};

    for (int i = 0; i < columns; i++) {
        widths[i] = column_width(result, i);
        int pad = widths[i] - table_width(PQfname(result, i));
        buf_print(&line, "%s%*s%s%*s ", i > 0 ? "| " : " ", pad / 2, "", PQfname(result, i),
            pad - pad / 2, "");
    }
    put_line(&line);
    for (int i = 0; i < columns; i++) {
        buf_print(&line, "%s", i > 0 ? "+" : "");
        for (int j = 0; j < widths[i] + 2; j++) {
            buf_add_u8(&line, '-');
        }
    }
    put_line(&line);
    for (int row = 0; row < rows; row++) {
        for (int i = 0; i < columns; i++) {
            buf_print(&line, "%s", i > 0 ? "| " : " ");
            add_cell(&line, PQgetvalue(result, row, i), widths[i], is_number(result, i));
            buf_add_u8(&line, ' ');
        }
        put_line(&line);
    }
    printf("(%d row%s)\n\n", rows, rows == 1 ? "" : "s");
    buf_deinit(&line);
    free(widths);
}

/* ---- CSV and JSON ---- */

static void
put_csv(const char *text)
{
    if (strpbrk(text, ",\"\r\n") == NULL) {
        fputs(text, stdout);
        return;
    }
    putchar('"');
    for (; *text != '\0'; text++) {
        if (*text == '"') {
            putchar('"');
        }
        putchar(*text);
    }
    putchar('"');
}

static void
print_csv(const PGresult *result)
{
    int columns = PQnfields(result);

    for (int row = -1; row < PQntuples(result); row++) {
        for (int i = 0; i < columns; i++) {
            if (i > 0) {
                putchar(',');
            }
            put_csv(row < 0 ? PQfname(result, i) : PQgetvalue(result, row, i));
        }
        fputs("\r\n", stdout);
    }
}

static void
put_json(const char *text)
{
    putchar('"');
    while (*text != '\0') {
        int len = char_len(text);
        unsigned char c = (unsigned char)*text;
        if (c == '"' || c == '\\') {
            printf("\\%c", c);
        } else if (c < ' ' || (len == 1 && c > 126)) {
            printf("\\u%04x", c);
        } else {
            printf("%.*s", len, text);
        }
        text += len;
    }
    putchar('"');
}

static void
print_json(const PGresult *result)
{
    putchar('[');
    for (int row = 0; row < PQntuples(result); row++) {
        fputs(row > 0 ? ", {" : "{", stdout);
        for (int i = 0; i < PQnfields(result); i++) {
            fputs(i > 0 ? ", " : "", stdout);
            put_json(PQfname(result, i));
            fputs(": ", stdout);
            if (PQgetisnull(result, row, i)) {
                fputs("null", stdout);
            } else if (is_number(result, i)) {
                fputs(PQgetvalue(result, row, i), stdout);
            } else {
                put_json(PQgetvalue(result, row, i));
            }
        }
        putchar('}');
    }
    puts("]");
}

void
table_print(const struct pg_result *result, enum table_form form)
{
    static void (*const printers[])(const PGresult *result) = {
        [TABLE_PLAIN] = print_plain, [TABLE_CSV] = print_csv, [TABLE_JSON] = print_json};

    printers[form](result);
}
