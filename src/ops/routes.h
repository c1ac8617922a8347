/*
 * What the HTTP listener answers: a table of paths, and who may ask for them. Runs in the thread of
 * ops/http.
 */
#pragma once

#include "base/buf.h"
#include "ops/history.h"
#include "ops/request.h"

struct daemon;

/* What answers are made of. */
struct desk
{
    struct daemon *daemon;   /* borrows */
    struct history history;  /* owns */
    const char *token;       /* borrows; "" when everybody may look */
    bool is_local;           /* listens on the loopback only */
};

struct answer
{
    int status;
    const char *type;    /* Content-Type; borrows for ever */
    char headers[512];   /* more of them, each with its end */
    struct buf body;     /* owns */
};

/* Answers a request; of a bad one (status not 0) only that is read. */
void routes_answer(struct desk *desk, const struct request *request, struct answer *answer_out);

/* "405 Method Not Allowed" */
const char *routes_status_text(int status);
