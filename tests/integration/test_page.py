"""The status page in a real browser: what it says before, in and after an outage, on screens of all sizes."""
import pytest

from harness import free_port
from harness import wire as w
from harness.browser import PROGRAM, Browser
from harness.web import Web

pytestmark = pytest.mark.skipif(PROGRAM is None, reason="Chromium is not installed")

EVIL = "<img src=x onerror=document.title='taken'><script>1</script>"
SCREENS = {"phone": (390, 844), "desktop": (1440, 900), "wall": (2560, 1440)}


@pytest.fixture(scope="module")
def browser():
    browser = Browser()
    yield browser
    browser.close()


def start(start_pooler, postgres, databases=None, **settings):
    port = free_port()
    pooler = start_pooler(postgres, databases=databases, http_listen=f"127.0.0.1:{port}", **settings)
    return pooler, Web(port), f"http://127.0.0.1:{port}/"


def shown(browser, url, screen="desktop", dark=False):
    browser.events.clear()
    browser.look(*SCREENS[screen], dark)
    browser.go(url)
    browser.wait(f"location.href === '{url}' && document.body && document.body.dataset.shown")


def test_page_tells_of_an_outage_from_beginning_to_end(fresh_postgres, start_pooler, browser):
    server = fresh_postgres()
    pooler, _, url = start(start_pooler, server, pool_size=3)
    with pooler.wire(timeout=30) as wire:
        wire.value("SELECT 1")
        shown(browser, url)
        browser.wait("document.querySelector('.pool h3')")
        text = browser.text()
        assert "All is well" in text and "no outage" in text and f"127.0.0.1:{server.port}" in text

        server.stop("fast")
        wire.send_raw(w.query("SELECT 2"))
        browser.wait("document.querySelector('#verdict.bad') && document.querySelector('#incidents .chip')")
        text = browser.text()
        assert "has not answered for" in text and "1 client waits, no client has seen an error" in text
        assert "0 errors seen by clients" in text and "down" in text

        server.start()
        assert w.errors(wire.recv_until()) == []
        browser.wait("document.querySelector('#headline').textContent === 'All is well'"
                     " && document.querySelector('#subline').textContent.includes('no client saw an error')")
        assert "the longest wait was" in browser.text()
    assert browser.complaints() == []


def test_pins_transactions_and_pools_are_named(postgres, start_pooler, browser):
    pooler, _, url = start(start_pooler, postgres, pool_size=3)
    with pooler.wire() as one, pooler.wire("ann") as two, pooler.wire("ann") as three:
        one.query("BEGIN")
        two.query("CREATE TEMPORARY TABLE t (n int)")
        three.value("SELECT 1")
        shown(browser, url)
        text = browser.wait("document.body.innerText.includes('temporary table') && document.body.innerText"
                            ".includes('idle in transaction') && document.body.innerText")
        for words in ("app / ann", "1 × temporary table", "1 client pinned", "Longest transactions", "p99"):
            assert words in text, words


def test_name_is_never_markup(postgres, start_pooler, browser):
    databases = {f'"{EVIL}"': f"host=127.0.0.1 port={postgres.port} dbname=app"}
    pooler, _, url = start(start_pooler, postgres, databases)
    with pooler.wire(db=EVIL) as wire:
        wire.query("BEGIN")
        shown(browser, url)
        text = browser.wait("document.body.innerText.includes('<script>') && document.body.innerText")
    assert EVIL in text
    assert browser.run("document.querySelectorAll('main script, main img').length") == 0
    assert browser.run("document.title").startswith("pgkeel")


def test_policy_lets_no_foreign_script_run(postgres, start_pooler, browser):
    """Even if markup got in: it lacks the number, which is another one each time."""
    _, web, url = start(start_pooler, postgres)
    shown(browser, url)
    browser.run("""document.body.insertAdjacentHTML('beforeend', '<img src=x onerror="window.taken = 1">');
                   { const script = document.createElement('script'); script.textContent = 'window.taken = 1';
                     document.body.append(script); }""")
    assert any("Content Security Policy" in str(complaint) for complaint in browser.complaints())
    assert browser.run("window.taken") is None
    first, second = web.ask("/"), web.ask("/")
    assert first.headers["content-security-policy"] != second.headers["content-security-policy"]
    assert "unsafe" not in first.headers["content-security-policy"] and "@@" not in first.body


def test_page_asks_nobody_else(postgres, start_pooler, browser):
    _, _, url = start(start_pooler, postgres)
    shown(browser, url)
    browser.wait("performance.getEntriesByType('resource').length > 1")
    assert all(address.startswith((url, "data:")) for address in browser.requests())
    assert browser.complaints() == []


def test_page_fits_every_screen(postgres, start_pooler, browser):
    pooler, _, url = start(start_pooler, postgres, pool_size=3)
    with pooler.wire() as one, pooler.wire("ann") as two:
        one.query("BEGIN")
        two.query("CREATE TEMPORARY TABLE t (n int)")
        for screen, dark in [(screen, dark) for screen in SCREENS for dark in (False, True)]:
            shown(browser, url, screen, dark)
            browser.wait("document.querySelectorAll('.pool').length === 2")
            assert browser.run("document.documentElement.scrollWidth <= innerWidth"), screen
            # Words can be told from what they stand on (WCAG AA), also those that warn.
            assert browser.run(CONTRAST) >= 4.5, dark
            # The charts have something on them.
            assert browser.run("""[...document.querySelectorAll('.pool canvas, #axis')].every(c =>
                c.getContext('2d').getImageData(0, 0, c.width, c.height).data.some(x => x > 0))"""), (screen, dark)


CONTRAST = """(() => {
    const style = getComputedStyle(document.documentElement);
    const light = name => {
        const hex = style.getPropertyValue('--' + name).trim().replace(/^#(.)(.)(.)$/, '#$1$1$2$2$3$3');
        const [r, g, b] = [1, 3, 5].map(i => parseInt(hex.slice(i, i + 2), 16) / 255)
            .map(x => x <= .03928 ? x / 12.92 : ((x + .055) / 1.055) ** 2.4);
        return .2126 * r + .7152 * g + .0722 * b;
    };
    const ratio = (a, b) => (Math.max(light(a), light(b)) + .05) / (Math.min(light(a), light(b)) + .05);
    return Math.min(...['text', 'muted', 'bad', 'good'].flatMap(x => [ratio(x, 'card'), ratio(x, 'bg')]), ratio('wait', 'card'));
})()"""


def test_token_is_asked_for_and_kept(postgres, start_pooler, browser):
    _, _, url = start(start_pooler, postgres, http_token="sesame")
    browser.look(*SCREENS["phone"])
    browser.go(url)
    browser.wait("document.querySelector('.locked #login')")
    assert "pool" not in browser.text().lower().replace("pgkeel", "")
    browser.run("document.querySelector('#token').value = 'sesame'; document.querySelector('#login').requestSubmit()")
    browser.wait("document.body.dataset.shown && !document.body.classList.contains('locked')")
    browser.run("sessionStorage.clear()")


def test_page_says_when_it_hears_nothing(postgres, start_pooler, browser):
    pooler, _, url = start(start_pooler, postgres)
    shown(browser, url)
    assert "live" in browser.text()
    pooler.stop()
    browser.wait("document.querySelector('#live.stale')")
    assert "no news for" in browser.text()
