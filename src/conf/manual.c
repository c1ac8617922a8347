/*
 * pgkeel.ini(5): --print-settings=man, which scripts/install puts where man finds it. The keys come
 * from settings.def; the words around them are here. Called by print.c.
 *
 * What is printed is roff with the macros of man(7): a line that begins with a dot is a request.
 */
#include "conf/internal.h"

static const char top[] =
    ".TH PGKEEL.INI 5 \"\" pgkeel \"File formats\"\n"
    ".nh\n"
    ".ad l\n"
    ".SH NAME\n"
    "pgkeel.ini \\- settings of the PostgreSQL connection pooler pgkeel\n"
    ".SH DESCRIPTION\n"
    "Lines are\n"
    ".IR \"key\" \" = \" value ,\n"
    "in the sections\n"
    ".BR [databases] ,\n"
    ".B [users]\n"
    "and\n"
    ".B [pgkeel]\n"
    "(also accepted as\n"
    ".BR [pgbouncer] :\n"
    "PgBouncer's own files are read).\n"
    "Lines that begin with ; or # are comments.\n"
    ".B %include\n"
    ".I file\n"
    "reads another file.\n"
    "Every mistake is reported at once, with its line;\n"
    ".B pgkeel --check pgkeel.ini\n"
    "does only that.\n"
    ".PP\n"
    "A duration is a number of seconds, or has a unit: 500ms, 5min, 1h, 1d.\n"
    "A size is a number of bytes, or has a unit: 64kB, 256MB, 1GB.\n"
    ".PP\n"
    "Reloading (SIGHUP, or RELOAD on the console) puts changed values into force, but for those\n"
    "that say \"needs a restart\".\n"
    ".SH DATABASES\n"
    ".IR name \" = \" \"connection string\"\n"
    ".PP\n"
    "Any connection string of libpq, as keywords or as a URL, with several hosts where there are\n"
    "several. The name * serves every database that has no line.\n"
    "When\n"
    ".B user\n"
    "and\n"
    ".B password\n"
    "are given, every client of the line is served as that user. These words are pgkeel's own:\n"
    ".BR pool_size ,\n"
    ".BR min_pool_size ,\n"
    ".B reserve_pool_size\n"
    "(also\n"
    ".BR reserve_pool ),\n"
    ".BR pool_mode ,\n"
    ".BR max_db_connections ,\n"
    ".BR max_db_client_connections ,\n"
    ".BR server_lifetime ,\n"
    ".BR query_wait_timeout ,\n"
    ".BR auth_user ,\n"
    ".BR auth_query ,\n"
    ".B auth_dbname\n"
    "and\n"
    ".BR password_command_ttl :\n"
    "the settings of these names, for this database alone.\n"
    ".TP\n"
    ".B connect_query\n"
    "Query that each new server connection runs first.\n"
    ".TP\n"
    ".B password_file\n"
    "File whose first line is the password towards PostgreSQL, read for each new connection.\n"
    ".TP\n"
    ".B password_command\n"
    "Command that writes that password.\n"
    ".TP\n"
    ".BR datestyle \", \" timezone\n"
    "Parameters that each new server connection begins with.\n"
    ".TP\n"
    ".B load_balance_hosts\n"
    "libpq's. PgBouncer's value round\\-robin is accepted, too: the hosts are tried in order.\n"
    ".PP\n"
    "Examples:\n"
    ".PP\n"
    ".EX\n"
    "app = host=db.example.org port=5432 dbname=app\n"
    "two = host=db1,db2 target_session_attrs=read-write pool_size=50\n"
    "url = postgresql://db.example.org/app?sslmode=verify-full&pool_size=10\n"
    "* = host=db.example.org\n"
    ".EE\n"
    ".SH USERS\n"
    ".IR name \" = \" \"key\" = value\\ ...\n"
    ".PP\n"
    "For the clients that log in with this name:\n"
    ".BR pool_size ,\n"
    ".BR reserve_pool_size ,\n"
    ".BR pool_mode ,\n"
    ".BR max_user_connections ,\n"
    ".BR max_user_client_connections ,\n"
    ".BR query_wait_timeout ,\n"
    ".BR query_timeout ,\n"
    ".BR transaction_timeout ,\n"
    ".BR idle_transaction_timeout ,\n"
    ".BR client_idle_timeout .\n"
    "They count before those of the database and the global ones.\n";

static const char bottom[] =
    ".SH ENVIRONMENT\n"
    "What is set here counts before the file.\n"
    ".TP\n"
    ".BI PGKEEL_ KEY\n"
    "Any key of the section [pgkeel]: PGKEEL_LISTEN_PORT=6432.\n"
    ".TP\n"
    ".BR DATABASE_URL \", \" DATABASE_URL_\\fINAME\\fP\n"
    "A database with its login:\n"
    "clients log in with the user and the password of the URL.\n"
    ".TP\n"
    ".I ..._FILE\n"
    "Each of these names, with _FILE behind it, is a file with the value.\n"
    ".SH SEE ALSO\n"
    ".BR pgkeel (1)\n";

/* Text of a key: no request, no escape, and a hyphen that can be copied. */
static void
print_roff(const char *text, FILE *to)
{
    if (*text == '.' || *text == '\'') {
        fputs("\\&", to);
    }
    for (; *text != '\0'; text++) {
        if (*text == '\\') {
            fputs("\\e", to);
        } else if (*text == '-') {
            fputs("\\-", to);
        } else {
            fputc(*text, to);
        }
    }
}

static void
print_key(const struct key *key, FILE *to)
{
    char allowed[120];

    print_allowed(key, allowed, sizeof(allowed));
    fprintf(to, ".TP\n.B %s\n", key->name);
    print_roff(key->help, to);
    fputs("\n.br\nDefault: ", to);
    print_roff(key->default_value[0] != '\0' ? key->default_value : "empty", to);
    if (allowed[0] != '\0') {
        fputs("; ", to);
        print_roff(allowed, to);
    }
    fprintf(to, "%s.\n", key->is_live ? "" : "; needs a restart");
}

void
manual_print(FILE *to)
{
    fputs(top, to);
    for (const struct printed_line *line = conf_lines; !print_is_end(line); line++) {
        if (line->key != NULL) {
            print_key(line->key, to);
        } else {
            fprintf(to, ".SH \"SETTINGS: %s\"\n", line->heading);
        }
    }
    fputs(bottom, to);
}
