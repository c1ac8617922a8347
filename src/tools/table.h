/*
 * Results on standard output: as psql prints them, as CSV (RFC 4180), or as JSON, one array of
 * objects a line.
 */
#pragma once

struct pg_result;

enum table_form
{
    TABLE_PLAIN,
    TABLE_CSV,
    TABLE_JSON
};

void table_print(const struct pg_result *result, enum table_form form);

/* Columns on a screen that the text takes, and its first bytes that fit into so many. */
int table_width(const char *text);
int table_fit(const char *text, int width);
