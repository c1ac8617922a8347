/*
 * The status page (page.html), as bytes of the program. It loads nothing from anywhere.
 */
#pragma once

#include <stdint.h>

extern const uint8_t page_html[], page_html_end[];
