"""How nbval compares: not pictures and pages, which differ by machine, nor logs, which are no result; longest first."""

SKIPPED = ("stderr", "text/html", "image/svg+xml", "application/vnd.plotly.v1+json")
# notebooks, so that no worker begins with one at the end
LONGEST = ("04", "08", "07", "13", "14", "12", "06", "05", "11", "03")


def pytest_collectstart(collector):
    if hasattr(collector, "skip_compare"):
        collector.skip_compare += SKIPPED


def pytest_collection_modifyitems(items):
    """Cells stay in order: the sort is stable."""
    items.sort(key=lambda item: LONGEST.index(n) if (n := item.path.name[:2]) in LONGEST else len(LONGEST))
