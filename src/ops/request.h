/*
 * The head of an HTTP request, read from bytes that anybody may have sent. Only what the listener
 * of ops/http needs: method, path, query, and two headers. No I/O, no memory of its own.
 */
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

enum
{
    REQUEST_MAX = 8192, /* bytes of a head */
    REQUEST_PATH_MAX = 64,
    REQUEST_QUERY_MAX = 256,
    REQUEST_HEADER_MAX = 512
};

enum request_result
{
    REQUEST_MORE, /* goes on; more bytes are needed */
    REQUEST_OK,
    REQUEST_BAD, /* request->status says how to refuse it */
};

struct request
{
    int status;   /* of a bad one: 400, 405, 414, 431, 505 */
    bool is_head; /* HEAD instead of GET: the answer has no body */
    char path[REQUEST_PATH_MAX];
    char query[REQUEST_QUERY_MAX];   /* what follows "?", as it came */
    char host[REQUEST_HEADER_MAX];   /* "" when there is none */
    char bearer[REQUEST_HEADER_MAX]; /* token of "Authorization: Bearer", or "" */
};

enum request_result request_parse(const uint8_t *data, size_t len, struct request *request_out);

/* The decoded value of a parameter of the query; false when it is not there, and when it is not
 * right: too long, empty, or with a bad escape. */
bool request_parameter(const struct request *request, const char *name, char *value, size_t size);
