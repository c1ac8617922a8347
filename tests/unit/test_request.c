/* ops/request: what is taken from the head of an HTTP request, and what is refused. */
#include "ops/request.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <string.h>

#include <cmocka.h>

static enum request_result
parse(const char *text, struct request *request)
{
    return request_parse((const uint8_t *)text, strlen(text), request);
}

static void
test_what_is_taken(void **state)
{
    struct request request;

    (void)state;
    assert_int_equal(parse("HEAD /a/b?c=d&e HTTP/1.1\r\nhost: x:1\r\n"
                           "AUTHORIZATION:\tbearer  t0k3n \r\nOther: y\r\n\r\nbody",
                         &request),
        REQUEST_OK);
    assert_true(request.is_head);
    assert_string_equal(request.path, "/a/b");
    assert_string_equal(request.query, "c=d&e");
    assert_string_equal(request.host, "x:1");
    assert_string_equal(request.bearer, "t0k3n");
    assert_int_equal(parse("GET / HTTP/1.0\n\n", &request), REQUEST_OK);
    assert_false(request.is_head);
    assert_string_equal(request.bearer, "");
}

/* However it is cut, a good head is MORE until its last byte. */
static void
test_pieces(void **state)
{
    static const char whole[] = "GET /metrics HTTP/1.1\r\nHost: a\r\n\r\n";
    struct request request;

    (void)state;
    for (size_t len = 0; len < strlen(whole); len++) {
        assert_int_equal(request_parse((const uint8_t *)whole, len, &request), REQUEST_MORE);
    }
    assert_int_equal(parse(whole, &request), REQUEST_OK);
}

static void
test_what_is_refused(void **state)
{
    static const struct
    {
        const char *text;
        int status;
    } cases[] = {
        {"POST / HTTP/1.1\n", 405},
        {"GET /\n", 400},
        {"GET  / HTTP/1.1\n", 400},
        {"GET x HTTP/1.1\n", 400},
        {"GET / HTTP/3\n", 505},
        {"GET / FTP\n", 400},
        {"\n", 400},
        {"GET /\x01 HTTP/1.1\n", 400},
        {"GET /\xff HTTP/1.1\n", 400},
        {"GET / HTTP/1.1\nHost : a\n", 400},
        {"GET / HTTP/1.1\n Host: a\n", 400},
        {"GET / HTTP/1.1\nHost\n", 400},
        {"GET / HTTP/1.1\nHost: a\nHost: a\n", 400},
        {"GET / HTTP/1.1\nAuthorization: Bearer \x7f\n", 400},
    };
    struct request request;

    (void)state;
    for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
        assert_int_equal(parse(cases[i].text, &request), REQUEST_BAD);
        assert_int_equal(request.status, cases[i].status);
    }
}

static void
test_parameters(void **state)
{
    struct request request;
    char value[8];

    (void)state;
    assert_int_equal(parse("GET /?a=1&db=x%20+%c3%bc&e=%&f=%2&g=12345678&h=&a=2 HTTP/1.1\n\n",
                         &request),
        REQUEST_OK);
    assert_true(request_parameter(&request, "db", value, sizeof(value)));
    assert_string_equal(value, "x  \xc3\xbc");
    assert_true(request_parameter(&request, "a", value, sizeof(value)));
    assert_string_equal(value, "1");
    for (const char *name = "efghz"; *name != '\0'; name++) {
        char key[2] = {*name, '\0'};
        assert_false(request_parameter(&request, key, value, sizeof(value)));
    }
}

int
main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_what_is_taken),
        cmocka_unit_test(test_pieces),
        cmocka_unit_test(test_what_is_refused),
        cmocka_unit_test(test_parameters),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
