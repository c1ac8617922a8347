/*
 * Names that clients chose, where they could be taken for something else: in JSON and in the labels
 * of Prometheus. What is no UTF-8 becomes U+FFFD.
 */
#pragma once

#include "base/buf.h"

/* A JSON string with its quotes; also harmless inside of HTML. NULL: null. */
void escape_json(struct buf *buf, const char *text);

/* The value of a label, without quotes. */
void escape_label(struct buf *buf, const char *text);
