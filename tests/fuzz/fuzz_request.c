/* The head of an HTTP request: any bytes, at once and as they would arrive. */
#include "ops/request.h"

#include "base/state.h"

#include <string.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

int
LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct request request, part;
    char value[32];
    enum request_result result = request_parse(data, size, &request);

    ensure(result != REQUEST_BAD || (request.status >= 400 && request.status < 600));
    ensure(result != REQUEST_MORE || size < REQUEST_MAX);
    ensure(strlen(request.path) < sizeof(request.path));
    ensure(strlen(request.query) < sizeof(request.query));
    if (result == REQUEST_OK) {
        ensure(request.path[0] == '/' && request.status == 0);
        if (request_parameter(&request, "db", value, sizeof(value))) {
            ensure(value[0] != '\0' && strlen(value) < sizeof(value));
        }
    }
    /* Less of it is never better: what is refused in part is refused as a whole. */
    for (size_t len = 0; len < size && len < 64; len++) {
        if (request_parse(data, len, &part) == REQUEST_BAD) {
            ensure(result == REQUEST_BAD && request.status == part.status);
        }
    }
    return 0;
}
