"""A plan in a real browser: its budget follows the slider into the link, and Back returns from the export to it."""

import re

import pytest
from playwright.sync_api import Page, expect

pytestmark = pytest.mark.browser


def test_the_slider_moves_the_budget_of_the_link_and_back_returns_to_it(server: str, page: Page):
    page.goto(f"{server}/plan")
    page.get_by_role("button", name="Measure them").click()
    export = page.get_by_role("button", name="Export this plan")
    expect(export).to_be_visible()
    field = page.locator(".st-key-budget input")
    expect(field).to_have_value("4.5bpw")
    page.get_by_role("slider").focus()
    page.keyboard.press("ArrowRight")
    expect(field).to_have_value(re.compile(r"^\d+kB$"))
    expect(page).to_have_url(re.compile(r"budget=\d+kB"))
    budget = field.input_value()
    expect(page.locator(".main-svg").first).to_be_visible()
    export.click()
    expect(page.get_by_role("heading", name="Export", exact=True)).to_be_visible()
    expect(page.get_by_text("decide what every tensor gets")).to_be_visible()
    page.go_back()
    expect(page.locator(".st-key-budget input")).to_have_value(budget)
