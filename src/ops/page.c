/* The page's bytes, put here by the assembler; the path is seen from where make runs. */
#include "ops/page.h"

__asm__(".pushsection .rodata\n"
        ".global page_html, page_html_end\n"
        "page_html: .incbin \"src/ops/page.html\"\n"
        "page_html_end: .byte 0\n"
        ".popsection\n");
