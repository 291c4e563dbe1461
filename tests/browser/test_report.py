"""A report in a browser: alone, offline, on a phone, in the dark, and with names that would like to run."""

import pytest

from quantlab.reporting import report
from tests.reporting.models import HOSTILE, layers, measured, write

pytestmark = pytest.mark.browser


@pytest.mark.parametrize(("width", "scheme"), [(1366, "light"), (390, "dark")])
def test_a_report_asks_nobody_and_fits_the_screen(browser, tmp_path, width, scheme):
    checkpoint, table, problem = measured(write(tmp_path / "model.safetensors", [*layers(), *HOSTILE]))
    with checkpoint:
        path = report(checkpoint, table, problem.solve("6bpw"), problem=problem).save(tmp_path / "report.html")
    context = browser.new_context(viewport={"width": width, "height": 800}, color_scheme=scheme, offline=True)
    page, asked, said = context.new_page(), [], []
    page.on("request", lambda request: asked.append(request.url))
    page.on("console", lambda message: said.append(message.text))
    page.on("dialog", lambda dialog: said.append(dialog.message))
    page.goto(path.as_uri())
    assert asked == [path.as_uri()] and said == []
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    ground = page.evaluate("getComputedStyle(document.body).backgroundColor")
    assert ground == ("rgb(255, 255, 255)" if scheme == "light" else "rgb(18, 24, 31)")
    page.get_by_text("All 18 tensors").click()
    assert page.get_by_text(HOSTILE[0], exact=True).first.is_visible()
    page.emulate_media(media="print")
    assert page.evaluate("getComputedStyle(document.body).backgroundColor") == "rgb(255, 255, 255)"
    context.close()
